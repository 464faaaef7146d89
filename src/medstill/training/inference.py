"""A PyTorch network as a function on arrays, the form in which every network is run and scored."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from medstill.networks import run

FloatArray = NDArray[np.float32]


def logits_function(network: nn.Module) -> Callable[[FloatArray], FloatArray]:
    """Arrays `(B, C, ...)` to logits `(B, C, ...)`, without gradients, on the network's device."""
    return _function(network, reconstruction=False)


def reconstruction_function(network: nn.Module) -> Callable[[FloatArray], FloatArray]:
    """Arrays `(B, C, ...)` to reconstructed images of the same shape."""
    return _function(network, reconstruction=True)


def _function(network: nn.Module, *, reconstruction: bool) -> Callable[[FloatArray], FloatArray]:
    device = next(network.parameters()).device

    @torch.inference_mode()
    def call(image_BC: FloatArray) -> FloatArray:
        output = run(network, torch.from_numpy(np.ascontiguousarray(image_BC)).to(device))
        value = output.reconstruction if reconstruction else output.logits
        assert value is not None
        array: FloatArray = value.float().cpu().numpy()
        return array

    return call


def set_threads(threads: int) -> None:
    """Let PyTorch compute with so many threads in this process."""
    torch.set_num_threads(threads)
