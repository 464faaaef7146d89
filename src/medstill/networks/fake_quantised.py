"""A network that rounds to 8 bits where its export will, and can learn all the same.

Weights are rounded to signed numbers, one scale a channel; values between the layers to unsigned
ones, one range a place. Gradients go through the rounding as if it were not there, and stop where a
value lies outside its range; they then move the end of the range. Batch norm stands still, as it is
folded in the export; weights of one scale a channel are the same numbers before and after folding.

Shape legend: B batch, C channels, P places, `...` space (Y X or Z Y X).

References:
    Jacob et al., Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
    Inference, arXiv:1712.05877.
    Choi et al., PACT (a range that is learned), arXiv:1805.06085; here with both ends.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Self

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from medstill.errors import ConfigError
from medstill.networks.output import run
from medstill.networks.places import (
    Kind,
    Operation,
    Value,
    rounded,
    with_folded_norms,
)

LEVELS: Final = 255
"""Steps of an unsigned range of 8 bits."""
MOST_WEIGHT: Final = 127
"""Of a signed weight; -128 stays unused, so that zero is in the middle."""

_KINDS: Final[Mapping[str, Kind]] = {
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), "conv"),
    "batch_norm": "norm",
    **dict.fromkeys(("relu", "relu_"), "relu"),
    **dict.fromkeys(("max_pool1d", "max_pool2d", "max_pool3d"), "pool"),
    **dict.fromkeys(("cat", "concat", "concatenate"), "concat"),
}
_NORMS: Final = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_IMAGE: Final = 0
"""The number of the network's input among its values."""


