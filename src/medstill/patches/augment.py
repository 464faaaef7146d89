"""Random changes of training samples: draw the numbers, then apply them.

Axes: C channels, Z Y X space; a 2-D sample is one slice (Z = 1) and is changed in-plane only.
Rotation, scale, shear, elastic displacement and blur act in mm, so that unequal spacing neither
shears a rotated organ nor blurs one axis more than another.

torch's `grid_sample` is called directly: `scripts/benchmark_augment.py` compares the packages.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from medstill.config import IGNORE, AugmentationConfig
from medstill.errors import ShapeError
from medstill.patches.warp import (
    CONTROL_POINTS,
    Index,
    Lengths,
    Matrix,
    along,
    control_counts,
    sampling_grid,
    sampling_matrix,
    warp_image,
    warp_label,
)

AXES = "zyx"
LARGEST_SHIFT = 0.4
"""Bound on the displacement of a control point, in control spacings: below it nothing folds."""
BLUR_REACH = 4.0
"""Radius of the Gaussian blur in standard deviations."""
SPLINE_GAIN = 0.69
"""Standard deviation, an axis, of a cubic B-spline of independent control values of deviation 1."""


@dataclass(frozen=True)
class Augmentation:
    """What is done to one sample, as plain numbers; the default changes nothing."""

    spacing_zyx_mm: Lengths
    matrix_zyx: Matrix | None = None
    """Maps an offset from the patch's centre in the result to that in the input, both in mm."""
    elastic_zyx_mm: tuple[float, ...] | None = None
    """Displacements of the control points, `(3, z, y, x)` flattened; one point along Z in 2-D."""
    mirror: tuple[int, ...] = ()
    """Axes of Z Y X (0, 1, 2) that are mirrored."""
    blur_mm: float = 0.0
    """Standard deviation of the Gaussian."""
    gamma: float = 1.0
    noise: float = 0.0
    """Standard deviation of the noise."""
    noise_seed: int = 0


def draw(
    generator: np.random.Generator,
    config: AugmentationConfig,
    spacing_zyx_mm: Lengths,
    patch_zyx: Index,
) -> Augmentation:
    """Draw what is done to one sample.

    Each operation takes its numbers whether it is used or not: switching one off leaves the draws
    of the others as they were. Elastic displacement comes with the affine part, under the same
    probability. Scales are drawn log-uniformly, so enlarging is as likely as shrinking where the
    limits are reciprocal; so is gamma.

    Args:
        generator: The only source of randomness.
        config: Limits and probabilities.
        spacing_zyx_mm: Spacing of the sample.
        patch_zyx: Its size in voxels; one slice is changed in-plane only.
    """
    chosen = generator.random(4) < (
        config.affine_probability,
        config.blur_probability,
        config.gamma_probability,
        config.noise_probability,
    )
    affine, blur, gamma, noise = (bool(choice) for choice in chosen)
    flips = generator.random(3) < 0.5
    flat = patch_zyx[0] == 1
    matrix_zyx = _draw_matrix(generator, config, flat)
    blur_mm = generator.uniform(0.0, config.blur_mm)
    power = _log_uniform(generator, config.gamma)
    deviation = generator.uniform(0.0, config.noise)
    seed = int(generator.integers(2**62))
    elastic = _draw_elastic(generator, config.elastic_mm, spacing_zyx_mm, patch_zyx)
    return Augmentation(
        spacing_zyx_mm=spacing_zyx_mm,
        matrix_zyx=matrix_zyx if affine else None,
        elastic_zyx_mm=elastic if affine and config.elastic_mm > 0 else None,
        mirror=tuple(i for i in range(3) if flips[i] and AXES[i] in config.mirror),
        blur_mm=blur_mm if blur else 0.0,
        gamma=power if gamma else 1.0,
        noise=deviation if noise else 0.0,
        noise_seed=seed,
    )


