"""What is asked of a network when it is built; it stays with the network as `network.request`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import nn

from medstill.errors import ConfigError


@dataclass(frozen=True)
class Request:
    """All that decides a network besides its initial weights."""

    name: str
    spatial_dims: int
    in_channels: int
    out_channels: int
    width: float = 1.0
    depth: float = 1.0
    reconstruction: bool = False
    options: dict[str, Any] = field(default_factory=dict)


def request_of(network: nn.Module) -> Request:
    """The request a network was built from; of a foreign network, read off its first convolution.

    Raises:
        ConfigError: The network was not built by `build` and holds no convolution to ask.
    """
    found = getattr(network, "request", None)
    if isinstance(found, Request):
        return found
    for layer in network.modules():
        if isinstance(layer, (nn.Conv2d, nn.Conv3d)):
            dims = 2 if isinstance(layer, nn.Conv2d) else 3
            return Request(type(network).__name__, dims, layer.in_channels, 0)
    raise ConfigError(
        f"{type(network).__name__} should have been built by medstill.networks.build, or hold a "
        "2-D or 3-D convolution that tells what input it takes, but has neither. "
        "Set network.request = Request(name, spatial_dims, in_channels, out_channels)."
    )
