"""Taps: the outputs of named layers, recorded while a network runs.

Shape legend: B batch, C channels, `...` space (Y X or Z Y X).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from medstill.errors import ConfigError, unknown_name
from medstill.networks.request import request_of
from medstill.networks.table import NETWORKS, SCALES


def layer_names(network: nn.Module) -> tuple[str, ...]:
    """Names of all layers that can be tapped, in order of registration."""
    return tuple(name for name, _ in network.named_modules() if name)


def preset_layer(network: str | nn.Module, scale: str) -> str:
    """The layer of one of our own networks at a preset scale.

    Args:
        network: A network's name, or a network built by `build`.
        scale: `E` (encoder feature at stride 4), `B` (bottleneck) or `D` (last block of the
            segmentation decoder).

    Raises:
        UnknownNameError: No such scale.
        ConfigError: The network is none of ours and has no presets.
    """
    if scale not in SCALES:
        raise unknown_name("preset scale", scale, SCALES)
    name = network if isinstance(network, str) else request_of(network).name
    if name in NETWORKS:
        return NETWORKS[name].taps[scale]
    layers = "" if isinstance(network, str) else f" Its layers are: {_some(layer_names(network))}."
    raise ConfigError(
        f"Preset scales such as '{scale}' exist for {', '.join(NETWORKS)}, but the network is "
        f"'{name}'. Name its layer with student_layer or teacher_layer.{layers}"
    )


class Taps:
    """Records the outputs of named layers while the `with` block runs.

    With `taps = Taps(network, {"E": "encoder.pools.1"})`, inside `with taps:` every forward pass
    of the network fills `taps.features`. Of a layer that runs twice in a pass (a shared one) the
    last output is kept; of a layer that gives a tuple or list, the first tensor. At the end of
    the block, also after an exception, the hooks are removed and the features let go; the same
    object can be used again.
    """

    def __init__(self, network: nn.Module, layers: Mapping[str, str]) -> None:
        """Check the layers.

        Args:
            network: Any network.
            layers: Key of the feature -> name of the layer.

        Raises:
            UnknownNameError: The network has no layer of that name.
        """
        known = dict(network.named_modules())
        for layer in layers.values():
            if not layer or layer not in known:
                raise unknown_name("layer", layer, layer_names(network))
        self._modules = {key: (layer, known[layer]) for key, layer in layers.items()}
        self._handles: list[RemovableHandle] = []
        self._features: dict[str, Tensor] = {}

    @property
    def features(self) -> dict[str, Tensor]:
        """Key -> output `(B, C, ...)` of the last forward pass, with its gradient history.

        Raises:
            RuntimeError: Read outside of the `with` block, where there are none.
        """
        if not self._handles and self._modules:
            raise RuntimeError("Taps.features must be read inside the 'with' block that records.")
        return self._features

    def __enter__(self) -> Self:
        if self._handles:
            raise RuntimeError("These taps are recording already; make a second Taps object.")
        for key, (layer, module) in self._modules.items():
            self._handles.append(module.register_forward_hook(partial(self._keep, key, layer)))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._features = {}

    def _keep(self, key: str, layer: str, module: nn.Module, inputs: Any, output: Any) -> None:
        del module, inputs
        while isinstance(output, (tuple, list)) and output:
            output = output[0]
        if not isinstance(output, Tensor):
            raise ConfigError(
                f"A tapped layer should give a tensor, but '{layer}' gives "
                f"{type(output).__name__}. Tap a layer inside or behind it."
            )
        self._features[key] = output


def tap_channels(
    network: nn.Module, layers: Mapping[str, str], input_shape: Sequence[int]
) -> dict[str, int]:
    """Channels of tapped layers, found by one pass of zeros in eval mode without gradients.

    Batch norm statistics and the modes of all layers are as before afterwards.

    Args:
        network: Any network.
        layers: Key of the feature -> name of the layer.
        input_shape: `(B, channels, ...)` of an input the network takes.

    Raises:
        UnknownNameError: The network has no layer of that name.
        ConfigError: A layer takes no part in the forward pass, or its output is no map over
            places, such as `(B, tokens, width)` of a transformer.
    """
    modes = {module: module.training for module in network.modules()}
    reference = next(network.parameters(), torch.empty(0))
    zeros = torch.zeros(tuple(input_shape), dtype=reference.dtype, device=reference.device)
    try:
        with Taps(network, layers) as taps, torch.no_grad():
            network.eval()(zeros)
            shapes = {key: tuple(feature.shape) for key, feature in taps.features.items()}
    finally:
        for module, mode in modes.items():
            module.training = mode
    for key, layer in layers.items():
        _check_map(layer, shapes.get(key), len(input_shape))
    return {key: shapes[key][1] for key in layers}


def _check_map(layer: str, shape: tuple[int, ...] | None, ndim: int) -> None:
    if shape is None:
        raise ConfigError(
            f"A tapped layer should run in every forward pass, but '{layer}' did not. "
            "Tap another layer."
        )
    if len(shape) != ndim:
        raise ConfigError(
            f"A tapped layer should give a map (B, C, ...) of {ndim} axes like the input, but "
            f"'{layer}' gives {shape}. Tap another layer."
        )


def _some(names: Sequence[str], most: int = 40) -> str:
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest
