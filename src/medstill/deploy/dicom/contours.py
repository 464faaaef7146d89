"""Outlines of masks as closed polygons, holes joined to them by keyholes.

A polygon runs half-way between the centres of the voxels inside and those outside (marching
squares), so whoever fills it by the centres of voxels gets the mask back exactly.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, final

import numpy as np
from contourpy import FillType, contour_generator
from numpy.typing import NDArray

Points = NDArray[np.float64]
_MOST_PAIRS = 2**21
"""How many distances are held at a time."""


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
    if not holes:
        return outline
    gaps = _Gaps(holes)
    gaps.approach(outline, 0)
    for _ in holes:
        best, here, there = gaps.take_nearest()
        hole = np.roll(holes[best], -there, axis=0)
        outline = np.concatenate([outline[: here + 1], hole, hole[:1], outline[here:]])
        gaps.shift(here, len(hole) + 2)
        gaps.approach(hole, here + 1)
    return outline


@final
class _Gaps:
    """The nearest corners of an outline and of each hole that is not yet joined to it.

    Kept up with the corners that the outline gets, since a new search of it for every hole and
    join would take the cube of the number of holes.
    """

    def __init__(self, holes: Sequence[Points]) -> None:
        self._corners = np.concatenate(holes)
        self._lengths = np.array([len(hole) for hole in holes])
        self._starts = np.cumsum(self._lengths) - self._lengths
        self._squares = np.full(len(holes), np.inf)
        self._here = np.zeros(len(holes), dtype=np.intp)
        self._there = np.zeros(len(holes), dtype=np.intp)
        self._open = np.ones(len(holes), dtype=bool)

    def take_nearest(self) -> tuple[int, int, int]:
        """The nearest open hole, and which corners of outline and hole are nearest."""
        best = int(np.where(self._open, self._squares, np.inf).argmin())
        self._open[best] = False
        return best, int(self._here[best]), int(self._there[best])

    def shift(self, here: int, count: int) -> None:
        """The outline has got some corners behind one of its own."""
        self._here[self._here > here] += count

    def approach(self, added: Points, first: int) -> None:
        """The outline has got these corners, from this number on."""
        step = max(1, _MOST_PAIRS // len(self._corners))
        for start in range(0, len(added), step):
            self._compare(added[start : start + step], first + start)

    def _compare(self, added: Points, first: int) -> None:
        squares = (added[:, :1] - self._corners[:, 0]) ** 2
        squares += (added[:, 1:] - self._corners[:, 1]) ** 2
        of_corner = squares.min(axis=0)
        of_hole = np.minimum.reduceat(of_corner, self._starts)
        nearest = of_corner == np.repeat(of_hole, self._lengths)
        numbers = np.where(nearest, np.arange(len(nearest)), len(nearest))
        corner = np.minimum.reduceat(numbers, self._starts)
        closer = of_hole < self._squares
        self._squares[closer] = of_hole[closer]
        self._there[closer] = (corner - self._starts)[closer]
        self._here[closer] = first + squares[:, corner[closer]].argmin(axis=0)
