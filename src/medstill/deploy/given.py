"""Images and arrays from the memory of whoever calls, as scans that can be segmented."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from medstill.errors import GeometryError, IntensityError, ShapeError
from medstill.volumes.arriving import Arriving, arrived
from medstill.volumes.axes import check_axes
from medstill.volumes.checks import not_finite

_NUMBERS: Final = "biuf"
"""Kinds of dtype that intensities can have: truth values, integers, floating point."""


def scan_of_image(image: sitk.Image) -> Arriving:
    """A scan of an image, which is not copied.

    Raises:
        GeometryError: It is not 3-D, or has no place, or axes that are not at right angles.
        ShapeError: It has no voxels.
        IntensityError: Its voxels are no numbers, or not finite.
    """
    scan = arrived(image)
    if not scan.raw_CZYX.size:
        raise ShapeError(
            f"Expected an image with voxels, got one of the size {image.GetSize()} (x, y, z). "
            "Check how it was cut out."
        )
    check_axes(image, "The image")
    _demand_numbers(scan.raw_CZYX, "image")
    _demand_finite(scan.raw_CZYX, "image")
    return scan


def scan_of_array(array: Any, channels: int, spacing_zyx_mm: Any) -> Arriving:
    """A scan of raw values `(Z, Y, X)`, or `(C, Z, Y, X)` of several channels, in LPS.

    Args:
        array: What `demand_array` lets pass.
        channels: Of the model.
        spacing_zyx_mm: Distance of neighbouring voxels along z, y and x.

    Raises:
        ShapeError: It has other axes, or one without voxels.
        GeometryError: The spacing is not three positive numbers.
        IntensityError: Its values are no numbers, or not finite.
    """
    values = np.asarray(array)
    _check_axes(values.shape, channels)
    steps_mm = _spacing(spacing_zyx_mm)
    _demand_numbers(values, "array")
    values = _as_stored(values)
    _demand_finite(values if channels > 1 else values[np.newaxis], "array")
    if channels > 1:
        image = sitk.Compose([sitk.GetImageFromArray(channel) for channel in values])
    else:
        image = sitk.GetImageFromArray(values)
    image.SetSpacing(steps_mm[::-1])
    return arrived(image)


def demand_array(given: Any) -> None:
    """Demand a NumPy array, or what NumPy takes for one without a loop over its numbers.

    Raises:
        ShapeError: It is something else.
    """
    if not hasattr(given, "__array__"):
        raise ShapeError(
            f"Expected a path, a SimpleITK image or a NumPy array, got {type(given).__name__}. "
            "Make an array of it first (numpy.asarray)."
        )


def _check_axes(shape: tuple[int, ...], channels: int) -> None:
    many = channels > 1
    axes = f"(C, Z, Y, X) with C = {channels}" if many else "(Z, Y, X)"
    if len(shape) != 3 + many or (many and shape[0] != channels):
        raise ShapeError(
            f"Expected an array of the axes {axes}, got one of shape {shape}. Give a picture "
            "as one slice."
        )
    if 0 in shape:
        raise ShapeError(
            f"Expected an array of the axes {axes} with voxels, got one of shape {shape}. Check "
            "how it was cut out."
        )


def _spacing(spacing_zyx_mm: Any) -> tuple[float, ...]:
    try:
        steps_mm = tuple(float(step) for step in spacing_zyx_mm)
    except (TypeError, ValueError):
        steps_mm = ()
    if len(steps_mm) != 3 or not all(0 < step < float("inf") for step in steps_mm):
        raise GeometryError(
            "Expected three numbers, a positive spacing in mm for each axis (z, y, x), got "
            f"{spacing_zyx_mm}."
        )
    return steps_mm


def _demand_numbers(values: NDArray[Any], what: str) -> None:
    if values.dtype.kind not in _NUMBERS:
        raise IntensityError(
            f"Expected an {what} of integers or floating point numbers, got one of "
            f"{values.dtype}. Convert it first, for example to float32."
        )


def _demand_finite(values_CZYX: NDArray[Any], what: str) -> None:
    if values_CZYX.dtype.kind != "f":
        return
    # Slice by slice: the answer for a whole scan would take a byte a voxel.
    if not all(np.isfinite(plane_YX).all() for raw_ZYX in values_CZYX for plane_YX in raw_ZYX):
        raise not_finite(f"The {what}")


def _as_stored(values: NDArray[Any]) -> NDArray[Any]:
    """The same numbers in a dtype that SimpleITK has."""
    dtype = values.dtype
    if dtype.kind == "b":
        return values.astype(np.uint8)
    if dtype.kind == "f" and dtype.itemsize not in (4, 8):
        return values.astype(np.float32 if dtype.itemsize < 4 else np.float64)
    return values.astype(dtype.newbyteorder("="), copy=False)
