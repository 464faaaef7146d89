"""Time one augmented sample: medstill, batchgeneratorsv2 and MONAI doing the same, one thread.

Rotation, scale and shear of image and label, gamma, noise and blur, each with probability 1, on
128 x 128 slices and 64^3 volumes of one channel.

    python scripts/benchmark_augment.py          (pip install batchgeneratorsv2 monai)
"""

from __future__ import annotations

import time
from collections.abc import Callable

import monai.transforms as mt
import numpy as np
import torch
from batchgeneratorsv2.transforms.intensity.gamma import GammaTransform
from batchgeneratorsv2.transforms.intensity.gaussian_noise import GaussianNoiseTransform
from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from rich.console import Console
from rich.table import Table

from medstill.config import AugmentationConfig
from medstill.patches.augment import apply, draw

SIZES = {"128 x 128": (1, 128, 128), "64 x 64 x 64": (64, 64, 64)}
RADIANS = float(np.deg2rad(15))
Sample = Callable[[torch.Tensor, torch.Tensor], object]


def own(patch_zyx: tuple[int, int, int]) -> Sample:
    """Draw and apply of this package."""
    config = AugmentationConfig(
        affine_probability=1, gamma_probability=1, noise_probability=1, blur_probability=1
    )
    generator = np.random.default_rng(0)

    def sample(image: torch.Tensor, label: torch.Tensor) -> object:
        return apply(image, label, draw(generator, config, (1.0, 1.0, 1.0), patch_zyx))

    return sample


def batchgenerators(patch_zyx: tuple[int, int, int]) -> Sample:
    """The transforms that nnU-Net composes; it has no shear."""
    size = patch_zyx[1:] if patch_zyx[0] == 1 else patch_zyx
    transforms = ComposeTransforms(
        [
            SpatialTransform(
                size,
                0,
                random_crop=False,
                p_rotation=1,
                rotation=(-RADIANS, RADIANS),
                p_scaling=1,
                scaling=(0.85, 1.2),
                p_synchronize_scaling_across_axes=1,
                mode_seg="nearest",
            ),
            GaussianBlurTransform((0.1, 1.5), synchronize_channels=True, synchronize_axes=True),
            GammaTransform((0.8, 1.25), 0, True, 1, 0),
            GaussianNoiseTransform((0.0, 0.05**2), synchronize_channels=True),
        ]
    )

    def sample(image: torch.Tensor, label: torch.Tensor) -> object:
        if patch_zyx[0] == 1:
            image, label = image[:, 0], label[0]
        return transforms(image=image.clone(), segmentation=label[None].to(torch.int16))

    return sample


def monai(patch_zyx: tuple[int, int, int]) -> Sample:
    """The dictionary transforms of MONAI."""
    flat = patch_zyx[0] == 1
    axes = 1 if flat else 3
    transforms = mt.Compose(
        [
            mt.RandAffined(
                ("image", "label"),
                prob=1,
                rotate_range=(RADIANS,) * axes,
                scale_range=((-0.15, 0.2),) * (2 if flat else 3),
                shear_range=(0.1,) * (2 if flat else 6),
                mode=("bilinear", "nearest"),
                padding_mode="zeros",
            ),
            mt.RandGaussianSmoothd("image", *[(0.1, 1.5)] * 3, prob=1),
            mt.RandAdjustContrastd("image", prob=1, gamma=(0.8, 1.25)),
            mt.RandGaussianNoised("image", prob=1, std=0.05),
        ]
    )

    def sample(image: torch.Tensor, label: torch.Tensor) -> object:
        if flat:
            image, label = image[:, 0], label[0]
        return transforms({"image": image, "label": label[None]})

    return sample


def milliseconds(patch_zyx: tuple[int, int, int], repeats: int) -> list[float]:
    """Median processor time of one sample of each candidate; they take turns."""
    generator = torch.Generator().manual_seed(0)
    image = torch.rand((1, *patch_zyx), generator=generator)
    label = torch.randint(0, 5, patch_zyx, generator=generator, dtype=torch.uint8)
    samples = [make(patch_zyx) for make in CANDIDATES.values()]
    times_s = np.zeros((repeats, len(samples)))
    for turn in range(repeats):
        for i, sample in enumerate(samples):
            begin_s = time.process_time()
            sample(image, label)
            times_s[turn, i] = time.process_time() - begin_s
    return [1e3 * float(time_s) for time_s in np.median(times_s[repeats // 10 :], axis=0)]


CANDIDATES: dict[str, Callable[[tuple[int, int, int]], Sample]] = {
    "torch, directly (medstill)": own,
    "batchgeneratorsv2": batchgenerators,
    "monai.transforms": monai,
}


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    columns = [milliseconds(size, 400 if size[0] == 1 else 40) for size in SIZES.values()]
    table = Table("ms a sample, one thread", *SIZES)
    for name, *row in zip(CANDIDATES, *columns, strict=True):
        table.add_row(name, *(f"{cell:.2f}" for cell in row))
    Console().print(table)


if __name__ == "__main__":
    main()
