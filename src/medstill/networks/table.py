"""The networks there are, and how one is built from its configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from torch import nn

from medstill.config import NetworkConfig
from medstill.errors import ConfigError
from medstill.networks import foreign
from medstill.networks.compact import compact, compact_dw, compact_fine
from medstill.networks.request import Request
from medstill.networks.transunet import transunet
from medstill.networks.unet import unet

SCALES = ("E", "B", "D")
"""Encoder feature at stride 4, bottleneck, last block of the segmentation decoder."""


@dataclass(frozen=True)
class Entry:
    """A network of our own."""

    make: Callable[[Request], nn.Module]
    taps: Mapping[str, str]
    """Preset scale -> layer name."""
    reconstructs: bool
    """Whether it can have a second decoder."""
    purpose: str
    deepens: bool = False
    """Whether it has transformer blocks, whose number the depth factor scales."""
    teaches: bool = False
    """Whether it is listed with its second decoder, as a teacher."""
    head: str = "segmentation.head"
    """The layer that gives the logits; its bias has one entry for each of their channels."""
    design: int = 1
    """Raised whenever the layers change: trainings of an older design are then not taken for it."""


# In the U-Nets E is what the second pooling gives: in the students, which have two poolings, the
# block behind it is the bottleneck already. The compact networks are deeper: E is their block.
NETWORKS: dict[str, Entry] = {
    "unet-t1": Entry(
        partial(unet, widths=(64, 128, 256, 512, 1024), convs=2),
        {"E": "encoder.pools.1", "B": "encoder.bottleneck", "D": "segmentation.blocks.0"},
        reconstructs=True,
        purpose="teacher: multi-task U-Net of the thesis",
        teaches=True,
    ),
    "transunet-t2": Entry(
        transunet,
        {"E": "encoder.pools.1", "B": "encoder.bottleneck", "D": "segmentation.blocks.0"},
        reconstructs=True,
        purpose="teacher: multi-task TransUNet, attends to every place at stride 16",
        deepens=True,
        teaches=True,
    ),
    "unet-s1": Entry(
        partial(unet, widths=(16, 32, 64), convs=1),
        {"E": "encoder.pools.1", "B": "encoder.bottleneck", "D": "segmentation.blocks.0"},
        reconstructs=True,
        purpose="student of the thesis",
    ),
    "unet-s2": Entry(
        partial(unet, widths=(32, 64, 128), convs=1),
        {"E": "encoder.pools.1", "B": "encoder.bottleneck", "D": "segmentation.blocks.0"},
        reconstructs=True,
        purpose="student of the thesis, twice as wide",
    ),
    "compact": Entry(
        compact,
        {"E": "encoder.blocks.1", "B": "encoder.bottleneck", "D": "segmentation.blocks.0"},
        reconstructs=False,
        purpose="default student: half-resolution grid, wide view",
    ),
    "compact-fine": Entry(
        compact_fine,
        {"E": "encoder.blocks.2", "B": "encoder.bottleneck", "D": "segmentation.blocks.0"},
        reconstructs=False,
        purpose="student for small structures: full-resolution edges, wide view",
    ),
    "compact-dw": Entry(
        compact_dw,
        {"E": "encoder.blocks.2", "B": "encoder.bottleneck", "D": "segmentation.blocks.0"},
        reconstructs=False,
        purpose="student of depthwise-separable convolutions",
    ),
}


def known_names() -> tuple[str, ...]:
    """Names of our own networks; `foreign.names()` gives those of MONAI."""
    return tuple(NETWORKS)


def check_name(name: str) -> None:
    """Check a network's name without building it; MONAI is imported only for names not ours.

    Raises:
        UnknownNameError: Neither we nor MONAI have such a network.
        MissingExtraError: The name is not ours and MONAI is not installed.
    """
    if name not in NETWORKS:
        foreign.find(name, ours=known_names())


def design_key(name: str) -> dict[str, int]:
    """What a training's key says of a network's layers.

    First designs say nothing, as keys always did, and neither do MONAI's networks.
    """
    number = NETWORKS[name].design if name in NETWORKS else 1
    return {} if number == 1 else {"design": number}


def can_reconstruct(name: str) -> bool:
    """Whether the network can have a reconstruction decoder beside the segmentation."""
    return name in NETWORKS and NETWORKS[name].reconstructs


def build(
    config: NetworkConfig,
    *,
    spatial_dims: int,
    in_channels: int,
    out_channels: int,
    reconstruction: bool = False,
) -> nn.Module:
    """Build a network; the same state of torch's generator gives the same weights.

    Args:
        config: Name, width and depth factors (our own networks) and options (MONAI's networks).
        spatial_dims: 2 or 3.
        in_channels: Channels of the input.
        out_channels: Channels of the logits: 1 for one foreground class, else all classes.
        reconstruction: Whether a second decoder gives the input back from the same pass.

    Returns:
        The network, with what it was built from as its attribute `request`.

    Raises:
        UnknownNameError: Neither we nor MONAI have such a network.
        ConfigError: An option the network does not take or needs; a width factor for a MONAI
            network; a depth factor for a network without transformer blocks; a reconstruction of
            a network without a second decoder.
    """
    request = Request(
        config.name,
        spatial_dims,
        in_channels,
        out_channels,
        width=config.width,
        depth=config.depth,
        reconstruction=reconstruction,
        options=dict(config.options),
    )
    _check(request)
    if config.name in NETWORKS:
        network = NETWORKS[config.name].make(request)
    else:
        network = foreign.build(request, ours=known_names())
    network.request = request  # type: ignore[assignment]  # a record, not a module
    return network


def _check(request: Request) -> None:
    name = request.name
    if request.spatial_dims not in (2, 3):
        raise ConfigError(f"Networks have 2 or 3 spatial dimensions, not {request.spatial_dims}.")
    check_name(name)
    if request.depth != 1 and not (name in NETWORKS and NETWORKS[name].deepens):
        able = ", ".join(key for key, entry in NETWORKS.items() if entry.deepens)
        raise ConfigError(
            f"A depth factor is for {able}, but the network is '{name}' and depth is "
            f"{request.depth}. Remove it."
        )
    if name in NETWORKS and request.options:
        raise ConfigError(
            f"'{name}' takes a width factor and no options, but options has "
            f"{', '.join(map(str, request.options))}. Remove them; options are for MONAI networks."
        )
    if request.reconstruction and not can_reconstruct(name):
        able = ", ".join(key for key, entry in NETWORKS.items() if entry.reconstructs)
        raise ConfigError(
            f"A reconstruction decoder exists for {able}, but the network is '{name}'. "
            "Choose one of them, or set teacher.reconstruction.weight or the student's "
            "reconstruction_weight to 0."
        )
