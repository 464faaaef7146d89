"""Hinton's distillation: the teacher's softened class probabilities, place by place.

Shape legend: B batch, C classes, `...` space (H W or D H W).
"""

from __future__ import annotations

from torch import Tensor

from medstill.losses.numerics import (
    as_class_logits,
    in_full_precision,
    require_same_shape,
    weighted_mean,
)


@in_full_precision
def kl(
    student_BC: Tensor,
    teacher_BC: Tensor,
    *,
    temperature: float = 4.0,
    weight_B: Tensor | None = None,
) -> Tensor:
    """Mean per-place KL(teacher || student) of softened class probabilities, times T^2.

    The class axis is summed and every other axis averaged: the value depends neither on the image
    size nor, by itself, on the class count.

    Args:
        student_BC: Logits `(B, C, ...)`; one channel z counts as (0, z).
        teacher_BC: Logits of the same shape; no gradient flows into them.
        temperature: Softening T > 0; T^2 keeps gradients comparable across temperatures.
        weight_B: Weights `(B, ...)` of a weighted mean over the places; None weighs all alike.

    Returns:
        Scalar in nats times T^2, >= 0; 0 when both give the same probabilities.

    Raises:
        ShapeError: The two shapes differ, or there is not one weight per place.

    References:
        Hinton et al., Distilling the Knowledge in a Neural Network, arXiv:1503.02531.
    """
    require_same_shape(student_BC.shape, teacher_BC.shape, "Output maps")
    student = (as_class_logits(student_BC) / temperature).log_softmax(dim=1)
    teacher = (as_class_logits(teacher_BC.detach()) / temperature).log_softmax(dim=1)
    divergence_B = (teacher.exp() * (teacher - student)).sum(dim=1)
    return weighted_mean(divergence_B, weight_B) * temperature**2
