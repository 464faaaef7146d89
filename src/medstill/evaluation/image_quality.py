"""How close a reconstructed image is to its original: PSNR and SSIM.

Both images are clipped to `[0, data_range]` first. A network's output leaves that range, and a cast
to 8 bits without clipping would wrap it round. Shape legend: `...` channels or slices, Y X space.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medstill.errors import ShapeError

WINDOW = 11
SIGMA = 1.5
K1, K2 = 0.01, 0.03

Image = NDArray[np.floating[Any]]


def psnr(reference: Image, image: Image, *, data_range: float = 1.0) -> float:
    """Peak signal-to-noise ratio, `10 log10(data_range^2 / MSE)`.

    Args:
        reference: The original, of any shape.
        image: The reconstruction, of the same shape.
        data_range: Greatest possible value; the least is 0.

    Returns:
        dB, greater is better; infinite for equal images.

    Raises:
        ShapeError: The two shapes differ.

    >>> psnr(np.zeros((2, 3)), np.full((2, 3), 0.1))
    20.0
    """
    first, second = _clipped(reference, image, data_range)
    error = float(np.mean((first - second) ** 2))
    return math.inf if error == 0 else 10 * math.log10(data_range**2 / error)


def ssim(reference: Image, image: Image, *, data_range: float = 1.0) -> float:
    """Mean structural similarity of 2-D images.

    Gaussian window of 11 x 11 pixels with sigma 1.5, population variances, K1 = 0.01, K2 = 0.03,
    and only windows that lie inside the image. Channels and slices are compared one by one and
    averaged; there is no averaging of the image before it, as some programs do for large images.

    Args:
        reference: The original `(..., y, x)`, at least 11 x 11.
        image: The reconstruction, of the same shape.
        data_range: Greatest possible value; the least is 0.

    Returns:
        At most 1, greater is better; 1 for equal images.

    Raises:
        ShapeError: The two shapes differ, or a window does not fit.

    References:
        Wang et al., Image Quality Assessment: From Error Visibility to Structural Similarity,
        IEEE TIP 2004.
    """
    first, second = _clipped(reference, image, data_range)
    if first.ndim < 2 or min(first.shape[-2:]) < WINDOW:
        raise ShapeError(
            f"SSIM needs images of at least {WINDOW} x {WINDOW} pixels, but got the shape "
            f"{first.shape}. Leave SSIM out for images as small as this."
        )
    mean_1, mean_2 = _smooth(first), _smooth(second)
    variances = _smooth(first**2) - mean_1**2 + _smooth(second**2) - mean_2**2
    covariance = _smooth(first * second) - mean_1 * mean_2
    c1, c2 = (K1 * data_range) ** 2, (K2 * data_range) ** 2
    luminance = (2 * mean_1 * mean_2 + c1) / (mean_1**2 + mean_2**2 + c1)
    return float(np.mean(luminance * (2 * covariance + c2) / (variances + c2)))


def _clipped(
    reference: Image, image: Image, data_range: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if reference.shape != image.shape:
        raise ShapeError(
            f"Original and reconstruction must have one shape, but they are {reference.shape} and "
            f"{image.shape}. Compare the reconstruction with the network's own input."
        )
    first, second = (np.clip(a.astype(np.float64), 0, data_range) for a in (reference, image))
    return first, second


def _smooth(image: NDArray[np.float64]) -> NDArray[np.float64]:
    """Gaussian mean over every window inside the image, one axis after the other."""
    offsets = np.arange(WINDOW) - WINDOW // 2
    weights = np.exp(-(offsets**2) / (2 * SIGMA**2))
    weights /= weights.sum()
    for axis in (-2, -1):
        image = np.lib.stride_tricks.sliding_window_view(image, WINDOW, axis=axis) @ weights
    return image
