"""Several teachers, each without one part of the training patients.

What they say of a case that they trained on is better than what they say of any other, so a student
is taught each case by the teachers that never saw it. See `volumes.splits.out_of_fold`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from medstill.refs import TEACHER
from medstill.runs import write_json
from medstill.training.assembly import Material, fold_name, load_teacher
from medstill.training.boundary import HISTORY_FILE, FitResult, dead_classes
from medstill.training.checkpoint import Best
from medstill.training.teaching import train_teacher
from medstill.volumes.splits import teacher_splits

log = logging.getLogger(__name__)


def train_teachers(material: Material, folder: Path, key: Mapping[str, object]) -> FitResult:
    """Train the teachers of a study one after another, each in a folder of its own.

    Finished ones are kept. The history is the mean of theirs; the result's Dice and collapsed
    classes are those of all together, its step the latest that any was chosen at.

    Raises:
        SplitError: There are fewer training patients than teachers.
    """
    study = material.study
    results = []
    for number, split in enumerate(
        teacher_splits(material.split, study.teacher.folds, study.split.seed)
    ):
        name = fold_name(number)
        part = replace(material, split=split)
        named = {**key, "part": name}
        results.append(train_teacher(part, folder / name, named, f"{TEACHER.name} {name}"))
    history = mean_history([result.history for result in results])
    write_json(folder / HISTORY_FILE, history)
    dice_by_class = material.validate(load_teacher(study, material.preparation, folder))
    best = Best(max(result.best.step for result in results), _mean(dice_by_class.values()))
    log.info("%s: validation Dice %.3f of all %d", TEACHER.name, best.dice, len(results))
    return FitResult(best, history, dead_classes(dice_by_class))


def mean_history(histories: Sequence[Sequence[Mapping[str, Any]]]) -> tuple[dict[str, Any], ...]:
    """One history for several trainings of one recipe: means at each validation.

    A step is one step of all of them, one after another, so the rate is that of such a step.
    """
    return tuple(_mean_entry(entries) for entries in zip(*histories, strict=True))


def _mean_entry(entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    dice_by_class = _means([entry["dice_by_class"] for entry in entries])
    return {
        "step": entries[0]["step"],
        "dice": _mean(entry["dice"] for entry in entries),
        "dice_by_class": dice_by_class,
        "dead": list(dead_classes(dice_by_class)),
        "losses": _means([entry["losses"] for entry in entries]),
        "gradients": _means([entry["gradients"] for entry in entries]),
        "data_wait_share": _mean(entry["data_wait_share"] for entry in entries),
        "steps_per_s": 1 / sum(1 / entry["steps_per_s"] for entry in entries),
    }


def _means(values: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Name -> mean over those that have it: a class may be in no validation patient of one."""
    names = dict.fromkeys(name for found in values for name in found)
    return {name: _mean(found[name] for found in values if name in found) for name in names}


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found)