class FakeQuantised(nn.Module):
    """A network that computes in float what its export computes in 8-bit integers.

    `network` is the network itself, not a copy: what is learned stands in it and in the ranges.
    """

    def __init__(self, network: nn.Module, images: Iterable[Tensor]) -> None:
        """Find the places where it rounds, and their first ranges: from least to greatest value.

        Args:
            network: In evaluation mode; one that takes the same steps for every image.
            images: Batches `(B, C, ...)`, at least one.
        """
        super().__init__()
        self.network = network
        first_BC, *others = images
        tape = _Tape(first_BC)
        with torch.no_grad(), tape:
            run(network, first_BC)
        self._steps = tuple(tape.operations)
        self._places = {value: n for n, value in enumerate(rounded(with_folded_norms(self._steps)))}
        low_P, high_P = self._extremes([first_BC, *others])
        self.register_buffer("low_P", low_P)
        self.register_buffer("high_P", high_P)
        # The ends move by shares of the range, so that one learning rate fits every place.
        self.lower_P = nn.Parameter(torch.zeros_like(low_P))
        self.raise_P = nn.Parameter(torch.zeros_like(high_P))
        self.train(network.training)

    def forward(self, image_BC: Tensor) -> Any:
        """What the network answers when it rounds."""
        image_BC = self._rounded(_IMAGE, image_BC)
        with _Replay(self._steps, self._rounded, _rounded_weights) as steps:
            answer = self.network(image_BC)
        steps.demand_all()
        return answer

    def train(self, mode: bool = True) -> Self:
        """Switch everything but batch norm, whose statistics are folded into the export."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, _NORMS):
                module.eval()
        return self

    def grids(self) -> tuple[tuple[float, int], ...]:
        """Scale and zero point of each place, in the order of `places.rounded`."""
        found = (self._grid(place) for place in range(len(self._places)))
        return tuple((float(scale), int(zero)) for scale, zero, *_ in found)

    def _grid(self, place: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Scale, zero point, and both ends of the range with their gradients."""
        low, high = self.low_P[place], self.high_P[place]  # type: ignore[index]
        spread = high - low
        low = (low + spread * self.lower_P[place]).clamp(max=0.0)
        high = (high + spread * self.raise_P[place]).clamp(min=0.0)
        with torch.no_grad():
            scale = ((high - low) / LEVELS).clamp(min=torch.finfo(torch.float32).tiny)
            zero = (-low / scale).round().clamp(0, LEVELS).to(torch.int32)
        return (
            scale,
            zero,
            low + (-zero * scale - low).detach(),
            high + ((LEVELS - zero) * scale - high).detach(),
        )

    def _rounded(self, value: Value, tensor: Tensor) -> Tensor:
        place = self._places.get(value)
        if place is None:
            return tensor
        scale, zero, low, high = self._grid(place)
        inside = tensor.clamp(low, high)
        return torch.fake_quantize_per_tensor_affine(inside, scale, zero, 0, LEVELS)

    def _extremes(self, images: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """The least and the greatest value at each place, 0 included, when nothing rounds."""
        low_P = torch.zeros(len(self._places))
        high_P = torch.zeros(len(self._places))

        def note(value: Value, tensor: Tensor) -> Tensor:
            place = self._places.get(value)
            if place is not None:
                low_P[place] = torch.minimum(low_P[place], tensor.min())
                high_P[place] = torch.maximum(high_P[place], tensor.max())
            return tensor

        with torch.no_grad():
            for image_BC in images:
                note(_IMAGE, image_BC)
                with _Replay(self._steps, note, lambda weight: weight):
                    self.network(image_BC)
        return low_P, high_P


def _rounded_weights(weight: Tensor) -> Tensor:
    with torch.no_grad():
        most_C = weight.abs().flatten(1).amax(dim=1)
        scale_C = (most_C / MOST_WEIGHT).clamp(min=torch.finfo(torch.float32).tiny)
        zero_C = torch.zeros_like(scale_C, dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(
        weight, scale_C, zero_C, 0, -MOST_WEIGHT, MOST_WEIGHT
    )


class _Tape(TorchFunctionMode):
    """Writes down the operations of a network as it runs."""

    def __init__(self, image_BC: Tensor) -> None:
        super().__init__()
        self.operations: list[Operation] = []
        # Values are told apart by their address, so none may be let go meanwhile.
        self._alive = [image_BC]
        self._numbers = {id(image_BC): _IMAGE}

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kind = _kind(function)
        taken = tuple(map(self._number, _values(kind, args)))
        output = function(*args, **(kwargs or {}))
        if isinstance(output, Tensor):
            self.operations.append(Operation(kind, taken, self._number(output, new=True)))
        return output

    def _number(self, value: Tensor, new: bool = False) -> int:
        # An operation in place gives the tensor that it took: another value at one address.
        if new or id(value) not in self._numbers:
            self._numbers[id(value)] = len(self._alive)
            self._alive.append(value)
        return self._numbers[id(value)]


class _Replay(TorchFunctionMode):
    """Runs a network that was taped, with changed weights and values."""

    def __init__(self, steps: Sequence[Operation], at: Any, weights: Any) -> None:
        super().__init__()
        self._steps = steps
        self._at = at
        self._weights = weights
        self._done = 0

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        step = self._steps[self._done] if self._done < len(self._steps) else None
        if step is not None and step.kind == "conv" and _kind(function) == "conv":
            args = (args[0], self._weights(args[1]), *args[2:])
        output = function(*args, **(kwargs or {}))
        if not isinstance(output, Tensor):
            return output
        self._done += 1
        return output if step is None else self._at(step.output, output)

    def demand_all(self) -> None:
        """Refuse a network that took other steps than those that were taped.

        Raises:
            ConfigError: The numbers of steps differ.
        """
        if self._done != len(self._steps):
            raise ConfigError(
                f"Expected a network of {len(self._steps)} operations as for its first image, but "
                f"it took {self._done}. Only networks that take the same steps for every image can "
                "be tuned for 8 bits."
            )


def _kind(function: Any) -> Kind:
    return _KINDS.get(getattr(function, "__name__", ""), "other")


def _values(kind: Kind, args: Sequence[Any]) -> tuple[Tensor, ...]:
    """The tensors that come from other operations."""
    if kind == "concat":
        return tuple(args[0])
    if kind != "other":
        return (args[0],)
    found = [part for arg in args for part in (arg if isinstance(arg, (tuple, list)) else (arg,))]
    return tuple(part for part in found if isinstance(part, Tensor))