def apply(
    image_CZYX: Tensor,
    label_ZYX: Tensor,
    augmentation: Augmentation,
    *,
    pad_value: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Apply a drawn augmentation: warp, mirror, blur, gamma, noise.

    The image is interpolated linearly and the label by the nearest voxel on the same grid. What
    comes from outside the patch is `pad_value` and background; ignored voxels (255) are warped
    as a class is. A label of 255 alone, of a case without labels, stays 255 everywhere.

    Nothing is changed in place; a tensor that no operation touches is returned itself.

    Args:
        image_CZYX: Floating point image `(C, Z, Y, X)`.
        label_ZYX: Class values `(Z, Y, X)` uint8.
        augmentation: What to do.
        pad_value: Intensity of what lies outside the image.

    Raises:
        ShapeError: Image and label are of unequal size or of other dimensions.
    """
    if image_CZYX.ndim != 4 or image_CZYX.shape[1:] != label_ZYX.shape:
        raise ShapeError(
            f"Expected an image (C, Z, Y, X) and a label (Z, Y, X) of equal size, but got "
            f"{tuple(image_CZYX.shape)} and {tuple(label_ZYX.shape)}. Give both of the same patch."
        )
    if augmentation.matrix_zyx is not None or augmentation.elastic_zyx_mm is not None:
        grid = sampling_grid(
            label_ZYX.shape,
            augmentation.spacing_zyx_mm,
            augmentation.matrix_zyx,
            augmentation.elastic_zyx_mm,
        )
        image_CZYX = warp_image(image_CZYX, grid, pad_value)
        # A label of 255 alone tells nothing, and must not learn background at the border.
        label_ZYX = label_ZYX if int(label_ZYX.min()) == IGNORE else warp_label(label_ZYX, grid)
    if augmentation.mirror:
        image_CZYX = image_CZYX.flip([1 + axis for axis in augmentation.mirror])
        label_ZYX = label_ZYX.flip(augmentation.mirror)
    if augmentation.blur_mm > 0:
        image_CZYX = _blur(image_CZYX, augmentation)
    if augmentation.gamma != 1.0:
        image_CZYX = _gamma(image_CZYX, augmentation.gamma)
    if augmentation.noise > 0:
        noise = torch.empty(image_CZYX.shape, dtype=image_CZYX.dtype)
        noise.normal_(generator=torch.Generator().manual_seed(augmentation.noise_seed))
        image_CZYX = torch.add(image_CZYX, noise, alpha=augmentation.noise)
    return image_CZYX, label_ZYX


def _draw_matrix(generator: np.random.Generator, config: AugmentationConfig, flat: bool) -> Matrix:
    angles = generator.uniform(-config.rotation_degrees, config.rotation_degrees, 3)
    shear = generator.uniform(-config.shear, config.shear, 3)
    scale = _log_uniform(generator, config.scale)
    if flat:
        return sampling_matrix((angles[0], 0.0, 0.0), scale, (0.0, 0.0, shear[2]))
    return sampling_matrix((angles[0], angles[1], angles[2]), scale, (shear[0], shear[1], shear[2]))


def _log_uniform(generator: np.random.Generator, limits: tuple[float, float]) -> float:
    return float(np.exp(generator.uniform(*np.log(sorted(limits)))))


def _draw_elastic(
    generator: np.random.Generator, deviation_mm: float, spacing_zyx_mm: Lengths, patch_zyx: Index
) -> tuple[float, ...]:
    counts = control_counts(patch_zyx)
    moving = [axis for axis in range(3) if counts[axis] > 1]
    # The spline smooths the control values; they are drawn wider so that voxels get the deviation.
    shifts = generator.standard_normal((3, *counts)) * deviation_mm / SPLINE_GAIN ** len(moving)
    for axis in range(3):
        spacing_mm = (patch_zyx[axis] - 1) * spacing_zyx_mm[axis] / (CONTROL_POINTS - 3)
        bound = LARGEST_SHIFT * spacing_mm
        shifts[axis] = np.clip(shifts[axis], -bound, bound)
    return tuple(shifts.ravel().tolist())


def _blur(image_CZYX: Tensor, augmentation: Augmentation) -> Tensor:
    for axis, spacing_mm in enumerate(augmentation.spacing_zyx_mm):
        size = image_CZYX.shape[1 + axis]
        if size > 1:
            weights = _gaussian_weights(size, augmentation.blur_mm / spacing_mm)
            image_CZYX = along(weights.to(image_CZYX.dtype), image_CZYX, 1 + axis)
    return image_CZYX


@functools.lru_cache(maxsize=4)
def _gaussian_weights(size: int, deviation_voxels: float) -> Tensor:
    """`(size, size)`: each row a Gaussian that sums to one, also where the border cuts it off."""
    if deviation_voxels < 1e-3:
        return torch.eye(size)
    index = np.arange(size, dtype=np.float32)
    distance = (index[:, None] - index[None, :]) / np.float32(deviation_voxels)
    # Cut off: the far tail is made of denormal numbers, which are slow.
    weights = np.exp(-0.5 * np.minimum(distance**2, BLUR_REACH**2))
    weights[np.abs(distance) >= BLUR_REACH] = 0.0
    return torch.from_numpy(weights / weights.sum(axis=1, keepdims=True))


def _gamma(image_CZYX: Tensor, gamma: float) -> Tensor:
    """Raise each channel to a power between its own extremes, which stay as they are."""
    low, high = image_CZYX.flatten(1).aminmax(dim=1)
    shape = (-1, 1, 1, 1)
    low, reach = low.view(shape), (high - low).view(shape).clamp_min(1e-7)
    return (image_CZYX - low).div_(reach).pow_(gamma).mul_(reach).add_(low)
