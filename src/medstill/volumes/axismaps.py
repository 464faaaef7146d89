"""Linear resampling as one small matrix per axis, so that slabs of a grid can be resampled alone.

Smoothing and linear interpolation on rectangular grids act on each axis by themselves. The matrix
of an axis is what SimpleITK makes of its unit vectors, so the results are those of `resampling` up
to rounding, without a floating point copy of the whole image.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from medstill.volumes.geometry import image_of, onto_grid, shape_zyx, spacing_zyx_mm
from medstill.volumes.records import FloatArray, Geometry
from medstill.volumes.resampling import resample_image

Float32Array = NDArray[np.float32]

ROWS: Final = 8
"""Rows of one product: it leaves most zeros of the band out, and BLAS starts no threads for it."""

_IDENTITY: Final = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


@dataclass(frozen=True)
class AxisMap:
    """A linear map from the places of one axis to those of another grid.

    Attributes:
        weights: `(new places, old places)`, zero outside a narrow band.
        first: The first old place that each new one needs.
        stop: One behind the last.
    """

    weights: Float32Array
    first: NDArray[np.int64]
    stop: NDArray[np.int64]

    def needed(self, new: slice) -> slice:
        """The old places that a run of new ones is made of."""
        return slice(int(self.first[new].min()), int(self.stop[new].max()))

    def reached(self, old: slice) -> slice:
        """The new places that a run of old ones takes part in; empty if there are none."""
        places = np.flatnonzero((self.first < old.stop) & (self.stop > old.start))
        return slice(int(places[0]), int(places[-1]) + 1) if len(places) else slice(0, 0)

    def __call__(self, array: Float32Array, axis: int, new: slice, begin: int) -> Float32Array:
        """Map a part of an array along one axis.

        Args:
            array: Any number of axes; along `axis` it holds the old places from `begin` on.
            axis: Negative, -1 for the last axis.
            new: The wanted places.
            begin: The old place that the array begins with.
        """
        last = axis == -1
        source = array if last else np.moveaxis(array, axis, -2)
        shape = list(source.shape)
        shape[-1 if last else -2] = new.stop - new.start
        result = np.empty(shape, dtype=np.float32)
        for start in range(new.start, new.stop, ROWS):
            rows = slice(start, min(start + ROWS, new.stop))
            old = self.needed(rows)
            there = slice(old.start - begin, old.stop - begin)
            here = slice(rows.start - new.start, rows.stop - new.start)
            band = self.weights[rows, old]
            if last:
                np.matmul(source[..., there], band.T, out=result[..., here])
            else:
                np.matmul(band, source[..., there, :], out=result[..., here, :])
        return result if last else np.moveaxis(result, -2, axis)


Maps = tuple[AxisMap | None, AxisMap | None, AxisMap | None]
"""Maps of the axes z, y, x; None where nothing changes."""


def image_maps(old: Geometry, new: Geometry) -> Maps:
    """What `resample_image` does between two grids of the same directions."""
    return _maps(old, new, resample_image)


def linear_maps(old: Geometry, new: Geometry) -> Maps:
    """What linear interpolation alone does between two grids of the same directions."""
    return _maps(old, new, _interpolated)


def _interpolated(image: sitk.Image, grid: Geometry) -> FloatArray:
    array: FloatArray = sitk.GetArrayFromImage(onto_grid(image, grid, sitk.sitkLinear))
    return array


def _maps(
    old: Geometry, new: Geometry, resampled: Callable[[sitk.Image, Geometry], FloatArray]
) -> Maps:
    step = np.subtract(new.origin_xyz_mm, old.origin_xyz_mm)
    z, y, x = (
        _map((count, spacing), (new_count, new_spacing), float(shift), resampled)
        for count, spacing, new_count, new_spacing, shift in zip(
            shape_zyx(old),
            spacing_zyx_mm(old),
            shape_zyx(new),
            spacing_zyx_mm(new),
            (step @ np.reshape(old.direction, (3, 3)))[::-1],
            strict=True,
        )
    )
    return z, y, x


@lru_cache(maxsize=8)
def _map(
    old: tuple[int, float],
    new: tuple[int, float],
    shift_mm: float,
    resampled: Callable[[sitk.Image, Geometry], FloatArray],
) -> AxisMap | None:
    if old == new:
        return None
    count, spacing = old
    line = Geometry((count, count, 1), (spacing, 1.0, 1.0), (0.0, 0.0, 0.0), _IDENTITY)
    grid = Geometry((new[0], count, 1), (new[1], 1.0, 1.0), (shift_mm, 0.0, 0.0), _IDENTITY)
    # Each row holds one old place alone; a row of the result is what becomes of it.
    units: NDArray[Any] = np.eye(count, dtype=np.float32)[np.newaxis]
    weights = np.ascontiguousarray(resampled(image_of(units, line), grid)[0].T)
    weights.flags.writeable = False  # square pixels have one map for x and y
    used = weights != 0
    return AxisMap(weights, used.argmax(axis=1), count - used[:, ::-1].argmax(axis=1))
