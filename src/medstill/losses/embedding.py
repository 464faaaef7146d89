"""The space in which features are compared: a frozen PCA of the teacher's features.

The PCA is fitted once, on training patients, and stored in buffers. Embeddings of earlier batches
therefore stay valid, and only the student's projector is trained.

Shape legend: B batch, N places, P drawn places, C channels, D dimensions, `...` space.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from medstill.errors import ShapeError, TrainingError
from medstill.losses.projector import Projector

_EXACT: Final = 2**24
"""Whole numbers up to here are exact in float32; beyond, its last index may lie past the end."""


@dataclass(frozen=True)
class FeatureSizes:
    """Counts that a feature term is built for."""

    classes: int
    student_channels: int
    teacher_channels: int


@dataclass(frozen=True)
class Pca:
    """Centre and axes: `(x - mean_C) @ axes_DC.T`."""

    mean_C: Tensor
    axes_DC: Tensor


class Moments:
    """First and second moments of rows that stream in, in float64."""

    def __init__(self, channels: int) -> None:
        self._count = 0
        self._sum_C = torch.zeros(channels, dtype=torch.float64)
        self._outer_CC = torch.zeros(channels, channels, dtype=torch.float64)

    def add(self, rows_NC: Tensor) -> None:
        """Take in more rows `(N, C)`.

        Raises:
            ShapeError: Another number of channels than at the start.
        """
        channels = len(self._sum_C)
        if rows_NC.dim() != 2 or rows_NC.shape[1] != channels:
            raise ShapeError(
                f"Expected teacher features with {channels} channels, as rows (N, {channels}), "
                f"but their shape is {tuple(rows_NC.shape)}. Tap the layer that was named."
            )
        rows = rows_NC.detach().to("cpu", torch.float64)
        self._count += len(rows)
        self._sum_C += rows.sum(dim=0)
        self._outer_CC += rows.T @ rows

    def principal(self, dimensions: int) -> Pca:
        """The leading principal axes, scaled so that embedded rows have mean squared length <= 1.

        The sign of each axis is fixed (its largest entry is positive), so that the same features
        give the same embedding.

        Raises:
            TrainingError: Fewer than two rows came in, or they are all alike or not finite.
        """
        mean_C = self._sum_C / max(self._count, 1)
        covariance_CC = self._outer_CC / max(self._count, 1) - torch.outer(mean_C, mean_C)
        variance = float(covariance_CC.trace())
        least = 1e-12 * float(mean_C.square().sum())
        if self._count < 2 or not least < variance < float("inf"):
            raise TrainingError(
                "The embedding needs teacher features that differ and are finite, but it saw "
                f"{self._count} places with a total variance of {variance:.3g}. Train the teacher "
                "first, or tap another layer."
            )
        vectors_CC = torch.linalg.eigh(covariance_CC).eigenvectors
        axes_DC = vectors_CC.flip(dims=(1,))[:, :dimensions].T
        largest = axes_DC.gather(1, axes_DC.abs().argmax(dim=1, keepdim=True))
        axes_DC = axes_DC * largest.sign() / variance**0.5
        return Pca(mean_C.float(), axes_DC.float().contiguous())


def fit_pca(row_batches: Iterable[Tensor], dimensions: int) -> Pca:
    """PCA of rows `(N, C)` that stream in, batch by batch; see `Moments`.

    Raises:
        TrainingError: No rows, or rows that are all alike.
        ShapeError: Rows with different channel counts.
    """
    moments = None
    for rows_NC in row_batches:
        moments = moments or Moments(rows_NC.shape[-1])
        moments.add(rows_NC)
    return (moments or Moments(1)).principal(dimensions)


def spread_rows(features_BC: Tensor, most: int = 4096) -> Tensor:
    """At most `most` feature vectors `(N, C)`, evenly spread over the batch, without chance.

    Args:
        features_BC: `(B, C, ...)`.
        most: Upper bound of N.
    """
    flat_BCN = features_BC.detach().flatten(2)
    places = flat_BCN.shape[0] * flat_BCN.shape[2]
    index_P = _spread(places, min(places, most), flat_BCN.device)
    return flat_BCN[index_P // flat_BCN.shape[2], :, index_P % flat_BCN.shape[2]]


def _spread(places: int, count: int, device: torch.device) -> Tensor:
    """So many indices of places, from the first to the last."""
    if places <= _EXACT:
        # Whole steps would round some places otherwise, and repeat no earlier training.
        return torch.linspace(0, places - 1, count, device=device).round().long()
    return torch.arange(count, device=device) * (places - 1) // max(count - 1, 1)


class TeacherEmbedding(nn.Module):
    """The frozen PCA of one layer of the teacher, held in buffers.

    Args:
        channels: Channels C of the teacher's layer.
        dimensions: Dimensions D; no more than C are kept.
    """

    mean_C: Tensor
    axes_DC: Tensor
    fitted: Tensor

    def __init__(self, channels: int, dimensions: int) -> None:
        super().__init__()
        self.dimensions = min(channels, dimensions)
        self.register_buffer("mean_C", torch.zeros(channels))
        self.register_buffer("axes_DC", torch.zeros(self.dimensions, channels))
        self.register_buffer("fitted", torch.tensor(False))

    def fit(self, moments: Moments) -> None:
        """Set the PCA; see `Moments.principal` for what is refused."""
        pca = moments.principal(self.dimensions)
        self.mean_C.copy_(pca.mean_C)
        self.axes_DC.copy_(pca.axes_DC)
        self.fitted.fill_(True)

    def forward(self, rows_PC: Tensor) -> Tensor:
        """Embed rows `(P, C)` to `(P, D)`, without gradient.

        Raises:
            TrainingError: The PCA is not fitted.
        """
        if not bool(self.fitted):
            raise TrainingError(
                "The teacher's embedding must be fitted before the first step, but it is not. "
                "Call Objective.fit_embeddings with teacher features of training patients, or load "
                "a checkpoint that holds it."
            )
        return (rows_PC.detach() - self.mean_C) @ self.axes_DC.T


class EmbeddingSpace(nn.Module):
    """Both sides' way into the space of comparison: projector left, frozen PCA right.

    All feature terms with a projector compare there. For `mse` that deviates from FitNets, which
    compares with the raw channels: with up to 128 channels the PCA is only a rotation about
    the mean, and centring takes away the large common part of features behind a ReLU, which would
    make every cosine near 1.

    Args:
        dimensions: At most this many; no more than the teacher has channels.
        sizes: Channels on both sides.
        generator: Draws the projector's initial weights.
    """

    def __init__(self, dimensions: int, sizes: FeatureSizes, generator: torch.Generator) -> None:
        super().__init__()
        self.embedding = TeacherEmbedding(sizes.teacher_channels, dimensions)
        self.projector = Projector(sizes.student_channels, self.embedding.dimensions, generator)

    def forward(self, student_PC: Tensor, teacher_PC: Tensor) -> tuple[Tensor, Tensor]:
        """Rows of both sides `(P, C)` to `(P, D)`, in float32.

        Raises:
            TrainingError: The PCA is not fitted.
        """
        with torch.autocast(student_PC.device.type, enabled=False):
            return self.projector(student_PC.float()), self.embedding(teacher_PC.float())
