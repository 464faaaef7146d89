"""Grids in physical space: orientation, resampling, cropping, and the way back.

The only place where the axes `x y z` of SimpleITK and the axes `Z Y X` of arrays meet.

Conventions:

* The canonical orientation is LPS (ITK's identity direction). An oblique image takes the closest
  axes: its voxels are permuted and mirrored, never interpolated, for the sake of orientation.
* Resampling keeps the field of view: it is the extents (the outer faces of the outermost voxels)
  that are aligned, not the centres of voxels. The target spacing is met exactly, the number of
  voxels is rounded up, and both grids share their centre. So every new centre lies inside the old
  image, every old voxel inside the new grid, and mirroring commutes with resampling.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from medstill.errors import GeometryError, ShapeError
from medstill.volumes.gridsize import SAME_SPACING, size_at
from medstill.volumes.records import ORIENTATION, Geometry

BoxZYX = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
SpacingZYX = tuple[float | None, float | None, float | None]

_WORLD_AXIS = {"L": 0, "R": 0, "P": 1, "A": 1, "S": 2, "I": 2}


@dataclass(frozen=True)
class Frame:
    """How a prepared array lies in the image that it came from."""

    original: Geometry
    """The image as it was read."""
    canonical: Geometry
    """The same voxels in canonical orientation."""
    crop_zyx: BoxZYX
    """Start and stop, in voxels of the canonical image, of the part that was kept."""
    grid: Geometry
    """The prepared array: the kept part after resampling."""

    @property
    def shape_zyx(self) -> tuple[int, int, int]:
        """Shape of the prepared array."""
        return shape_zyx(self.grid)

    @property
    def resampled(self) -> bool:
        """Whether the prepared voxels are other voxels than those of the image."""
        return self.grid != part_of(self.canonical, self.crop_zyx)


def geometry_of(image: sitk.Image) -> Geometry:
    """The grid of a 3-D image.

    Raises:
        GeometryError: The image is not 3-D.
    """
    if image.GetDimension() != 3:
        raise GeometryError(
            f"Expected a 3-D image, found {image.GetDimension()} dimensions. "
            "Read 2-D images as volumes of one slice."
        )
    size, spacing, origin = image.GetSize(), image.GetSpacing(), image.GetOrigin()
    return Geometry(
        (int(size[0]), int(size[1]), int(size[2])),
        (float(spacing[0]), float(spacing[1]), float(spacing[2])),
        (float(origin[0]), float(origin[1]), float(origin[2])),
        tuple(float(cosine) for cosine in image.GetDirection()),
    )


def shape_zyx(geometry: Geometry) -> tuple[int, int, int]:
    """Shape `(Z, Y, X)` of an array on a grid."""
    x, y, z = geometry.size_xyz
    return z, y, x


def spacing_zyx_mm(geometry: Geometry) -> tuple[float, float, float]:
    """Spacing of a grid in mm, in array order."""
    x, y, z = geometry.spacing_xyz_mm
    return z, y, x


def canonical(image: sitk.Image, orientation: str = ORIENTATION) -> sitk.Image:
    """The same voxels with their axes in a given orientation; nothing is interpolated."""
    oriented: sitk.Image = sitk.DICOMOrient(image, orientation)
    return oriented


def canonical_spacing_zyx_mm(geometry: Geometry) -> tuple[float, float, float]:
    """Spacing in mm, in array order, that the grid has in canonical orientation."""
    code = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(geometry.direction)
    spacing = [0.0, 0.0, 0.0]
    for letter, step in zip(code, geometry.spacing_xyz_mm, strict=True):
        spacing[_WORLD_AXIS[letter]] = step
    return spacing[2], spacing[1], spacing[0]


def array_CZYX(image: sitk.Image) -> NDArray[Any]:
    """The voxels of an image as a read-only array `(C, Z, Y, X)` of its own dtype.

    It is a view of the image's memory, which it keeps alive.
    """
    array = np.asarray(_Voxels(image))
    if image.GetNumberOfComponentsPerPixel() == 1:
        return array[np.newaxis]
    return np.moveaxis(array, -1, 0)


class _Voxels:
    """An image's memory for NumPy. SimpleITK's own view does not keep the image alive."""

    def __init__(self, image: sitk.Image) -> None:
        self._image = image
        self.__array_interface__ = sitk.GetArrayViewFromImage(image).__array_interface__


def image_of(array_ZYX: NDArray[Any], geometry: Geometry) -> sitk.Image:
    """A scalar image of an array on a grid.

    Raises:
        ShapeError: The array does not fit the grid.
    """
    if array_ZYX.shape != shape_zyx(geometry):
        raise ShapeError(
            f"Expected an array of shape {shape_zyx(geometry)} (Z, Y, X) for this geometry, "
            f"found {array_ZYX.shape}. Pass the array on the grid that the geometry describes."
        )
    image = sitk.GetImageFromArray(np.ascontiguousarray(array_ZYX))
    _place(image, geometry)
    return image


def frame_of(
    original: Geometry,
    target_zyx_mm: SpacingZYX,
    *,
    crop_zyx: BoxZYX | None = None,
    orientation: str = ORIENTATION,
) -> Frame:
    """Where the prepared array of an image will lie.

    Args:
        original: The grid of the image as it was read.
        target_zyx_mm: Target spacing in mm, in array order; None keeps an axis as it is.
        crop_zyx: The part to keep, in voxels of the canonical image; None keeps all.
        orientation: Axis codes of the prepared array.
    """
    oriented = _oriented(original, orientation)
    box = crop_zyx or whole_box(oriented)
    grid = resampled_grid(part_of(oriented, box), target_zyx_mm)
    return Frame(original, oriented, box, grid)


def resampled_grid(geometry: Geometry, target_zyx_mm: SpacingZYX) -> Geometry:
    """The grid of another spacing over the same field of view.

    The spacing is met exactly, the size rounded up, the centre kept: see the top of this file. An
    axis whose spacing is None or equal within 0.1 % stays as it is.

    Raises:
        GeometryError: The grid has more voxels than any scan.
    """
    x, y, z = (
        old if new is None or abs(new / old - 1.0) < SAME_SPACING else float(new)
        for old, new in zip(geometry.spacing_xyz_mm, target_zyx_mm[::-1], strict=True)
    )
    size, spacing = size_at(geometry, (x, y, z)), (x, y, z)
    ends = zip(geometry.size_xyz, geometry.spacing_xyz_mm, size, spacing, strict=True)
    shift = [((count - 1) * old - (fit - 1) * new) / 2 for count, old, fit, new in ends]
    return Geometry(size, spacing, _moved(geometry, shift), geometry.direction)


def onto_grid(
    image: sitk.Image, grid: Geometry, interpolator: int, outside: float = 0.0
) -> sitk.Image:
    """An image sampled at the voxel centres of another grid; `outside` where there is none."""
    moved: sitk.Image = sitk.Resample(
        image,
        grid.size_xyz,
        sitk.Transform(),
        interpolator,
        grid.origin_xyz_mm,
        grid.spacing_xyz_mm,
        grid.direction,
        outside,
        image.GetPixelID(),
    )
    return moved


def restore(
    map_CZYX: NDArray[Any], frame: Frame, *, outside: Sequence[float] | None = None
) -> sitk.Image:
    """Bring a map of the prepared grid back to the exact geometry of the original image.

    Where nothing was resampled every voxel comes back exactly, whatever the orientation.

    Args:
        map_CZYX: A label array `(Z, Y, X)` of an integer type, restored by the nearest voxel, or a
            floating-point map `(C, Z, Y, X)` or `(Z, Y, X)`, restored linearly.
        frame: The frame made when the image was prepared.
        outside: Value, one per channel, of what was cropped away; None takes 0.

    Returns:
        An image in the original's geometry: scalar for `(Z, Y, X)`, else of C components.

    Raises:
        ShapeError: The array does not fit the frame.
    """
    if map_CZYX.ndim == 3:
        return _restore_one(map_CZYX, frame, 0.0 if outside is None else outside[0])
    if map_CZYX.ndim != 4:
        raise ShapeError(
            f"Expected an array (Z, Y, X) or (C, Z, Y, X), found shape {map_CZYX.shape}. "
            "Restore one case at a time."
        )
    fill = [0.0] * len(map_CZYX) if outside is None else outside
    parts = [_restore_one(part, frame, value) for part, value in zip(map_CZYX, fill, strict=True)]
    restored: sitk.Image = sitk.Compose(parts)
    return restored


def _restore_one(map_ZYX: NDArray[Any], frame: Frame, outside: float) -> sitk.Image:
    floating = np.issubdtype(map_ZYX.dtype, np.floating)
    source = image_of(map_ZYX.astype(np.float32) if floating else map_ZYX, frame.grid)
    interpolator = sitk.sitkLinear if floating else sitk.sitkNearestNeighbor
    return onto_grid(source, frame.original, interpolator, outside)


def whole_box(geometry: Geometry) -> BoxZYX:
    """The box that keeps every voxel of a grid."""
    z, y, x = shape_zyx(geometry)
    return (0, z), (0, y), (0, x)


def part_of(geometry: Geometry, box_zyx: BoxZYX) -> Geometry:
    """The grid of the part inside a box (start and stop of each axis, in array order)."""
    if box_zyx == whole_box(geometry):
        return geometry
    z, y, x = box_zyx
    shift = [
        start * step for (start, _), step in zip((x, y, z), geometry.spacing_xyz_mm, strict=True)
    ]
    return Geometry(
        (x[1] - x[0], y[1] - y[0], z[1] - z[0]),
        geometry.spacing_xyz_mm,
        _moved(geometry, shift),
        geometry.direction,
    )


def _moved(geometry: Geometry, shift_xyz_mm: Sequence[float]) -> tuple[float, float, float]:
    """The origin after a step of so many mm along the axes of the grid."""
    if not any(shift_xyz_mm):
        return geometry.origin_xyz_mm
    turned = np.reshape(geometry.direction, (3, 3)) @ np.asarray(shift_xyz_mm)
    x, y, z = (float(v) for v in np.asarray(geometry.origin_xyz_mm) + turned)
    return x, y, z


def _oriented(geometry: Geometry, orientation: str) -> Geometry:
    """The grid that `canonical` gives an image of this one, found with its first voxel alone."""
    turner = sitk.DICOMOrientImageFilter()
    turner.SetDesiredCoordinateOrientation(orientation)
    voxel = sitk.Image((1, 1, 1), sitk.sitkUInt8)
    _place(voxel, geometry)
    turned = turner.Execute(voxel)
    order = tuple(int(axis) for axis in turner.GetPermuteOrder())
    x, y, z = (geometry.size_xyz[axis] for axis in order)
    # An axis that is turned round begins at its last voxel.
    first = [
        size - 1 if flipped else 0
        for size, flipped in zip((x, y, z), turner.GetFlipAxes(), strict=True)
    ]
    turned.SetOrigin(sitk.PermuteAxes(voxel, order).TransformIndexToPhysicalPoint(first))
    return replace(geometry_of(turned), size_xyz=(x, y, z))


def _place(image: sitk.Image, geometry: Geometry) -> None:
    image.SetSpacing(geometry.spacing_xyz_mm)
    image.SetOrigin(geometry.origin_xyz_mm)
    image.SetDirection(geometry.direction)
