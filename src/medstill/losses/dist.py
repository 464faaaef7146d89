"""DIST: keep the teacher's ranking of classes and of places, not its exact probabilities.

Shape legend: B batch, C classes, N places, `...` space (H W or D H W).
"""

from __future__ import annotations

import torch
from torch import Tensor

from medstill.losses.numerics import (
    as_class_logits,
    in_full_precision,
    predicted_classes,
    require_same_shape,
    require_weight_shape,
)

LEAST_VARIANCE = 1e-8
"""Added to the variance of probabilities, so that a constant map has a finite gradient."""


@in_full_precision
def dist(
    student_BC: Tensor,
    teacher_BC: Tensor,
    *,
    temperature: float = 1.0,
    weight_B: Tensor | None = None,
) -> Tensor:
    """One minus Pearson's correlation of class probabilities, between classes and between places.

    Two parts are added. Between the classes at a place, averaged over the places: only for C >= 3,
    because with two classes that correlation is +1 or -1 and has no gradient. Between the places
    of a class, averaged over the pairs of sample and class that count: those where the teacher's
    argmax is that class at some places and another at others. A class that the teacher does not
    predict would be matched to noise, and so would the background of an image that is all
    background.

    Args:
        student_BC: Logits `(B, C, ...)`; one channel z counts as (0, z).
        teacher_BC: Logits of the same shape; no gradient flows into them.
        temperature: Softening T > 0 of the logits.
        weight_B: Non-negative weights `(B, ...)`: of the mean over places in the first part, and of
            the places in the means, variances and covariances of the second.

    Returns:
        Scalar in [0, 4], in [0, 2] for C = 2; 0 for equal probabilities (up to 1e-8 added to each
        variance), 0 with gradient 0 where nothing counts.

    Raises:
        ShapeError: The two shapes differ, or there is not one weight per place.

    References:
        Huang et al., Knowledge Distillation from a Stronger Teacher, arXiv:2205.10536.
        Deviations: absent classes are left out; no factor T^2, because a correlation does not
        shrink with the temperature; both parts have weight 1.
    """
    require_same_shape(student_BC.shape, teacher_BC.shape, "Output maps")
    teacher_BCN = as_class_logits(teacher_BC.detach()).flatten(2)
    student = (as_class_logits(student_BC).flatten(2) / temperature).softmax(dim=1)
    teacher = (teacher_BCN / temperature).softmax(dim=1)
    weight_BN = _weights(weight_B, student_BC)
    counts_BC = _counts(teacher_BCN)
    differs_BC = 1 - _between_places(student, teacher, _shares(weight_BN))
    loss = (differs_BC * counts_BC).sum() / counts_BC.sum().clamp_min(1)
    if student.shape[1] >= 3:
        differs_BN = 1 - _between_classes(student, teacher)
        loss = loss + (differs_BN * weight_BN).sum() / weight_BN.sum().clamp_min(1e-12)
    return loss


def present_classes(logits_BCN: Tensor) -> Tensor:
    """Which classes are predicted somewhere in each sample, as booleans `(B, C)`.

    Args:
        logits_BCN: Class logits, at least two classes, space flattened or not.
    """
    predicted_BN = predicted_classes(logits_BCN).flatten(1)
    absent = torch.zeros(logits_BCN.shape[:2], dtype=torch.bool, device=logits_BCN.device)
    return absent.scatter(1, predicted_BN, True)


def _counts(teacher_BCN: Tensor) -> Tensor:
    present_BC = present_classes(teacher_BCN)
    return present_BC & (present_BC.sum(dim=1, keepdim=True) > 1)


def _weights(weight_B: Tensor | None, student_BC: Tensor) -> Tensor:
    places = (student_BC.shape[0], *student_BC.shape[2:])
    if weight_B is None:
        return student_BC.new_ones(places).flatten(1)
    require_weight_shape(weight_B, places)
    return weight_B.to(student_BC.dtype).flatten(1)


def _shares(weight_BN: Tensor) -> Tensor:
    return weight_BN / weight_BN.sum(dim=1, keepdim=True).clamp_min(1e-12)


def _between_places(a_BCN: Tensor, b_BCN: Tensor, share_BN: Tensor) -> Tensor:
    """Pearson's correlation over places of the given shares (their sum is 1), `(B, C)`."""
    # A product with a vector is a weighted sum that needs no weighted copy of the whole map.
    share_BN1 = share_BN.unsqueeze(2)
    a_BCN = a_BCN - a_BCN @ share_BN1
    b_BCN = b_BCN - b_BCN @ share_BN1
    covariance, variance_a, variance_b = (
        (product @ share_BN1).squeeze(2)
        for product in (a_BCN * b_BCN, a_BCN.square(), b_BCN.square())
    )
    return _correlation(covariance, variance_a, variance_b)


def _between_classes(a_BCN: Tensor, b_BCN: Tensor) -> Tensor:
    """Pearson's correlation over the classes of a place, `(B, N)`."""
    # Probabilities sum to 1, so their mean is known.
    a_BCN, b_BCN = a_BCN - 1 / a_BCN.shape[1], b_BCN - 1 / b_BCN.shape[1]
    return _correlation(
        (a_BCN * b_BCN).mean(dim=1), a_BCN.square().mean(dim=1), b_BCN.square().mean(dim=1)
    )


def _correlation(covariance: Tensor, variance_a: Tensor, variance_b: Tensor) -> Tensor:
    return covariance * ((variance_a + LEAST_VARIANCE) * (variance_b + LEAST_VARIANCE)).rsqrt()
