"""The sums over places that the losses against labels are made of, from one softmax.

Written out by hand, value and gradient go over the map of probabilities half as often as through
autograd: on 13 organs that was more than half of a small student's step.

Shape legend: B batch, C classes (background included), N places, `...` space (H W or D H W).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from medstill.config import IGNORE
from medstill.losses.numerics import in_full_precision


@dataclass(frozen=True)
class ClassSums:
    """Per sample and class `(B, C)`; p is the softmax of the logits. Ignored places are in none."""

    count: Tensor
    """Places that are labelled as the class."""
    both: Tensor
    """Sum of the class's p over these places."""
    mass: Tensor
    """Sum of the class's p over all places."""
    surprise: Tensor
    """Sum of `-log p` of the class over the places that are labelled as it, in nats."""


@in_full_precision
def class_sums(logits_BC: Tensor, labels_B: Tensor) -> ClassSums:
    """The sums of a batch; gradients flow into the logits.

    Args:
        logits_BC: Logits `(B, C, ...)` with at least two classes.
        labels_B: Class of each place `(B, ...)`, from 0 to C - 1; 255 is ignored.
    """
    logits_BCN = logits_BC.flatten(2).contiguous()
    labels_BN = labels_B.flatten(1).long()
    known_BN = labels_BN != IGNORE
    class_BN = labels_BN.where(known_BN, 0)
    count_BC = _by_class(known_BN.to(logits_BC.dtype), class_BN, logits_BC.shape[1])
    both_BC, mass_BC, surprise_BC = _Sums.apply(  # type: ignore[no-untyped-call]
        logits_BCN, class_BN, known_BN
    )
    return ClassSums(count_BC, both_BC, mass_BC, surprise_BC)


class _Sums(torch.autograd.Function):
    """With r the p of a place's own class, and A, M, S the gradients of both, mass and surprise:

    d/dz_k = p_k (M_k - sum_c p_c M_c - r A + S) + [k is the place's class] (r A - S).
    """

    @staticmethod
    def forward(
        ctx: Any, logits_BCN: Tensor, class_BN: Tensor, known_BN: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        logarithm_BCN = logits_BCN.log_softmax(dim=1)
        own_BN = _pick(logarithm_BCN, class_BN)
        p_BCN = logarithm_BCN.exp_()
        ctx.save_for_backward(p_BCN, class_BN, known_BN)
        classes = logits_BCN.shape[1]
        both_BC = _by_class(own_BN.exp() * known_BN, class_BN, classes)
        surprise_BC = _by_class(-own_BN.where(known_BN, 0), class_BN, classes)
        mass_BC = (p_BCN @ known_BN.to(p_BCN.dtype).unsqueeze(2)).squeeze(2)
        return both_BC, mass_BC, surprise_BC

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, both_BC: Tensor, mass_BC: Tensor, surprise_BC: Tensor
    ) -> tuple[Tensor, None, None]:
        p_BCN, class_BN, known_BN = ctx.saved_tensors
        own_BN = _pick(p_BCN, class_BN) * both_BC.gather(1, class_BN)
        own_BN -= surprise_BC.gather(1, class_BN)
        shared_BN = (mass_BC.unsqueeze(1) @ p_BCN).squeeze(1) + own_BN
        gradient_BCN = p_BCN * (mass_BC.unsqueeze(2) - shared_BN.unsqueeze(1))
        gradient_BCN.scatter_add_(1, class_BN.unsqueeze(1), own_BN.unsqueeze(1))
        if not bool(known_BN.all()):
            gradient_BCN *= known_BN.unsqueeze(1)
        return gradient_BCN, None, None


def _pick(values_BCN: Tensor, class_BN: Tensor) -> Tensor:
    return values_BCN.gather(1, class_BN.unsqueeze(1)).squeeze(1)


def _by_class(values_BN: Tensor, class_BN: Tensor, classes: int) -> Tensor:
    # One after the other, a hundred thousand float32 would lose their last digits; Apple's devices
    # have nothing wider.
    wide = values_BN.dtype if values_BN.device.type == "mps" else torch.float64
    sums_BC = values_BN.new_zeros((len(values_BN), classes), dtype=wide)
    return sums_BC.scatter_add_(1, class_BN, values_BN.to(wide)).to(values_BN.dtype)
