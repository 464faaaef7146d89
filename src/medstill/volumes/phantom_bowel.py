"""The bowel of the CT phantom: loops that look like the labelled organs at close range.

None of it is labelled. The colon lies at the flanks like spleen and liver, its transverse part and
distended loops lie at the front like the stomach, and bright loops lie beside the spine like the
kidneys, all with the HU of the organ they resemble: only a wide view of the slice tells them apart.
Coordinates are those of `phantom_shapes`, arrays are `Z Y X`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from medstill.volumes.phantom_shapes import Body, Field, Point, around, tube
from medstill.volumes.phantom_tissues import Anatomy, Mask, Tissue


def lay_bowel(rng: np.random.Generator, body: Body, anatomy: Anatomy, inside: Field) -> None:
    """Lay small bowel, colon, decoys of the organs, and the pancreas into the abdomen.

    Args:
        rng: The source of chance.
        body: Body coordinates.
        anatomy: The volume to paint on.
        inside: Depth in mm below the inner wall of the abdomen.
    """
    for _ in range(rng.integers(18, 25)):
        start = rng.uniform((-85, -75, -110), (90, 5, -5))
        bends = [start, *(start + np.cumsum(rng.uniform(-32, 32, size=(2, 3)), axis=0))]
        points: list[Point] = [(float(p[0]), float(p[1]), float(p[2])) for p in bends]
        radii = rng.uniform(11, 19) * rng.uniform(0.85, 1.15, size=3)
        content = Tissue.BRIGHT_BOWEL if rng.uniform() < 0.22 else Tissue.BOWEL
        _loop(rng, body, anatomy, inside, (points, radii, content))
    _distended(rng, body, anatomy, inside)
    _colon(rng, body, anatomy, inside)
    _beside_the_spine(rng, body, anatomy, inside)
    head, tail = around(rng, (-28, 8, -8), 6), around(rng, (62, 18, 34), 8)
    pancreas = tube(body, [head, around(rng, (8, -6, 14), 5), tail], [15, 11, 10])
    anatomy.paint((pancreas + body.fields[5] * 2.5 < 0) & (inside > 3), Tissue.PANCREAS)


Loop = tuple[Sequence[Point], NDArray[np.float64], Tissue]


def _loop(
    rng: np.random.Generator, body: Body, anatomy: Anatomy, inside: Field, loop: Loop
) -> None:
    points, radii, content = loop
    ripple, share = int(rng.integers(3, 6)), rng.uniform(-0.5, 0.4)
    slices = _slices(body, points, float(radii.max()) + 12)
    part = Body(
        body.u[slices], body.v[slices], body.w[slices], tuple(f[slices] for f in body.fields)
    )
    if part.u.size == 0:
        return
    canvas = Anatomy(anatomy.tissue_ZYX[slices], anatomy.label_ZYX[slices])
    depth, fits = tube(part, points, radii) + part.fields[ripple] * 2, inside[slices] > 2.5
    canvas.paint((depth < 3) & fits, Tissue.FAT)
    canvas.paint((depth < 0) & fits, Tissue.BOWEL)
    canvas.paint((depth < -3) & fits, content)
    fill_with_gas(part, canvas, (depth < -3) & fits, share)


def _slices(body: Body, points: Sequence[Point], margin: float) -> slice:
    """The slices that a loop can touch."""
    heights = [point[2] for point in points]
    touched = (body.w.max(axis=(1, 2)) > min(heights) - margin) & (
        body.w.min(axis=(1, 2)) < max(heights) + margin
    )
    if not touched.any():
        return slice(0, 0)
    first, last = np.flatnonzero(touched)[[0, -1]]
    return slice(int(first), int(last) + 1)


def _distended(rng: np.random.Generator, body: Body, anatomy: Anatomy, inside: Field) -> None:
    """Wide loops at the front, such as the stomach, on either side."""
    for side in (-1.0, 1.0, 1.0):
        start = around(rng, (side * 42, -42, -58), 18)
        end = around(rng, (side * 12, -50, -66), 18)
        radii = rng.uniform(20, 31, size=2)
        _loop(rng, body, anatomy, inside, ([start, end], radii, Tissue.BOWEL))


def _colon(rng: np.random.Generator, body: Body, anatomy: Anatomy, inside: Field) -> None:
    ascending: list[Point] = [(-100, 22, -130), (-98, 14, -70), (-92, -10, -38)]
    transverse: list[Point] = [(-92, -30, -38), (0, -72, -34), (88, -34, -8)]
    descending: list[Point] = [(104, 36, -130), (106, 34, -50), (104, 18, 0)]
    for course, low, high in (
        (transverse, 16, 23),
        (ascending, 21, 32),
        (descending, 21, 31),
    ):
        points = [around(rng, point, 8) for point in course]
        radii = rng.uniform(low, high, size=3)
        _loop(rng, body, anatomy, inside, (points, radii, Tissue.BOWEL))


def _beside_the_spine(
    rng: np.random.Generator, body: Body, anatomy: Anatomy, inside: Field
) -> None:
    """Bright loops where the kidneys would be, but below them."""
    for side in (-1.0, 1.0):
        top, bottom = around(rng, (side * 60, 34, -78), 8), around(rng, (side * 66, 30, -130), 8)
        radii = rng.uniform(19, 27, size=2)
        _loop(rng, body, anatomy, inside, ([top, bottom], radii, Tissue.BRIGHT_BOWEL))


def fill_with_gas(body: Body, anatomy: Anatomy, where: Mask, share: float) -> None:
    """Fill the front part of a hollow organ with gas: a share of its extent front to back."""
    if share <= 0 or not where.any():
        return
    low, high = body.v[where].min(), body.v[where].max()
    gas = where & (body.v < low + np.float32(share) * (high - low))
    anatomy.tissue_ZYX[gas] = Tissue.GAS
