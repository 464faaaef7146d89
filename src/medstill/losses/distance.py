"""The teacher's third task: how far is it to the border of each structure?

Shape legend: B batch, C foreground classes or channels, `...` space (H W or D H W).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import SimpleITK as sitk
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from medstill.config import IGNORE
from medstill.losses.numerics import in_full_precision

Mask = NDArray[np.bool_]
Distances = NDArray[np.float32]


class SignedDistance(nn.Module):
    """A head on a decoder's last features, and its loss: the mean absolute error of the distances.

    The head is a 1x1 convolution to one channel a foreground class, and tanh. It is trained with
    the network and is no part of it: checkpoints for inference and exports do not hold it. Where
    the features are coarser than the labels, its answer is interpolated linearly.

    Args:
        channels: Channels of the features.
        classes: Number of classes, background included.
        spacing_mm: Spacing of the labels, array order; its length is the number of dimensions.
        limit_mm: Distance that becomes 1; what is farther counts as just as far.
        generator: Draws the head's initial weights; the global random state is not touched.

    References:
        Navarro et al., Shape-Aware Complementary-Task Learning for Multi-Organ Segmentation,
        arXiv:1908.05099: distances per organ as a second task beside the segmentation. Xue et al.,
        Shape-Aware Organ Segmentation by Predicting Signed Distance Maps, arXiv:1912.03849: sign,
        scaling to [-1, 1], tanh and absolute error; here without its product term, with distances
        in mm that are cut off at `limit_mm`, and dropped at inference.
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        *,
        spacing_mm: Sequence[float],
        limit_mm: float,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.spacing_mm, self.limit_mm = tuple(spacing_mm), limit_mm
        conv = nn.Conv2d if len(spacing_mm) == 2 else nn.Conv3d
        # Built without storage, so that the default initialisation draws nothing.
        self.head = conv(channels, classes - 1, 1, device="meta").to_empty(device="cpu")
        with torch.no_grad():
            self.head.weight.normal_(std=1 / math.sqrt(channels), generator=generator)
            nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]

    def forward(self, features_BC: Tensor, labels_B: Tensor) -> Tensor:
        """The error of what the features say; see `distance_loss`.

        Args:
            features_BC: `(B, channels, ...)`.
            labels_B: Class of each place `(B, ...)`, 255 where ignored.
        """
        answer_BC = self.head(features_BC)
        if answer_BC.shape[2:] != labels_B.shape[1:]:
            mode = "bilinear" if len(self.spacing_mm) == 2 else "trilinear"
            answer_BC = F.interpolate(answer_BC, size=labels_B.shape[1:], mode=mode)
        target_BC, known_BC = signed_distances(
            labels_B, self.head.out_channels + 1, self.spacing_mm, self.limit_mm
        )
        return distance_loss(answer_BC.tanh(), target_BC, known_BC)


@in_full_precision
def distance_loss(answer_BC: Tensor, target_BC: Tensor, known_BC: Tensor) -> Tensor:
    """Mean absolute error over the places and classes whose distance is known.

    Args:
        answer_BC: Predicted distances `(B, C, ...)`, 1 at `limit_mm`.
        target_BC: True ones, same shape.
        known_BC: Which of them count.

    Returns:
        Scalar in [0, 2]; 0 with gradient 0 when nothing is known.
    """
    known_BC = known_BC.to(answer_BC.device)
    error_BC = (answer_BC - target_BC.to(answer_BC.device)).abs()
    return (error_BC * known_BC).sum() / known_BC.sum().clamp_min(1)


def signed_distances(
    labels_B: Tensor, classes: int, spacing_mm: Sequence[float], limit_mm: float
) -> tuple[Tensor, Tensor]:
    """Distance from each place to the nearest one on the other side of each structure's border.

    Distances run from centre to centre, within the patch: what lies beyond its edge is not seen.
    Outside of a structure they are positive, inside negative. They are cut off at `limit_mm` and
    divided by it; a structure that is not there is 1 everywhere. An ignored place, and one that
    is nearer to an ignored place than to the border, is not known: the ignored place might be
    the structure's.

    Args:
        labels_B: Class of each place `(B, ...)`, 255 where ignored.
        classes: Number of classes, background included.
        spacing_mm: Spacing in array order.
        limit_mm: Greatest distance.

    Returns:
        Targets `(B, C, ...)` float32 in [-1, 1] and which of them are known, on the CPU.
    """
    samples = [np.asarray(label) for label in labels_B.cpu()]
    targets = [_stacked(label, classes, spacing_mm, limit_mm) for label in samples]
    target_BC = torch.from_numpy(np.stack(targets))
    known_BC = torch.ones(target_BC.shape, dtype=torch.bool)
    for index, label in enumerate(samples):
        ignored = label == IGNORE
        if ignored.any():
            reach = _distance_mm(ignored, spacing_mm) / limit_mm
            known_BC[index] = torch.from_numpy((reach >= np.abs(targets[index])) & ~ignored)
    return target_BC, known_BC


def _stacked(
    label: NDArray[np.integer], classes: int, spacing_mm: Sequence[float], limit_mm: float
) -> Distances:
    maps = [_signed_mm(label == value, spacing_mm, limit_mm) for value in range(1, classes)]
    return np.stack(maps) / np.float32(limit_mm)


def _signed_mm(mask: Mask, spacing_mm: Sequence[float], limit_mm: float) -> Distances:
    signed = np.full(mask.shape, limit_mm, dtype=np.float32)
    if not mask.any():
        return signed
    # Beyond the limit nothing has to be computed; two thirds of the time are saved by it.
    near = _window(mask, [math.ceil(limit_mm / step) + 1 for step in spacing_mm])
    part = mask[near]
    inside = limit_mm if part.all() else _distance_mm(~part, spacing_mm)
    distance = np.where(part, -inside, _distance_mm(part, spacing_mm))
    signed[near] = np.clip(distance, -limit_mm, limit_mm)
    return signed


def _window(mask: Mask, margin: Sequence[int]) -> tuple[slice, ...]:
    """The box around a mask with a margin, cut at the border of the array."""
    found = []
    for axis, width in enumerate(margin):
        others = tuple(other for other in range(mask.ndim) if other != axis)
        places = np.flatnonzero(mask.any(axis=others))
        found.append(slice(max(0, int(places[0]) - width), int(places[-1]) + width + 1))
    return tuple(found)


def _distance_mm(mask: Mask, spacing_mm: Sequence[float]) -> Distances:
    """Distance of every place to the nearest place of a mask that is not empty."""
    if mask.all():
        return np.zeros(mask.shape, dtype=np.float32)
    image = sitk.GetImageFromArray(mask.astype(np.uint8))
    image.SetSpacing([float(step) for step in reversed(spacing_mm)])
    signed = sitk.SignedMaurerDistanceMap(
        image, insideIsPositive=False, squaredDistance=False, useImageSpacing=True
    )
    distance: Distances = np.maximum(sitk.GetArrayFromImage(signed), 0)
    return distance
