"""The student-side projector; it exists while training and is dropped at export.

Shape legend: P places, C channels, D embedding dimensions.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class Projector(nn.Module):
    """1x1 convolution, norm, ReLU, 1x1 convolution, applied to sampled places.

    On single places a 1x1 convolution is a linear layer. The norm is taken over the channels of
    each place, so that one place does not depend on which others were drawn, and a batch of
    one works.

    Args:
        channels: Channels of the student's feature.
        dimensions: Dimensions of the teacher's embedding.
        generator: Draws the initial weights; the global random state is not touched, so that a
            student keeps its initial weights with or without projectors.
    """

    def __init__(self, channels: int, dimensions: int, generator: torch.Generator) -> None:
        super().__init__()
        self.first = _linear(channels, dimensions, generator)
        self.norm = nn.LayerNorm(dimensions)
        self.second = _linear(dimensions, dimensions, generator)

    def forward(self, rows_PC: Tensor) -> Tensor:
        """Project rows `(P, C)` to `(P, D)`."""
        projected: Tensor = self.second(torch.relu(self.norm(self.first(rows_PC))))
        return projected


def _linear(inputs: int, outputs: int, generator: torch.Generator) -> nn.Linear:
    # Built without storage, so that the default initialisation draws nothing.
    layer = nn.Linear(inputs, outputs, device="meta").to_empty(device="cpu")
    bound = 1 / math.sqrt(inputs)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.uniform_(-bound, bound, generator=generator)
    return layer
