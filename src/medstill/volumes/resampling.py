"""Images and labels on the grid of another spacing."""

from __future__ import annotations

import math

import numpy as np
import SimpleITK as sitk

from medstill.errors import GeometryError
from medstill.volumes.geometry import (
    canonical_spacing_zyx_mm,
    geometry_of,
    onto_grid,
    shape_zyx,
)
from medstill.volumes.records import FloatArray, Geometry, LabelArray

_FWHM_PER_SIGMA = 2.0 * math.sqrt(2.0 * math.log(2.0))
_MOST_INTERPOLATED_LABELS = 32
MOST_COARSER = 62.0
"""How many times as coarse an image may become: ITK's Gaussian is NaN from 63 on."""


def resample_image(image: sitk.Image, grid: Geometry) -> FloatArray:
    """A scalar image on another grid, linearly interpolated.

    Along every axis that becomes coarser, by a factor f > 1, the image is smoothed first by a
    Gaussian of sqrt(f^2 - 1) / 2.355 old voxels: it widens the point spread function from the old
    spacing to the new one (full width at half maximum), so that fine detail does not alias.
    Linear interpolation never leaves the range of the input; B-splines overshoot at edges.

    Args:
        image: Scalar image whose axes have the directions of the grid's.
        grid: The wanted grid.

    Returns:
        float32 array `(Z, Y, X)` on the grid.

    Raises:
        GeometryError: An axis would become more than `MOST_COARSER` times as coarse.

    References:
        Cardoso et al., Scale factor point spread function matching, MICCAI 2015.
    """
    image = sitk.Cast(image, sitk.sitkFloat32)
    if geometry_of(image) == grid:
        return sitk.GetArrayFromImage(image)
    _demand_near(image, grid)
    variances = [
        (old**2) * max((new / old) ** 2 - 1.0, 0.0) / _FWHM_PER_SIGMA**2
        for old, new in zip(image.GetSpacing(), grid.spacing_xyz_mm, strict=True)
    ]
    if any(variance > 0 for variance in variances):
        image = sitk.DiscreteGaussian(image, variances, 256, 0.01, True)
    return sitk.GetArrayFromImage(onto_grid(image, grid, sitk.sitkLinear))


def _demand_near(image: sitk.Image, grid: Geometry) -> None:
    for found, wanted in zip(image.GetSpacing(), grid.spacing_xyz_mm, strict=True):
        if wanted > MOST_COARSER * found:
            raise GeometryError(
                f"A spacing of {found:.4g} mm is too fine to be brought to {wanted:.4g} mm: "
                f"expected at least 1/{MOST_COARSER:g} of it. Check that the header has "
                "millimetres, or resample the image first."
            )


def resample_label(label: sitk.Image, grid: Geometry) -> LabelArray:
    """A label image on another grid.

    Each value's mask is interpolated linearly and the largest wins; at a tie the higher value
    does. Above 32 values the nearest voxel is taken instead. Where the voxels coincide, up to the
    orientation, both are exact.

    Args:
        label: Label image of type uint8, of any orientation.
        grid: The wanted grid.

    Returns:
        uint8 array `(Z, Y, X)` on the grid.
    """
    planes = sitk.GetArrayViewFromImage(label)
    values = np.flatnonzero(sum(np.bincount(plane.ravel(), minlength=256) for plane in planes))
    canonical_steps = canonical_spacing_zyx_mm(geometry_of(label))
    exact = np.allclose(canonical_steps, canonical_spacing_zyx_mm(grid), rtol=1e-9)
    if exact or len(values) == 1 or len(values) > _MOST_INTERPOLATED_LABELS:
        nearest: LabelArray = sitk.GetArrayFromImage(
            onto_grid(label, grid, sitk.sitkNearestNeighbor)
        )
        return nearest
    best = np.full(shape_zyx(grid), -1.0, dtype=np.float32)
    winner = np.zeros(shape_zyx(grid), dtype=np.uint8)
    for value in values[::-1]:
        mask = sitk.Cast(label == int(value), sitk.sitkFloat32)
        share = sitk.GetArrayFromImage(onto_grid(mask, grid, sitk.sitkLinear))
        wins = share > best + 1e-4
        best[wins] = share[wins]
        winner[wins] = value
    return winner
