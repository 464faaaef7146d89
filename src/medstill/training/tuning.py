"""Quantisation-aware distillation: a trained student learns to answer in 8-bit integers.

The student rounds as its export will and goes on with the recipe that trained it: its own losses,
its teacher as before or, for a student without one, the labels alone. Learning rate and steps are
those of a touch-up. The checkpoint is chosen on the validation patients, the untuned student being
one of the candidates.

References:
    Jacob et al., Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
    Inference, arXiv:1712.05877.
    Mishra and Marr, Apprentice (a teacher for a network of few bits), arXiv:1711.05852.
"""

from __future__ import annotations

import copy
import logging
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn

from medstill.config import DistillationConfig, EngineConfig, Study, TrainingConfig
from medstill.errors import RunError
from medstill.networks import FakeQuantised
from medstill.refs import ModelRef
from medstill.training import checkpoint
from medstill.training.assembly import Material, student_config, student_source, student_task
from medstill.training.boundary import FitPlan
from medstill.training.cachefill import kept_views
from medstill.training.checkpoint import LAST, weights_hash
from medstill.training.data import SampleSource
from medstill.training.fit import fit
from medstill.training.tasks import StudentTask
from medstill.volumes.records import FloatArray
from medstill.volumes.splits import out_of_fold

log = logging.getLogger(__name__)

RATE_SHARE: Final = 0.1
"""Learning rate of a tuning as a share of that of the student's recipe."""
WARMUP_SHARE: Final = 0.1
VALIDATIONS: Final = 5
"""How often the validation patients are looked at."""


@dataclass(frozen=True)
class Pupil:
    """A trained student, what it was trained with, and where.

    Attributes:
        ref: Which network of the study.
        network: In eval mode, without a second decoder; it is not changed.
        teacher: For the arms that learn from one.
        folder: Of its training; its projectors are taken from there.
    """

    ref: ModelRef
    network: nn.Module
    teacher: nn.Module | None
    folder: Path


@dataclass(frozen=True)
class TunedStudent:
    """What a tuning leaves.

    Attributes:
        network: With the tuned weights, in float.
        grids: Scale and zero point of each place where it rounds; see `networks.rounded`.
        best_step: The step that was chosen; 0 is the student as it was.
        dice_before: Mean validation Dice before tuning, when it rounds.
        dice_after: That of the chosen step.
    """

    network: nn.Module
    grids: tuple[tuple[float, int], ...]
    best_step: int
    dice_before: float
    dice_after: float


def tune_student(
    material: Material, pupil: Pupil, images: Sequence[FloatArray], steps: int, scratch: Path
) -> TunedStudent:
    """Fine-tune a student that rounds to 8 bits.

    Args:
        material: As for its training.
        pupil: The student.
        images: Prepared images `(B, C, ...)` of training patients; the ranges start from them.
        steps: Optimiser steps.
        scratch: Folder for checkpoints; it can be deleted afterwards.

    Raises:
        RunError: A checkpoint is missing or damaged, or what its several teachers said of the
            training patients is not kept any more.
        ConfigError: The network takes other steps for other images.
        TrainingError: A loss that is not finite.
    """
    study = material.study
    source, study = _source(material, pupil, study)
    recipe = tuning_recipe(study.training, steps)
    task = _task(study, material, pupil, images)
    rounding: FakeQuantised = task.network  # type: ignore[assignment]
    before = _mean_dice(material, rounding)
    start = copy.deepcopy(rounding.state_dict())
    plan = FitPlan(
        name=f"{pupil.ref.name} tuning",
        source=replace(source, recipe=recipe),
        folder=scratch,
        key="tuning",
        validate=material.validate,
        engine=_engine(study.engine),
        resume=False,
        teacher=weights_hash(pupil.teacher) if pupil.teacher else None,
    )
    with warnings.catch_warnings():
        # Batch norm: it stands still on purpose.
        warnings.filterwarnings("ignore", r"Found \d+ module\(s\) in eval mode")
        best = fit(task.train(), plan).best
    rounding.cpu()
    if not best.dice > before:
        rounding.load_state_dict(start)
        best = replace(best, step=0, dice=before)
    log.info("%s: validation Dice %.4f in 8 bits, %.4f before", plan.name, best.dice, before)
    return TunedStudent(rounding.network.eval(), rounding.grids(), best.step, before, best.dice)


def tuning_recipe(recipe: TrainingConfig, steps: int) -> TrainingConfig:
    """A student's recipe for some more steps, in full precision: rounding needs it."""
    return recipe.model_copy(
        update={
            "steps": steps,
            "learning_rate": RATE_SHARE * recipe.learning_rate,
            "warmup_steps": round(WARMUP_SHARE * steps),
            "validate_every": math.ceil(steps / VALIDATIONS),
            "precision": "32-true",
        }
    )


def _source(material: Material, pupil: Pupil, study: Study) -> tuple[SampleSource, Study]:
    """A student's samples and study: with the kept views, or else with the teacher itself."""
    source = student_source(material, pupil.ref)
    if pupil.teacher is None or study.distillation.cache == "off":
        return source, study
    folds = study.teacher.folds
    who = out_of_fold(material.split, folds, study.split.seed) if folds else None
    caches = material.caches or pupil.folder / "cache"
    student = student_config(study, pupil.ref)
    cache = kept_views(study, student, pupil.teacher, source, caches, who)
    if cache is not None:
        return replace(source, cache=cache), study
    if folds:
        raise RunError(
            f"Tuning '{pupil.ref.name}' needs what its {folds} teachers said of the training "
            f"patients, but '{caches}' does not hold all of it any more. Delete the student's "
            f"folder '{pupil.folder}' and train it again: the teachers then answer anew."
        )
    log.info("%s: the teacher answers itself, since its answers are not kept", pupil.ref.name)
    live = study.distillation.model_copy(update={"cache": "off"})
    return source, study.model_copy(update={"distillation": live})


def _task(
    study: Study, material: Material, pupil: Pupil, images: Sequence[FloatArray]
) -> StudentTask:
    """The student's task as it was at the end of its training, with a network that rounds."""
    study = study.model_copy(
        update={
            "distillation": _without_ramps(study.distillation),
            "students": tuple(
                one.model_copy(update={"reconstruction_weight": 0.0}) for one in study.students
            ),
        }
    )
    task = student_task(study, material.preparation, pupil.ref, pupil.teacher)
    # A study that was cleaned has no last checkpoint: the projectors then begin anew.
    if (pupil.folder / LAST).exists():
        state = checkpoint.load(pupil.folder / LAST)["task"]
        task.objective.load_state_dict(_below("objective.", state))
    task.network = FakeQuantised(
        copy.deepcopy(pupil.network), [torch.tensor(image_BC) for image_BC in images]
    )
    task.layers = {scale: f"network.{layer}" for scale, layer in task.layers.items()}
    return task


def _below(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)
    }


def _without_ramps(distillation: DistillationConfig) -> DistillationConfig:
    """Every term at its full weight from the first step."""
    full = {"ramp_steps": 0}
    return distillation.model_copy(
        update={
            "maps": tuple(term.model_copy(update=full) for term in distillation.maps),
            "features": {
                scale: term.model_copy(update=full) for scale, term in distillation.features.items()
            },
        }
    )


def _engine(engine: EngineConfig) -> EngineConfig:
    """One process that logs no curves."""
    return engine.model_copy(update={"devices": 1, "nodes": 1, "strategy": "auto", "loggers": ()})


def _mean_dice(material: Material, network: nn.Module) -> float:
    dice_by_class = material.validate(network.eval())
    return sum(dice_by_class.values()) / len(dice_by_class)
