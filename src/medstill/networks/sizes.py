"""Which input sizes a network takes."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
from torch import nn

from medstill.errors import ShapeError
from medstill.networks.output import run
from medstill.networks.request import Request, request_of

MULTIPLES = (1, 2, 4, 8, 16, 32, 64)
LEAST_TRIAL_SIZE = 64


def size_multiple(network: nn.Module) -> int:
    """The number that each spatial size of an input must be divisible by.

    Own networks know it. Others are tried with odd multiples of 1, 2, 4, ... 64 (of 64 pixels or
    more) without computing anything where that is possible. A network built for one `img_size`
    takes just that: the greatest common divisor of its edges is returned.

    Raises:
        ShapeError: The network takes none of the sizes tried.
        ConfigError: What input the network takes cannot be found out.
    """
    known = getattr(network, "size_multiple", None)
    if isinstance(known, int):
        return known
    request = request_of(network)
    size = fixed_size(request)
    if size is not None:
        return math.gcd(*size)
    failure = None
    for device in ("meta", "cpu"):
        twin = copy.deepcopy(network).to(device).eval()
        for multiple in MULTIPLES:
            failure = _failure(twin, request, multiple, device)
            if failure is None:
                return multiple
    raise ShapeError(
        f"'{request.name}' should take images whose sizes are divisible by one of "
        f"{', '.join(map(str, MULTIPLES))}, but fails on all of these ({failure}). "
        "If it is made for one size, set network.options.img_size to the patch size; "
        "otherwise choose another network."
    )


def check_size(network: nn.Module, size: Sequence[int]) -> None:
    """Check that a network takes images of a size.

    Args:
        network: Any network.
        size: Spatial sizes in array order.

    Raises:
        ShapeError: A size is not divisible by `size_multiple`, or not the one `img_size` that the
            network was built for; names a size that fits.
    """
    fixed = fixed_size(request_of(network))
    if fixed is not None and tuple(size) != fixed:
        raise ShapeError(
            f"'{request_of(network).name}' was built for the size {fixed} alone, but got "
            f"{tuple(size)}. Set network.options.img_size to the patch size."
        )
    multiple = size_multiple(network)
    if all(edge > 0 and edge % multiple == 0 for edge in size):
        return
    nearest = tuple(max(1, math.ceil(edge / multiple)) * multiple for edge in size)
    raise ShapeError(
        f"'{request_of(network).name}' takes sizes divisible by {multiple}, but got {tuple(size)}. "
        f"Set the patch size to {nearest}, or pad to it."
    )


def fixed_size(request: Request) -> tuple[int, ...] | None:
    """The one size a network was made for by its option `img_size`, or None."""
    found = request.options.get("img_size")
    if found is None:
        return None
    return (int(found),) * request.spatial_dims if isinstance(found, int) else tuple(found)


def _failure(network: nn.Module, request: Request, multiple: int, device: str) -> str | None:
    times = math.ceil(LEAST_TRIAL_SIZE / multiple)
    # Odd multiples, all different: a network that needs twice as much fails on them.
    odd = times + 1 - times % 2
    sizes = [multiple * (odd + 2 * axis) for axis in range(request.spatial_dims)]
    x = torch.zeros(1, request.in_channels, *sizes, device=device)
    try:
        with torch.no_grad():
            run(network, x)
    # How a foreign network fails on a size it does not take is not ours to know.
    except Exception as error:
        return _first_line(error)
    return None


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
