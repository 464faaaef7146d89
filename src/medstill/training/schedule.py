"""The learning rate as a pure function of the step."""

from __future__ import annotations

import math
from collections.abc import Iterator

from medstill.config import Study, TrainingConfig

FINAL_SHARE = 0.01
"""Share of the peak learning rate that is left at the last step."""


def idle_warmups(study: Study) -> Iterator[str]:
    """What to say of recipes whose learning rate rises to their end."""
    teacher = study.teacher
    for place, recipe, where, steps in (
        ("teacher.training", teacher.training, "teacher.pretraining", teacher.pretraining.steps),
        ("teacher.training", teacher.training, "teacher.training", teacher.training.steps),
        ("training", study.training, "training", study.training.steps),
    ):
        if 0 < steps <= recipe.warmup_steps:
            yield (
                f"{place}.warmup_steps is {recipe.warmup_steps}, but {where}.steps is {steps}: the "
                "learning rate rises to the end and never falls. Lower the one or raise the other."
            )


def learning_rate(step: int, recipe: TrainingConfig) -> float:
    """Linear warm-up to the peak, then half a cosine down to 1 % of it.

    Args:
        step: From 0 to `recipe.steps - 1`.
        recipe: Gives the peak, the warm-up steps and the number of steps.

    References:
        Loshchilov and Hutter, SGDR, arXiv:1608.03983 (without restarts).
    """
    if step < recipe.warmup_steps:
        return recipe.learning_rate * (step + 1) / recipe.warmup_steps
    progress = (step - recipe.warmup_steps) / max(1, recipe.steps - 1 - recipe.warmup_steps)
    cosine = 0.5 * (1.0 + math.cos(math.pi * min(progress, 1.0)))
    return recipe.learning_rate * (FINAL_SHARE + (1.0 - FINAL_SHARE) * cosine)
