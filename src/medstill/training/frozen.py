"""The teacher during distillation: it cannot be trained by accident.

Shape legend: B batch, C channels, `...` = Y X in 2-D, Z Y X in 3-D.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from medstill.losses.places import LEAST_STRIDE, area_pool
from medstill.networks import Output, run, without_reconstruction
from medstill.networks.taps import Taps

LOGITS = "logits"

Said = Mapping[str, Tensor]
"""What a teacher said of fixed views, as it is kept: `logits` and features, channels last."""


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

    def __init__(
        self, network: nn.Module, layers: Mapping[str, str], *, reduced: bool = False
    ) -> None:
        """Freeze `network` and choose its tapped layers (scale -> layer name).

        A reconstruction decoder that no tap looks at is left out: it would cost a third of the
        teacher's time for nothing. `reduced` brings features to stride 4 or more, and all to
        float32, as they are kept of fixed views.
        """
        if not any(layer.startswith("reconstruction") for layer in layers.values()):
            network = without_reconstruction(network)
        self._network = network.eval().requires_grad_(False)
        self._layers = dict(layers)
        self._reduced = reduced
        self._memory_format = torch.contiguous_format

    def to(self, device: torch.device, memory_format: torch.memory_format) -> None:
        """Move the teacher to the student's device and memory format."""
        self._network.to(device=device)
        self._network.to(memory_format=memory_format)  # type: ignore[call-overload]
        self._memory_format = memory_format

    @torch.no_grad()
    def __call__(self, image_BC: Tensor) -> TeacherView:
        """Logits and tapped features of the same view that the student sees."""
        with Taps(self._network, self._layers) as taps:
            output: Output = run(self._network, image_BC)
            features = {name: value.detach() for name, value in taps.features.items()}
        view = TeacherView(output.logits.detach(), features)
        return self._reduce(view, image_BC) if self._reduced else view

    def _reduce(self, view: TeacherView, image_BC: Tensor) -> TeacherView:
        most = [math.ceil(size / LEAST_STRIDE) for size in image_BC.shape[2:]]

        def kept(map_BC: Tensor) -> Tensor:
            return map_BC.float().contiguous(memory_format=self._memory_format)

        def coarse(map_BC: Tensor) -> Tensor:
            sizes = zip(map_BC.shape[2:], most, strict=True)
            return kept(area_pool(map_BC.float(), [min(pair) for pair in sizes]))

        features = {name: coarse(map_BC) for name, map_BC in view.features.items()}
        return TeacherView(kept(view.logits_BC), features)


@dataclass(frozen=True)
class KeptTeacher:
    """Says what a teacher said of fixed views, as `FrozenTeacher` would: there is no network."""

    names: Mapping[str, str]
    """Scale -> name of its features."""

    def __call__(self, said: Said) -> TeacherView:
        """The answers `(B, ..., C)` to a batch, in whatever precision they are kept."""
        maps = {name: said[name].float().movedim(-1, 1) for name in {LOGITS, *self.names.values()}}
        return TeacherView(maps[LOGITS], {scale: maps[name] for scale, name in self.names.items()})
