"""Whether two images share their grid in physical space."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from medstill.errors import GeometryError
from medstill.volumes.formats import times

GRID_TOLERANCE = 0.1
"""How far the corners of two grids may lie apart, in units of the smallest spacing."""


def check_same_grid(
    first: sitk.Image, second: sitk.Image, path: Path, other: Path, *, size_only: bool = False
) -> None:
    """Demand that two images share their grid.

    Raises:
        GeometryError: They do not; the message names both files.
    """
    if first.GetSize() != second.GetSize():
        raise GeometryError(
            f"'{other}' does not fit '{path}': expected a size of {times(first.GetSize())} "
            f"voxels (x, y, z), found {times(second.GetSize())}. "
            "They must be drawn on the same grid; pair or resample them again."
        )
    distance_mm = 0.0 if size_only else _corner_distance_mm(first, second)
    if distance_mm <= GRID_TOLERANCE * min(first.GetSpacing()):
        return
    raise GeometryError(
        f"'{other}' lies elsewhere than '{path}': their grids are {distance_mm:.3g} mm apart at "
        f"a corner, expected at most {GRID_TOLERANCE:g} of a voxel. Expected {_grid(first)}; "
        f"found {_grid(second)}. Resample one onto the other, or copy the header if only that "
        "is wrong."
    )


def _corner_distance_mm(first: sitk.Image, second: sitk.Image) -> float:
    """The greatest distance between the same corner voxel of two grids of one size."""
    ends = [(0, length - 1) for length in first.GetSize()]
    corners = np.stack(np.meshgrid(*ends, indexing="ij"), axis=-1).reshape(-1, 3).tolist()
    gaps = [
        np.subtract(
            first.TransformIndexToPhysicalPoint(corner),
            second.TransformIndexToPhysicalPoint(corner),
        )
        for corner in corners
    ]
    return float(np.linalg.norm(gaps, axis=1).max())


def _grid(image: sitk.Image) -> str:
    def text(values: Sequence[float]) -> str:
        return "(" + ", ".join(f"{value:.4g}" for value in values) + ")"

    return (
        f"spacing {text(image.GetSpacing())}, origin {text(image.GetOrigin())}, "
        f"direction {text(image.GetDirection())}"
    )
