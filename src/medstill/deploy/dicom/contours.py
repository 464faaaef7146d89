"""Outlines of masks as closed polygons, holes joined to them by keyholes.

A polygon runs half-way between the centres of the voxels inside and those outside (marching
squares), so whoever fills it by the centres of voxels gets the mask back exactly.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from contourpy import FillType, contour_generator
from numpy.typing import NDArray

Points = NDArray[np.float64]


def outlines(mask_YX: NDArray[np.bool_]) -> list[Points]:
    """The outlines of a mask in one slice.

    Args:
        mask_YX: The mask.

    Returns:
        For each connected part the corners `(n, 2)` of a polygon that closes by itself: x and y in
        voxels, 0 at the centre of the first. A hole is cut in through a channel without width, as
        DICOM PS3.3 C.8.8.6.3 describes it.
    """
    rows, columns = np.flatnonzero(mask_YX.any(axis=1)), np.flatnonzero(mask_YX.any(axis=0))
    if not len(rows):
        return []
    top, left = rows[0], columns[0]
    padded = np.pad(mask_YX[top : rows[-1] + 1, left : columns[-1] + 1], 1).astype(np.float64)
    generator = contour_generator(z=padded, fill_type=FillType.OuterOffset)
    filled: Any = generator.filled(0.5, 1.5)
    parts, offsets = filled
    first = np.array([left - 1.0, top - 1.0])
    return [
        first + _joined([_corners(part[start:stop]) for start, stop in itertools.pairwise(ends)])
        for part, ends in zip(parts, offsets, strict=True)
    ]


def _corners(closed: Points) -> Points:
    """A ring without its repeated last point and without points on a straight line."""
    ring = closed[:-1]
    to_next = np.roll(ring, -1, axis=0) - ring
    to_here = np.roll(to_next, 1, axis=0)
    turns = to_here[:, 0] * to_next[:, 1] - to_here[:, 1] * to_next[:, 0]
    corners: Points = ring[turns != 0.0]
    return corners


def _joined(rings: list[Points]) -> Points:
    """The first ring with all others cut into it, the nearest first."""
    outline, holes = rings[0], rings[1:]
    while holes:
        gaps = [_nearest(outline, hole) for hole in holes]
        best = min(range(len(holes)), key=lambda index: gaps[index][0])
        _, here, there = gaps[best]
        hole = np.roll(holes.pop(best), -there, axis=0)
        outline = np.concatenate([outline[: here + 1], hole, hole[:1], outline[here:]])
    return outline


def _nearest(outline: Points, hole: Points) -> tuple[float, int, int]:
    """The distance of the two nearest corners, and which they are."""
    squares = ((outline[:, None] - hole[None]) ** 2).sum(axis=2)
    here, there = np.unravel_index(int(squares.argmin()), squares.shape)
    return float(squares[here, there]), int(here), int(there)
