"""The learning rate as a pure function of the step."""

from __future__ import annotations

import math

from medstill.config import TrainingConfig

FINAL_SHARE = 0.01
"""Share of the peak learning rate that is left at the last step."""


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
