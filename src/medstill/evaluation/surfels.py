"""Sizes of the surface elements (surfels) of a mask, from its 2 x 2 x 2 neighbourhoods.

A surfel sits at the corner where voxels meet. Which of the 8 voxels around it are inside is its
neighbourhood code; marching cubes cuts the cube between their centres at the midpoints of the
edges, and the area of the cut is the surfel's size. In 2-D, 4 pixels and a contour length.

Nothing is tabulated by hand. On each face of the cube the crossings are joined; where four meet,
the corners of the rarer kind are cut off. Joined crossings close into polygons, and a polygon that
is not flat is triangulated with the greatest area at unit spacing. These two rules give the sizes
of the `surface-distance` package for every code and spacing (a test compares all of them).

References:
    Lorensen and Cline, Marching Cubes, SIGGRAPH 1987.
    Nikolov et al., Deep learning to achieve clinically applicable segmentation of head and neck
    anatomy for radiotherapy, arXiv:1809.04430 (surfels and surface Dice).
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Point = tuple[float, ...]
Triangle = tuple[Point, Point, Point]

FULL_CODE = {2: 0b1111, 3: 0b11111111}
"""Number of axes -> code of a neighbourhood that lies inside altogether."""


def neighbourhood_codes(mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Code of every corner of a 2-D or 3-D mask; what lies around the mask is outside.

    Returns:
        Codes of a shape one longer than the mask along every axis. Code 0 and
        `FULL_CODE[mask.ndim]` mark corners without a surface.
    """
    padded = np.pad(mask, 1).astype(np.uint8)
    codes = np.zeros([n + 1 for n in mask.shape], np.uint8)
    for corner, bit in _bits(mask.ndim).items():
        window = tuple(slice(i, i + n) for i, n in zip(corner, codes.shape, strict=True))
        codes |= padded[window] * np.uint8(bit)
    return codes


def surfel_sizes(spacing_mm: Sequence[float]) -> NDArray[np.float64]:
    """Size of a surfel of every code: mm^2 for three spacings, mm for two.

    >>> surfel_sizes((2.0, 1.0))[0b0011].item()  # a horizontal contour
    1.0
    >>> surfel_sizes((3.0, 2.0, 1.0))[0b00001111].item()  # a face across the first axis
    2.0
    """
    scale = np.asarray(spacing_mm, float)
    if scale.size == 2:
        return np.array([_length(code, scale) for code in range(16)])
    # The normal of a stretched triangle is stretched by the two other axes.
    across = np.prod(scale) / scale
    return np.array([np.linalg.norm(normals * across, axis=1).sum() for normals in _normals()])


def _length(code: int, scale: NDArray[np.float64]) -> float:
    corners = [(0, 0), (0, 1), (1, 1), (1, 0)]
    segments = _cut([(c, bool(code & _bits(2)[c])) for c in corners], _rare(code, 2))
    return float(sum(np.linalg.norm((np.subtract(a, b)) * scale) for a, b in segments))


@functools.cache
def _bits(axes: int) -> dict[tuple[int, ...], int]:
    corners = list(itertools.product((0, 1), repeat=axes))
    return {corner: 1 << (len(corners) - 1 - i) for i, corner in enumerate(corners)}


@functools.cache
def _normals() -> tuple[NDArray[np.float64], ...]:
    """Normals `(triangles, 3)` of each code; a normal is as long as its triangle is large."""
    found = []
    for code in range(256):
        triangles = [t for loop in _loops(code) for t in _triangulate(loop)]
        normals = [_normal(t) for t in triangles]
        found.append(np.array(normals, float).reshape(-1, 3))
    return tuple(found)


def _rare(code: int, axes: int) -> bool:
    """Whether inside corners are cut off where a face has two of each kind on its diagonals."""
    corners: int = 2**axes
    return code.bit_count() <= corners // 2


def _cut(face: list[tuple[tuple[int, ...], bool]], cut_inside: bool) -> list[tuple[Point, Point]]:
    """Segments that part inside from outside on one face, its corners given in cyclic order."""
    crossings = [
        (_midpoint(face[i - 1][0], face[i][0]), i) for i in range(4) if face[i - 1][1] != face[i][1]
    ]
    if len(crossings) == 4:
        # Crossing i lies before corner i: a corner is cut off between its two crossings.
        return [
            (crossings[i][0], crossings[(i + 1) % 4][0])
            for i in range(4)
            if face[i][1] == cut_inside
        ]
    return [(crossings[0][0], crossings[1][0])] if crossings else []


def _midpoint(a: tuple[int, ...], b: tuple[int, ...]) -> Point:
    return tuple((x + y) / 2 for x, y in zip(a, b, strict=True))


def _loops(code: int) -> list[list[Point]]:
    """Closed polygons of one cube."""
    neighbours: dict[Point, list[Point]] = {}
    for face in _faces():
        cornered = [(corner, bool(code & _bits(3)[corner])) for corner in face]
        for a, b in _cut(cornered, _rare(code, 3)):
            neighbours.setdefault(a, []).append(b)
            neighbours.setdefault(b, []).append(a)
    loops = []
    while neighbours:
        loop = [next(iter(neighbours))]
        while step := [n for n in neighbours.pop(loop[-1]) if n in neighbours]:
            loop.append(step[0])
        loops.append(loop)
    return loops


def _faces() -> list[list[tuple[int, ...]]]:
    square = [(0, 0), (0, 1), (1, 1), (1, 0)]
    return [
        [(*corner[:axis], side, *corner[axis:]) for corner in square]
        for axis in range(3)
        for side in (0, 1)
    ]


def _normal(triangle: Triangle) -> Point:
    a, b, c = triangle
    u, v = ([q - p for p, q in zip(a, end, strict=True)] for end in (b, c))
    return tuple((u[i - 2] * v[i - 1] - u[i - 1] * v[i - 2]) / 2 for i in range(3))


def _triangulate(polygon: list[Point]) -> list[Triangle]:
    """The triangulation of greatest area at unit spacing."""
    if len(polygon) < 3:
        return []
    options = [
        [
            (polygon[0], polygon[k], polygon[-1]),
            *_triangulate(polygon[: k + 1]),
            *_triangulate(polygon[k:]),
        ]
        for k in range(1, len(polygon) - 1)
    ]
    return max(options, key=lambda triangles: sum(math.hypot(*_normal(t)) for t in triangles))
