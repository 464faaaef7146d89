"""Channel-wise distillation: where in the image each class is.

Shape legend: B batch, C classes, N places, `...` space (H W or D H W).
"""

from __future__ import annotations

from torch import Tensor

from medstill.losses.numerics import (
    as_class_logits,
    in_full_precision,
    require_same_shape,
    require_weight_shape,
)


@in_full_precision
def cwd(
    student_BC: Tensor,
    teacher_BC: Tensor,
    *,
    temperature: float = 4.0,
    weight_B: Tensor | None = None,
) -> Tensor:
    """KL(teacher || student) of softmaxes over space, mean over foreground channels, times T^2.

    Places are summed; samples and foreground classes are averaged.

    Args:
        student_BC: Logits `(B, C, ...)`; one channel z counts as (0, z).
        teacher_BC: Logits of the same shape; no gradient flows into them.
        temperature: Softening T > 0 of the logits.
        weight_B: Positive weights `(B, ...)`. They change the measure over the places on both
            sides: the softmax becomes `w_i exp(z_i / T) / sum_j w_j exp(z_j / T)`. So the term
            remains a divergence (>= 0, and 0 for equal logits), which a weighted sum of its
            summands would not be; the scale of the weights does not matter.

    Returns:
        Scalar in nats times T^2, >= 0; 0 when each channel's logits differ by a constant only.

    Raises:
        ShapeError: The two shapes differ, or there is not one weight per place.

    References:
        Shu et al., Channel-wise Knowledge Distillation for Dense Prediction, arXiv:2011.13256.
        Deviation: the background channel is left out.
    """
    require_same_shape(student_BC.shape, teacher_BC.shape, "Output maps")
    student_BCN = as_class_logits(student_BC)[:, 1:].flatten(2) / temperature
    teacher_BCN = as_class_logits(teacher_BC.detach())[:, 1:].flatten(2) / temperature
    if weight_B is not None:
        require_weight_shape(weight_B, (student_BC.shape[0], *student_BC.shape[2:]))
        log_weight_B1N = weight_B.clamp_min(1e-12).log().flatten(1).unsqueeze(1)
        student_BCN = student_BCN + log_weight_B1N
        teacher_BCN = teacher_BCN + log_weight_B1N
    student = student_BCN.log_softmax(dim=2)
    teacher = teacher_BCN.log_softmax(dim=2)
    return (teacher.exp() * (teacher - student)).sum(dim=2).mean() * temperature**2
