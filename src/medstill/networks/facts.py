"""What a network costs and how far it sees.

Sizes are in array order: `(z, y, x)` in 3-D, `(y, x)` in 2-D.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils.flop_counter import FlopCounterMode

from medstill.config import NetworkConfig
from medstill.networks.blocks import inputs_per_output
from medstill.networks.output import run
from medstill.networks.request import Request, request_of
from medstill.networks.sizes import check_size, fixed_size, size_multiple
from medstill.networks.table import NETWORKS, build

DEFAULT_SIZES = {2: (256, 256), 3: (64, 128, 128)}
"""Spatial dimensions -> the size that multiplications are counted at unless another is given."""

PROBE_LENGTHS = (64, 128, 256, 512)
MOST_PROBE_MACS = 10**10
"""A longer image than the first is tried only below this cost (some seconds in double)."""

NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm)


@dataclass(frozen=True)
class ReceptiveField:
    """How many input places along each axis decide the central logit."""

    size: tuple[int, ...]
    """Pixels or voxels, array order."""
    lower_bound: bool
    """Along some axis the field reached the border of the largest image tried: it is larger."""


@dataclass(frozen=True)
class NetworkFacts:
    """What a network costs and how far it sees."""

    name: str
    spatial_dims: int
    parameters: int
    macs: int
    """Multiply-accumulates of one forward pass of one image of `size`."""
    size: tuple[int, ...]
    receptive_field: ReceptiveField
    size_multiple: int


def describe(
    config: NetworkConfig,
    *,
    spatial_dims: int = 2,
    in_channels: int = 1,
    out_channels: int = 1,
    size: Sequence[int] | None = None,
    reconstruction: bool = False,
) -> NetworkFacts:
    """Build a network and measure it; torch's generator is left as it was.

    Args:
        config: The network.
        spatial_dims: 2 or 3.
        in_channels: Channels of the input.
        out_channels: Channels of the logits.
        size: Spatial size to count multiplications at; None takes `DEFAULT_SIZES`.
        reconstruction: Whether to count a second decoder.

    Raises:
        ConfigError: The network cannot be built.
        ShapeError: The network does not take that size.
    """
    with torch.random.fork_rng(devices=[]):
        network = build(
            config,
            spatial_dims=spatial_dims,
            in_channels=in_channels,
            out_channels=out_channels,
            reconstruction=reconstruction,
        )
        thin = _thin_twin(network, config)
    fixed = fixed_size(request_of(network))
    shape = tuple(size or fixed or DEFAULT_SIZES[spatial_dims])
    return NetworkFacts(
        name=config.name,
        spatial_dims=spatial_dims,
        parameters=parameters(network),
        macs=macs(network, shape),
        size=shape,
        receptive_field=receptive_field(thin),
        size_multiple=size_multiple(network),
    )


def parameters(network: nn.Module) -> int:
    """Number of trainable numbers."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def macs(network: nn.Module, size: Sequence[int]) -> int:
    """Multiply-accumulates of one forward pass of one image, all decoders included.

    Convolutions, transposed convolutions, linear layers and attention count; norms, activations
    and pooling do not. Nothing is computed where the network allows that.

    Args:
        network: Any network.
        size: Spatial size of the image, array order.

    Raises:
        ShapeError: The network does not take that size.
    """
    request = request_of(network)
    check_size(network, size)
    try:
        return _count(copy.deepcopy(network).to("meta"), request, size, "meta")
    # Some networks mix devices or ask for values: those have to compute.
    except (RuntimeError, NotImplementedError):
        return _count(copy.deepcopy(network).cpu(), request, size, "cpu")


def _count(network: nn.Module, request: Request, size: Sequence[int], device: str) -> int:
    x = torch.zeros(1, request.in_channels, *size, device=device)
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        network.eval()(x)
    # The counter takes a multiply-accumulate for two operations.
    return counter.get_total_flops() // 2


def receptive_field(network: nn.Module) -> ReceptiveField:
    """Extent of the non-zero gradient of the central output logit in the input, along each axis.

    Measured on a copy in which nothing can hide a connection: weights are positive (an average
    over the inputs of each layer), norms pass their input on, max-pooling averages. So the answer
    is the field of the architecture, the same for every state of the weights, and means over the
    image inside instance norms are not counted. The image is long along one axis at a time and
    grows to 512 until the field fits or
    the probe becomes too costly.

    Raises:
        ShapeError: The network gives no logits of the size of its input.
    """
    dims = request_of(network).spatial_dims
    probe = _transparent(network)
    fixed = fixed_size(request_of(network))
    multiple = size_multiple(network)
    found = [_extent(network, probe, axis, multiple, fixed) for axis in range(dims)]
    return ReceptiveField(tuple(size for size, _ in found), any(cut for _, cut in found))


def _extent(
    network: nn.Module, probe: nn.Module, axis: int, multiple: int, fixed: tuple[int, ...] | None
) -> tuple[int, bool]:
    request = request_of(network)
    across = multiple if multiple > 1 else 32
    extent, cut = 0, True
    for length in PROBE_LENGTHS if fixed is None else fixed[axis : axis + 1]:
        sizes = list(fixed or (across,) * request.spatial_dims)
        sizes[axis] = math.ceil(length / multiple) * multiple
        if extent and macs(network, sizes) > MOST_PROBE_MACS:
            break
        seen = _gradient(probe, request.in_channels, sizes).movedim(axis, 0).flatten(1).any(dim=1)
        places = seen.nonzero()
        first, last = int(places.min()), int(places.max())
        extent, cut = last - first + 1, first == 0 or last == sizes[axis] - 1
        if not cut:
            break
    return extent, cut


def _gradient(probe: nn.Module, channels: int, sizes: Sequence[int]) -> Tensor:
    x = torch.ones(1, channels, *sizes, dtype=torch.float64, requires_grad=True)
    logits = run(probe, x).logits
    for size in sizes:
        logits = logits.select(2, size // 2)
    (gradient,) = torch.autograd.grad(logits.sum(), x)
    return gradient.abs().sum(dim=(0, 1)) > 0


def _transparent(network: nn.Module) -> nn.Module:
    probe = copy.deepcopy(network).cpu().double().eval()
    _replace(probe)
    for layer in probe.modules():
        if hasattr(layer, "inplace"):
            setattr(layer, "inplace", False)  # noqa: B010  # a plain attribute, unknown to mypy
    with torch.no_grad():
        for layer in probe.modules():
            for name, values in layer.named_parameters(recurse=False):
                values.fill_(0 if name == "bias" else 1 / inputs_per_output(layer))
    return probe.requires_grad_(False)


def _replace(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, NORMS):
            setattr(module, name, nn.Identity())
        elif isinstance(child, (nn.MaxPool2d, nn.MaxPool3d)):
            average = nn.AvgPool2d if isinstance(child, nn.MaxPool2d) else nn.AvgPool3d
            setattr(
                module,
                name,
                average(child.kernel_size, child.stride, child.padding, child.ceil_mode),  # type: ignore[arg-type]
            )
        else:
            _replace(child)


def _thin_twin(network: nn.Module, config: NetworkConfig) -> nn.Module:
    """The same network with few channels: it sees as far, and costs next to nothing to probe."""
    if config.name not in NETWORKS:
        return network
    request = replace(request_of(network), width=1 / 1024, reconstruction=False)
    twin = NETWORKS[config.name].make(request)
    twin.request = request  # type: ignore[assignment]  # a record, not a module
    return twin
