"""The last layer's bias as the logarithm of how often each class occurs.

A network with such a bias begins with the right frequencies everywhere, instead of spending its
first steps on unlearning the rare classes that it saw far too often at random.

References:
    Lin et al., Focal Loss for Dense Object Detection (section 4.1), arXiv:1708.02002: for one
    rare class; here for all classes, at their measured frequencies.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medstill.errors import ConfigError
from medstill.networks.request import Request
from medstill.networks.table import NETWORKS


def set_prior(network: nn.Module, voxels_by_class: Sequence[int]) -> None:
    """Start the bias of a network's head at the logarithm of the class frequencies.

    With one output channel it is the log odds of the foreground. A class without any voxel counts
    as one voxel. No random number is drawn.

    Args:
        network: One of our own networks.
        voxels_by_class: Voxels of each class, background first.

    Raises:
        ConfigError: The network does not say which layer is its head.
    """
    bias_C = head_bias(network)
    count_C = torch.as_tensor([max(1, int(n)) for n in voxels_by_class], dtype=torch.float64)
    log_C = (count_C / count_C.sum()).log()
    if len(bias_C) == 1:
        log_C = log_C[1:] - log_C[:1]
    with torch.no_grad():
        bias_C.copy_(log_C)


def names_its_head(network: nn.Module) -> bool:
    """Whether a network says which layer gives its logits: our own networks do."""
    return _name(network) in NETWORKS


def head_bias(network: nn.Module) -> Tensor:
    """The bias of the layer that gives the logits, one entry a channel.

    Raises:
        ConfigError: The network does not say which layer that is.
    """
    name = _name(network)
    if not names_its_head(network):
        raise ConfigError(
            f"training.head_prior needs a network that says which layer gives its logits, as "
            f"{', '.join(NETWORKS)} do, but '{name}' does not. Set head_prior to false."
        )
    bias_C = network.get_submodule(NETWORKS[name].head).bias
    assert isinstance(bias_C, Tensor)
    return bias_C


def _name(network: nn.Module) -> str:
    request = getattr(network, "request", None)
    return request.name if isinstance(request, Request) else type(network).__name__
