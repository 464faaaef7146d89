"""How many voxels a grid of another spacing has, and how many are too many."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final

from medstill.errors import GeometryError
from medstill.volumes.records import Geometry

SAME_SPACING: Final = 1e-3
"""Spacings that differ by less than this share are the same: nothing is resampled."""
MOST_VOXELS: Final = 2**34
"""A CT of a whole body, 2 m long and .7 m wide at .5 mm, has 8e9, less than half of it. What goes
beyond has a wrong spacing, such as one in micrometres, and would fill any memory."""
_ENDLESS: Final = 1e99

SpacingXYZ = tuple[float, float, float]


def size_at(geometry: Geometry, spacing_xyz_mm: SpacingXYZ) -> tuple[int, int, int]:
    """The size `(x, y, z)` of a grid of another spacing over the same field of view, rounded up.

    Raises:
        GeometryError: It has more voxels than `MOST_VOXELS`, and than the grid that it is made of.
    """
    sides = zip(geometry.size_xyz, geometry.spacing_xyz_mm, spacing_xyz_mm, strict=True)
    x, y, z = (_length(count * old / new) for count, old, new in sides)
    if x * y * z > max(MOST_VOXELS, math.prod(geometry.size_xyz)):
        raise GeometryError(
            f"The prepared image would have {_times((x, y, z))} voxels (x, y, z): expected at most "
            f"{MOST_VOXELS:.2g} in all, more than any scan has. The image has "
            f"{_times(geometry.size_xyz)} voxels of {_times(geometry.spacing_xyz_mm)} mm, and is "
            f"to be resampled to {_times(spacing_xyz_mm)} mm. Write the true voxel size into the "
            "image's header; or set a larger data.spacing_mm, or take a model of a larger spacing."
        )
    return x, y, z


def _length(exact: float) -> int:
    return max(1, math.ceil(min(exact, _ENDLESS) - SAME_SPACING))


def _times(values: Iterable[float]) -> str:
    return " x ".join(f"{value:.6g}" for value in values)
