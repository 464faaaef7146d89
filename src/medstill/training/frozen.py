"""The teacher during distillation: it cannot be trained by accident."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from medstill.networks import Output, run, without_reconstruction
from medstill.networks.taps import Taps


@dataclass(frozen=True)
class TeacherView:
    """What the teacher says of one batch, without gradients."""

    logits_BC: Tensor
    features: Mapping[str, Tensor]


class FrozenTeacher:
    """A network in eval mode for ever, without gradients.

    It is no `nn.Module`, so it is in no module tree: neither in the optimiser nor in a checkpoint,
    and `train()` of the student does not reach it.
    """

    def __init__(self, network: nn.Module, layers: Mapping[str, str]) -> None:
        """Freeze `network` and choose its tapped layers (scale -> layer name).

        A reconstruction decoder that no tap looks at is left out: it would cost a third of the
        teacher's time for nothing.
        """
        if not any(layer.startswith("reconstruction") for layer in layers.values()):
            network = without_reconstruction(network)
        self._network = network.eval().requires_grad_(False)
        self._layers = dict(layers)

    def to(self, device: torch.device, memory_format: torch.memory_format) -> None:
        """Move the teacher to the student's device and memory format."""
        self._network.to(device=device)
        self._network.to(memory_format=memory_format)  # type: ignore[call-overload]

    @torch.no_grad()
    def __call__(self, image_BC: Tensor) -> TeacherView:
        """Logits and tapped features of the same view that the student sees."""
        with Taps(self._network, self._layers) as taps:
            output: Output = run(self._network, image_BC)
            features = {name: value.detach() for name, value in taps.features.items()}
        return TeacherView(output.logits.detach(), features)
