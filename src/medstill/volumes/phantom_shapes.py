"""Shapes of the CT phantom in body coordinates: ellipsoids, bent tubes, smooth random fields.

A patient is drawn in a standard body, in mm from the centre of the abdomen: `u` to the left, `v` to
the back, `w` to the head (the L, P and S of the physical frame). Arrays are `Z Y X`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float32]
Point = tuple[float, float, float]


@dataclass(frozen=True)
class Body:
    """Body coordinates of every voxel, and smooth random fields of unit size on the same grid."""

    u: Field
    v: Field
    w: Field
    fields: tuple[Field, ...]


def smooth_field(
    rng: np.random.Generator, shape_zyx: tuple[int, int, int], knots_zyx: tuple[int, int, int]
) -> Field:
    """A smooth random field: a uniform cubic B-spline with random weights.

    Args:
        rng: The source of chance.
        shape_zyx: Shape of the field.
        knots_zyx: Spans of the spline along each axis: more of them, finer detail.

    Returns:
        Field of about zero mean and unit standard deviation.
    """
    weights = rng.standard_normal([knots + 3 for knots in knots_zyx])
    bases = [_basis(n, knots) for n, knots in zip(shape_zyx, knots_zyx, strict=True)]
    # einsum without BLAS: the sums are the same whatever the number of threads.
    weights = np.einsum("xc,abc->abx", bases[2], weights)
    weights = np.einsum("yb,abx->ayx", bases[1], weights).astype(np.float32)
    field = np.einsum("za,ayx->zyx", bases[0].astype(np.float32), weights)
    # A uniform cubic B-spline of unit weights has a standard deviation of .48^(1/2) per axis.
    return np.asarray(field / np.float32(0.48**1.5), dtype=np.float32)


def _basis(n: int, spans: int) -> NDArray[np.float64]:
    place = (np.arange(n) + 0.5) / n * spans
    distance = np.abs(place[:, None] - (np.arange(spans + 3)[None] - 1))
    near = 2 / 3 - distance**2 + distance**3 / 2
    far = np.clip(2 - distance, 0, None) ** 3 / 6
    return np.where(distance < 1, near, far)


def ellipsoid(body: Body, centre: Point, half: Point, turn: float = 0.0) -> Field:
    """Approximate signed distance in mm to an ellipsoid, negative inside.

    Args:
        body: Body coordinates.
        centre: Centre `u v w` in mm.
        half: Half axes in mm.
        turn: Turn about the long axis of the body, in radians.
    """
    du, dv = body.u - np.float32(centre[0]), body.v - np.float32(centre[1])
    c, s = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    squared = ((c * du + s * dv) / np.float32(half[0])) ** 2
    squared += ((c * dv - s * du) / np.float32(half[1])) ** 2
    squared += ((body.w - np.float32(centre[2])) / np.float32(half[2])) ** 2
    return np.asarray((np.sqrt(squared) - 1) * np.float32(min(half)), dtype=np.float32)


def tube(
    body: Body, points: Sequence[Point], radii: Sequence[float] | NDArray[np.float64]
) -> Field:
    """Signed distance in mm to a bent tube through `points`, negative inside."""
    distance = np.full(body.u.shape, np.inf, dtype=np.float32)
    for i in range(len(points) - 1):
        start = np.array(points[i], dtype=np.float32)
        step = np.array(points[i + 1], dtype=np.float32) - start
        du, dv, dw = body.u - start[0], body.v - start[1], body.w - start[2]
        along = (du * step[0] + dv * step[1] + dw * step[2]) / np.float32(step @ step)
        np.clip(along, 0, 1, out=along)
        squared = (du - along * step[0]) ** 2 + (dv - along * step[1]) ** 2
        squared += (dw - along * step[2]) ** 2
        radius = np.float32(radii[i]) + along * np.float32(radii[i + 1] - radii[i])
        np.minimum(distance, np.sqrt(squared) - radius, out=distance)
    return distance


def around(rng: np.random.Generator, point: Point, spread: float) -> Point:
    """A place within `spread` mm of `point` along each axis."""
    shift = rng.uniform(-spread, spread, size=3)
    return point[0] + shift[0], point[1] + shift[1], point[2] + shift[2]
