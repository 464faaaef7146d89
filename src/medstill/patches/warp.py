"""Where the voxels of a rotated, sheared, enlarged or elastically moved patch come from.

Axes: C channels, Z Y X space. All geometry is in mm about the centre of the patch.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

Lengths = tuple[float, float, float]
Matrix = tuple[Lengths, Lengths, Lengths]
Index = tuple[int, int, int]

CONTROL_POINTS = 7
"""Control points of the elastic displacement along an axis; the outer two lie outside the patch."""


def sampling_matrix(
    angles_degrees_zyx: Lengths, scale: float, shear_zyx: Lengths = (0.0, 0.0, 0.0)
) -> Matrix:
    """The matrix that samples a rotated, sheared and enlarged image, in mm and the order Z Y X.

    The image is scaled, then sheared, then rotated about Z, Y and X in this order; the inverse is
    returned, since a result is computed by asking where each of its voxels comes from.

    Args:
        angles_degrees_zyx: Angles about the axes; a positive angle about Z turns X towards Y.
        scale: Above 1 the content becomes larger.
        shear_zyx: Shift of Y per length along Z, of X per length along Z, of X along Y.
    """
    to_y_from_z, to_x_from_z, to_x_from_y = shear_zyx
    matrix = scale * np.array(
        [[1.0, 0.0, 0.0], [to_y_from_z, 1.0, 0.0], [to_x_from_z, to_x_from_y, 1.0]]
    )
    # About each axis the plane of the two others turns, from the second named to the first.
    for angle, (towards, turned) in zip(angles_degrees_zyx, ((1, 2), (2, 0), (0, 1)), strict=True):
        cosine, sine = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
        rotation = np.eye(3)
        rotation[[turned, towards], [turned, towards]] = cosine
        rotation[towards, turned] = sine
        rotation[turned, towards] = -sine
        matrix = rotation @ matrix
    z, y, x = (tuple(row) for row in np.linalg.inv(matrix).tolist())
    return z, y, x


def sampling_grid(
    size_zyx: Sequence[int],
    spacing_zyx_mm: Lengths,
    matrix_zyx: Matrix | None,
    elastic_zyx_mm: Sequence[float] | None,
) -> Tensor:
    """Where each voxel of the result comes from, in the units and the order of `grid_sample`.

    Args:
        size_zyx: Size of the patch in voxels; one slice is changed in-plane only.
        spacing_zyx_mm: Its spacing.
        matrix_zyx: A matrix of `sampling_matrix`, about the patch's centre; None is the identity.
        elastic_zyx_mm: Displacements of the control points `(3, *control_counts(size_zyx))`,
            flattened.

    Returns:
        `(1, Y, X, 2)` for one slice, `(1, Z, Y, X, 3)` otherwise.
    """
    axes = [axis for axis in range(3) if axis > 0 or size_zyx[0] > 1]
    spacing = np.array(spacing_zyx_mm)[axes]
    # torch counts from -1 to 1 between the outer faces of the patch.
    half_mm = np.array(size_zyx)[axes] * spacing / 2
    matrix = np.eye(len(axes))
    if matrix_zyx is not None:
        matrix = np.array(matrix_zyx)[np.ix_(axes, axes)]
    matrix = matrix / half_mm[:, None] * half_mm[None, :]
    # A sum of one small term per axis: several times faster than `affine_grid`.
    grid = torch.zeros(len(axes))
    for i, axis in enumerate(axes):
        count = size_zyx[axis]
        steps = (2 * np.arange(count) + 1 - count) / count
        term = torch.from_numpy(np.outer(steps, matrix[::-1, i]).astype(np.float32))
        grid = grid + term.view(count, *[1] * (len(axes) - 1 - i), len(axes))
    if elastic_zyx_mm is None:
        return grid[None]
    shift = _elastic_shift(size_zyx, elastic_zyx_mm)[axes]
    shift = shift / torch.tensor(half_mm, dtype=torch.float32).view(-1, 1, 1, 1)
    shift = shift if len(axes) == 3 else shift[:, 0]
    return (grid + shift.flip(0).movedim(0, -1))[None]


def warp_image(image_CZYX: Tensor, grid: Tensor, pad_value: float = 0.0) -> Tensor:
    """Interpolate an image linearly at the places of a grid; outside it is `pad_value`."""
    shifted = image_CZYX - pad_value if pad_value else image_CZYX
    warped = _sample(shifted, grid, "bilinear")
    return warped + pad_value if pad_value else warped


def warp_label(label_ZYX: Tensor, grid: Tensor) -> Tensor:
    """The nearest class at the places of a grid; outside it is background (0)."""
    values_CZYX = label_ZYX.to(torch.float32)[None]
    return _sample(values_CZYX, grid, "nearest")[0].to(label_ZYX.dtype)


def _sample(values_CZYX: Tensor, grid: Tensor, mode: str) -> Tensor:
    # One slice is sampled in two dimensions: twice as fast, and half a voxel of Z is no border.
    values = values_CZYX[None].flatten(2, 3) if grid.shape[-1] == 2 else values_CZYX[None]
    sampled = functional.grid_sample(
        values, grid.to(values.dtype), mode=mode, padding_mode="zeros", align_corners=False
    )
    return sampled.view(values_CZYX.shape)


def control_counts(patch_zyx: Sequence[int]) -> Index:
    """Control points on each axis; an axis of one voxel has a single one."""
    z, y, x = (CONTROL_POINTS if size > 1 else 1 for size in patch_zyx)
    return z, y, x


def along(weights_OI: Tensor, values: Tensor, axis: int) -> Tensor:
    """Multiply one axis of an array by a matrix; on a CPU faster than to convolve it."""
    if axis == values.ndim - 1:
        return values @ weights_OI.T
    if axis == values.ndim - 2:
        return weights_OI @ values
    moved = weights_OI @ values.flatten(axis + 1)
    return moved.view(*values.shape[:axis], weights_OI.shape[0], *values.shape[axis + 1 :])


def _elastic_shift(size_zyx: Sequence[int], elastic_zyx_mm: Sequence[float]) -> Tensor:
    """The displacement of each voxel, `(3, Z, Y, X)` in mm."""
    counts = control_counts(size_zyx)
    shift = torch.tensor(elastic_zyx_mm, dtype=torch.float32).view(3, *counts)
    for axis, (size, count) in enumerate(zip(size_zyx, counts, strict=True)):
        if count > 1:
            shift = along(_spline_weights(size, count), shift, 1 + axis)
    return shift


@functools.lru_cache(maxsize=16)
def _spline_weights(size: int, count: int) -> Tensor:
    """Uniform cubic B-spline: `(size, count)` weights of control points spread over an axis."""
    position = np.linspace(1.0, count - 2.0, size)
    distance = np.abs(position[:, None] - np.arange(count)[None, :])
    near = 2 / 3 - distance**2 + distance**3 / 2
    far = np.clip(2 - distance, 0, None) ** 3 / 6
    return torch.from_numpy(np.where(distance < 1, near, far).astype(np.float32))
