"""Expressions of a MONAI config that compute what none of MONAI's transforms does by itself.

Scans are resampled as `volumes.resampling` does it. MONAI's own `Spacingd` would neither smooth
before it coarsens nor keep the field of view, so the grid and the smoothing are written out here,
and MONAI's `ResampleToMatchd` interpolates onto that grid and, inverted, back. A reference is an @
and a name, so that matrices are multiplied by name.
"""

from __future__ import annotations

from typing import Final

Expressions = dict[str, str]

GRID: Final[Expressions] = {
    "factors": (
        "$lambda image: [1.0 if new == 0 or abs(new / old - 1.0) < @same_spacing else new / old "
        "for old, new in zip(image.pixdim.tolist(), @spacing_mm)]"
    ),
    "sizes": (
        "$lambda image, factors: [size if factor == 1.0 else "
        "max(1, math.ceil(size / factor - @same_spacing)) "
        "for size, factor in zip(image.shape[1:], factors)]"
    ),
    "shifts": (
        "$lambda image, factors: [(old - 1 - (new - 1) * factor) / 2 for old, new, factor in "
        "zip(image.shape[1:], @sizes(image, factors), factors)]"
    ),
    "move": (
        "$lambda shifts, factors: torch.tensor([[factors[0], 0, 0, shifts[0]], "
        "[0, factors[1], 0, shifts[1]], [0, 0, factors[2], shifts[2]], [0, 0, 0, 1]], "
        "dtype=torch.float64)"
    ),
    "grid": (
        "$lambda image, factors: monai.data.MetaTensor("
        "torch.zeros(1).expand(1, *@sizes(image, factors)), "
        "meta={**image.meta, "
        "'affine': torch.matmul(image.affine, @move(@shifts(image, factors), factors))})"
    ),
}
"""The grid of the network's spacing over the field of view of an image."""

SMOOTHING: Final[Expressions] = {
    "bells": (
        "$lambda factor: monai.networks.layers.gaussian_1d("
        "torch.tensor(math.sqrt(factor ** 2 - 1.0) / (2.0 * math.sqrt(2.0 * math.log(2.0)))), "
        "truncated=6.0, approx='scalespace')"
    ),
    "kernel": (
        "$lambda bell: next(part / part.sum() for part in (bell[len(bell) // 2 - reach:"
        "len(bell) // 2 + reach + 1] for reach in range(1, len(bell))) "
        "if part.sum() >= 0.99 or len(part) == len(bell))"
    ),
    "kernels": (
        "$lambda factors: [@kernel(@bells(factor)) if factor > 1.0 else torch.ones(1) "
        "for factor in factors]"
    ),
    "smooth": (
        "$lambda image, factors: monai.utils.convert_to_dst_type("
        "monai.networks.layers.separable_filtering(image.as_tensor()[None], @kernels(factors), "
        "mode='replicate')[0], image)[0]"
    ),
}
"""The Gaussian that is laid over an image along each axis that becomes coarser."""

PERCENTILES: Final[Expressions] = {
    "counted": "$lambda values: values[values != 0] if values.min() == 0 else values",
    "bounds": (
        "$lambda values: tuple(numpy.percentile(@counted(values), @percentiles).tolist()) "
        "if values.any() else (0.0, 1.0)"
    ),
    "ordered": (
        "$lambda ends, values: ends if ends[0] < ends[1] else "
        "(float(values.min()), float(values.max()))"
    ),
    "ends": "$lambda values: @ordered(@bounds(values), values)",
    "scale": (
        "$lambda image: monai.transforms.ScaleIntensityRange("
        "*@ends(image.numpy().astype(float).ravel()), 0.0, 1.0, clip=True)(image)"
    ),
}
"""Percentiles of a volume; where its background is exactly zero, of all other voxels."""

TILING: Final[Expressions] = {
    "rooms": "$lambda sizes: [size - edge for size, edge in zip(sizes, @patch)]",
    "steps": (
        "$lambda sizes: [math.ceil(room / math.ceil(room / stride)) if room > 0 else edge "
        "for room, stride, edge in zip(@rooms(sizes), @strides, @patch)]"
    ),
    "overlaps": (
        "$lambda sizes: [max(0.0, 1.0 - (step + 0.5) / edge) "
        "for step, edge in zip(@steps(sizes), @patch)]"
    ),
    "bell": (
        "$lambda edge: torch.exp(-0.5 * ((torch.arange(edge) - (edge - 1) / 2) "
        "/ (@sigma_share * edge)) ** 2)"
    ),
    "product": (
        "$lambda bells: bells[0][:, None, None] * bells[1][None, :, None] * bells[2][None, None]"
    ),
    "weights": "$@product([@bell(edge) / @bell(edge).min() for edge in @patch])",
}
"""Patches spread as `patches.grid.covering` does it, and the weights that blend them.

MONAI puts patches at multiples of a step and the last one at the end, so that the step is chosen
for each image; half a voxel keeps it whole when MONAI works it out from the overlap again. MONAI's
own weights are cut off at .001, which shows where only corners of patches meet.
"""
