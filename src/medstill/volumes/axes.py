"""Whether the axes of an image can be those of a scan."""

from __future__ import annotations

from typing import Final

import numpy as np
import SimpleITK as sitk

from medstill.errors import GeometryError

AXES_TOLERANCE: Final = 1e-2
"""How far a product of two unit axes may be from 1 or 0: headers hold rounded numbers."""


def check_axes(image: sitk.Image, source: str) -> None:
    """Demand that an image lies somewhere, on unit axes at right angles.

    ITK takes any numbers for the origin, and in most formats any matrix for the axes. Another one
    would stretch or shear what spacing and volume are said to be.

    Args:
        image: The image.
        source: What messages call it.

    Raises:
        GeometryError: A place is NaN or Inf, or the axes are not orthonormal.
    """
    origin = image.GetOrigin()
    axes = np.reshape(image.GetDirection(), (image.GetDimension(),) * 2)
    if not (np.isfinite(origin).all() and np.isfinite(axes).all()):
        raise GeometryError(
            f"{source} has a place that is no number: expected a finite origin and direction, "
            f"found the origin {_text(origin)} and the direction {_text(axes.ravel())}. Write the "
            "true ones into the header."
        )
    if np.abs(axes.T @ axes - np.eye(len(axes))).max() > AXES_TOLERANCE:
        raise GeometryError(
            f"{source} has axes that are not at right angles, or not of length 1: expected an "
            f"orthonormal direction matrix, found {_text(axes.ravel())}. Write the scale into the "
            "spacing, or resample the image onto a rectangular grid."
        )


def _text(values: object) -> str:
    return "(" + ", ".join(f"{value:.4g}" for value in np.asarray(values)) + ")"
