"""Where the body lies in a scan."""

from __future__ import annotations

import math

import numpy as np
import SimpleITK as sitk

from medstill.volumes.geometry import BoxZYX, array_CZYX, geometry_of, spacing_zyx_mm, whole_box

CT_THRESHOLD_HU = -500.0


def body_box(
    image: sitk.Image, *, threshold: float | None = None, margin_mm: float = 10.0
) -> BoxZYX:
    """The box around the largest bright component of a scan, with a margin.

    Args:
        image: Scalar image.
        threshold: Intensity above which a voxel is bright; None finds it after Otsu.
        margin_mm: Margin around the body, cut off at the border of the image.

    Returns:
        Start and stop of each axis in voxels, in array order; all of it where nothing is bright.
    """
    mask = sitk.OtsuThreshold(image, 0, 1) if threshold is None else image > threshold
    parts = sitk.RelabelComponent(sitk.ConnectedComponent(mask))
    geometry = geometry_of(image)
    body = array_CZYX(parts)[0] == 1
    if not body.any():
        return whole_box(geometry)
    z, y, x = (
        _extent(body.any(axis=others), math.ceil(margin_mm / step))
        for others, step in zip(((1, 2), (0, 2), (0, 1)), spacing_zyx_mm(geometry), strict=True)
    )
    return z, y, x


def _extent(occupied: np.ndarray, margin: int) -> tuple[int, int]:
    """First and last occupied place along one axis, widened by a margin."""
    places = np.flatnonzero(occupied)
    return max(0, int(places[0]) - margin), min(len(occupied), int(places[-1]) + 1 + margin)
