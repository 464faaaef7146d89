"""Precision, shapes and lengths: what every loss agrees on.

Shape legend: B batch, C classes or channels, P places, D embedding dimensions, `...` space.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

from medstill.errors import ShapeError

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

LEAST_SQUARED_LENGTH = 1e-8
"""Added to squared lengths, so that the gradient of a vector of length 0 stays finite."""


def _widened(value: Any) -> Any:
    if isinstance(value, Tensor) and value.dtype in (torch.float16, torch.bfloat16):
        # Sums over places want these beside each other, whatever the networks computed with.
        return value.to(torch.float32, memory_format=torch.contiguous_format)
    return value


def in_full_precision(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Let a loss compute in float32 or better, whatever precision its networks run in.

    Half-precision tensors are widened and autocast is off inside: sums of exponentials over
    thousands of places lose all their digits in bfloat16.

    Args:
        function: A loss, or a part of one, whose first argument is a tensor.
    """

    @functools.wraps(function)
    def wrapped(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        tensors = (value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
        with torch.autocast(next(tensors).device.type, enabled=False):
            return function(*map(_widened, args), **{k: _widened(v) for k, v in kwargs.items()})

    return wrapped


def require_same_shape(student: Sequence[int], teacher: Sequence[int], what: str) -> None:
    """Refuse two shapes that differ.

    Args:
        student: Shape on the student's side.
        teacher: Shape on the teacher's side.
        what: What is compared, for the message.

    Raises:
        ShapeError: The shapes differ.
    """
    if tuple(student) != tuple(teacher):
        raise ShapeError(
            f"{what} must have one shape, but the student's is {tuple(student)} and the "
            f"teacher's {tuple(teacher)}. Give both networks the same view of the same images."
        )


def as_class_logits(logits_BC: Tensor) -> Tensor:
    """Class logits with at least two classes: one channel z becomes the two logits (0, z).

    The softmax of (0, z) is (1 - sigmoid(z), sigmoid(z)), so a sigmoid network and a softmax
    network meet the same losses, and no softmax ever runs over a single channel.

    Args:
        logits_BC: Network output `(B, C, ...)`.

    Returns:
        Logits `(B, max(C, 2), ...)`.
    """
    if logits_BC.shape[1] == 1:
        return torch.cat((torch.zeros_like(logits_BC), logits_BC), dim=1)
    return logits_BC


def predicted_classes(logits_BC: Tensor) -> Tensor:
    """The class with the largest logit at each place `(B, ...)`; the first one of several.

    Args:
        logits_BC: Class logits with at least two classes.
    """
    # On the CPU, max over the class axis is about ten times as fast as argmax.
    return logits_BC.max(dim=1).indices


def unit_vectors(vectors_BD: Tensor) -> Tensor:
    """Vectors of length 1 along axis 1; a vector of length 0 stays 0, with a finite gradient.

    Args:
        vectors_BD: `(B, D, ...)`.
    """
    squared = vectors_BD.square().sum(dim=1, keepdim=True)
    return vectors_BD * (squared + LEAST_SQUARED_LENGTH).rsqrt()


def weighted_mean(values_B: Tensor, weight_B: Tensor | None) -> Tensor:
    """Mean over all entries, each with its weight; the scale of the weights does not matter.

    Args:
        values_B: `(B, ...)`.
        weight_B: Non-negative weights of the same shape; None weighs all alike.

    Raises:
        ShapeError: The two shapes differ.
    """
    if weight_B is None:
        return values_B.mean()
    require_weight_shape(weight_B, values_B.shape)
    return (values_B * weight_B).sum() / weight_B.sum().clamp_min(1e-12)


def require_weight_shape(weight_B: Tensor, places: Sequence[int]) -> None:
    """Refuse a map of weights that does not have one weight per place.

    Args:
        weight_B: The weights.
        places: The shape `(B, ...)` that they must have.

    Raises:
        ShapeError: The shapes differ.
    """
    if tuple(weight_B.shape) != tuple(places):
        raise ShapeError(
            f"weight_B must hold one weight per place, {tuple(places)}, but its shape is "
            f"{tuple(weight_B.shape)}. Leave out the channel axis."
        )
