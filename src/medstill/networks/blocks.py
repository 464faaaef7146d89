"""The parts own networks are put together from, for 2-D and 3-D alike.

Shape legend: B batch, C channels, `...` space (Y X or Z Y X).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Operations:
    """The layers of one number of spatial dimensions."""

    conv: type[nn.Conv2d] | type[nn.Conv3d]
    conv_transposed: type[nn.ConvTranspose2d] | type[nn.ConvTranspose3d]
    norm: type[nn.BatchNorm2d] | type[nn.BatchNorm3d]
    max_pool: type[nn.MaxPool2d] | type[nn.MaxPool3d]


OPERATIONS = {
    2: Operations(nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d, nn.MaxPool2d),
    3: Operations(nn.Conv3d, nn.ConvTranspose3d, nn.BatchNorm3d, nn.MaxPool3d),
}


def scaled(widths: Sequence[int], factor: float) -> tuple[int, ...]:
    """Every width times `factor`, rounded, at least 1."""
    return tuple(max(1, round(width * factor)) for width in widths)


def normed(ops: Operations, layers: Sequence[nn.Module], channels: int) -> list[nn.Module]:
    """`layers`, then batch norm over `channels`, then ReLU."""
    return [*layers, ops.norm(channels), nn.ReLU(inplace=True)]


def plain_block(
    ops: Operations, channels_in: int, channels: int, *, convs: int, bias: bool
) -> nn.Sequential:
    """`convs` times 3x3 convolution, batch norm, ReLU; keeps the size."""
    layers: list[nn.Module] = []
    for index in range(convs):
        source = channels if index else channels_in
        layers += normed(ops, [ops.conv(source, channels, 3, padding=1, bias=bias)], channels)
    return nn.Sequential(*layers)


def separable_block(
    ops: Operations, channels_in: int, channels: int, *, convs: int
) -> nn.Sequential:
    """`convs` times depthwise 3x3, pointwise 1x1, batch norm, ReLU; keeps the size."""
    layers: list[nn.Module] = []
    for index in range(convs):
        source = channels if index else channels_in
        depthwise = ops.conv(source, source, 3, padding=1, groups=source, bias=False)
        layers += normed(ops, [depthwise, ops.conv(source, channels, 1, bias=False)], channels)
    return nn.Sequential(*layers)


class ConcatTransposed(nn.Module):
    """Doubles the deep feature by a 2x2 transposed convolution and puts it before the skip."""

    def __init__(self, ops: Operations, deep: int, skip: int) -> None:
        super().__init__()
        self.up = ops.conv_transposed(deep, skip, 2, stride=2)

    def forward(self, deep: Tensor, skip: Tensor) -> Tensor:
        """`(B, deep, ...)` and `(B, skip, 2x...)` to `(B, 2 skip, 2x...)`."""
        return torch.cat((self.up(deep), skip), dim=1)


class ConcatNearest(nn.Module):
    """Doubles the deep feature by repetition and puts it before the skip; no parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Upsample(scale_factor=2, mode="nearest")

    def forward(self, deep: Tensor, skip: Tensor) -> Tensor:
        """`(B, deep, ...)` and `(B, skip, 2x...)` to `(B, deep + skip, 2x...)`."""
        return torch.cat((self.up(deep), skip), dim=1)


class AddNearest(nn.Module):
    """Adds the deep feature to the skip, after a 1x1 convolution (on the small grid: cheap)."""

    def __init__(self, ops: Operations, deep: int, skip: int) -> None:
        super().__init__()
        self.match = ops.conv(deep, skip, 1)
        self.up = nn.Upsample(scale_factor=2, mode="nearest")

    def forward(self, deep: Tensor, skip: Tensor) -> Tensor:
        """`(B, deep, ...)` and `(B, skip, 2x...)` to `(B, skip, 2x...)`."""
        added: Tensor = self.up(self.match(deep)) + skip
        return added


class AddTransposed(nn.Module):
    """Doubles the deep feature by a 2x2 transposed convolution and adds it to the skip."""

    def __init__(self, ops: Operations, deep: int, skip: int) -> None:
        super().__init__()
        self.up = ops.conv_transposed(deep, skip, 2, stride=2)

    def forward(self, deep: Tensor, skip: Tensor) -> Tensor:
        """`(B, deep, ...)` and `(B, skip, 2x...)` to `(B, skip, 2x...)`."""
        added: Tensor = self.up(deep) + skip
        return added


CONVOLUTIONS = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def inputs_per_output(layer: nn.Module) -> float:
    """How many numbers a convolution or linear layer sums for one of its outputs.

    Returns:
        The fan-in; for a transposed convolution the mean over its output places. 1 for any
        other layer.
    """
    if isinstance(layer, nn.Linear):
        return layer.in_features
    if not isinstance(layer, (*CONVOLUTIONS, nn.Conv1d, nn.ConvTranspose1d)):
        return 1
    fan_in = layer.in_channels / layer.groups * math.prod(layer.kernel_size)
    return fan_in / math.prod(layer.stride) if layer.transposed else fan_in


def initialise(network: nn.Module) -> None:
    """Draw the weights of all convolutions from torch's generator; biases become 0.

    He's variance 2 / fan-in where a ReLU follows (kernels of 3 and more); 1 / fan-in for the
    linear layers (1x1 and transposed). The same generator state gives the same weights.

    References:
        He et al., Delving Deep into Rectifiers, arXiv:1502.01852.
    """
    for layer in network.modules():
        if isinstance(layer, CONVOLUTIONS):
            gain = 2 if max(layer.kernel_size) > 2 else 1
            nn.init.normal_(layer.weight, std=math.sqrt(gain / inputs_per_output(layer)))
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
