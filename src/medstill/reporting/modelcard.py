"""A model card and a CLAIM check list beside each student, from the run's files alone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medstill.config import MapTermConfig, StudentConfig
from medstill.links import prepared_folder
from medstill.refs import ModelRef
from medstill.reporting.edited import write_unless_edited
from medstill.reporting.reading import Run, facts_of, parts_of, read_case_scores, read_run
from medstill.reporting.records import ModelRow, ScoredCase, Training
from medstill.reporting.templating import filled
from medstill.volumes.records import Seen
from medstill.volumes.store import CASE_FILE, case_folder, read_case, seen_of

MODELS = "models"
TEXTS = {"model-card": "model-card.md.j2", "claim": "claim.md.j2"}
"""Kind of text -> its template; it is written as `models/STUDENT.KIND.md`."""
WORST = 3
"""Patients that the card names as the worst."""


@dataclass(frozen=True)
class ClassResult:
    """One class: of the network that is handed over, and of its arm over all seeds."""

    name: str
    missed: int
    invented: int
    true: int
    pooled: Any


def write_cards(folder: Path) -> tuple[Path, ...]:
    """Write model card and CLAIM check list of every student of a run, beside its exported file.

    Args:
        folder: Folder of a run that is trained and scored.

    Returns:
        `models/STUDENT.model-card.md` and `models/STUDENT.claim.md` of each student. One that a
        person has changed stays, and `.new.md` beside it is written where the run says more now.

    Raises:
        RunError: A stage is missing or unfinished, or a file is damaged.
        MissingExtraError: jinja2 is not installed.
        StorageError: A file cannot be written.
    """
    run = read_run(folder)
    return tuple(
        write_unless_edited(
            folder / MODELS / f"{student.called}.{kind}.md", card_text(run, student, kind)
        )
        for student in run.study.students
        for kind in TEXTS
    )


def card_text(run: Run, student: StudentConfig, kind: str) -> str:
    """One of the texts about a student, as Markdown; `kind` is a key of `TEXTS`."""
    return filled(TEXTS[kind], card_of(run, student))


def card_of(run: Run, student: StudentConfig) -> dict[str, Any]:
    """All that the texts about a student say, by name."""
    ref = handed_over(run, student)
    training, teacher = run.trainings[ref], facts_of(run)
    cases = tuple(read_case_scores(run, ref).values())
    summary = run.summary
    arms = [summary.model(student.called, arm) for arm in ("control", "distilled")]
    first = next((row for row in summary.models if row.arm == "teacher"), None)
    rows = [row for row in (first, *arms) if row is not None]
    return {
        "run": run,
        "study": run.study,
        "summary": summary,
        "student": student,
        "ref": ref,
        "training": training,
        "teacher": teacher,
        "smaller": teacher.facts.parameters / training.facts.parameters,
        "late": is_late(training),
        "file": exported(run, student),
        "parts": parts_of(run.split),
        "seen": seen_in_training(run),
        "rows": rows,
        "classes": class_results(run, cases, arms[-1]),
        "gains": [gain for gain in summary.gains if gain.student == student.called],
        "worst": worst_patients(cases),
        "terms": terms_of(run),
    }


def handed_over(run: Run, student: StudentConfig) -> ModelRef:
    """The network that stands for a student: the distilled seed with the best validation Dice."""
    seeds = [
        ref for ref in run.trainings if ref.student == student.called and ref.arm == "distilled"
    ]
    return max(seeds, key=lambda ref: run.trainings[ref].best_dice)


def is_late(training: Training) -> bool:
    """Whether the best validation was the last one: it may not have converged."""
    history = training.history
    return len(history) > 1 and training.best_step == history[-1].step


def exported(run: Run, student: StudentConfig) -> dict[str, Any] | None:
    """Name, size and hash of the exported file; None before it is there."""
    path = run.folder / MODELS / f"{student.called}.onnx"
    if not path.exists():
        return None
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    return {"name": path.name, "bytes": len(content), "sha256": digest}


def seen_in_training(run: Run) -> Seen | None:
    """Ranges of spacing and intensity of the training cases; None when they are gone from disk."""
    root = prepared_folder(run.folder)
    folders = [case_folder(root, case) for case in run.split.train]
    if not all((folder / CASE_FILE).exists() for folder in folders):
        return None
    return seen_of(map(read_case, folders))


def class_results(
    run: Run, cases: Sequence[ScoredCase], pooled: ModelRow | None
) -> tuple[ClassResult, ...]:
    """Every class of the network that is handed over, with its intervals over all seeds."""
    intervals = {} if pooled is None else {one.class_name: one.intervals for one in pooled.classes}
    found = []
    for name in run.summary.class_names:
        states = [c.state for case in cases for c in case.classes if c.class_name == name]
        missed = states.count("missed")
        true = missed + states.count("scored")
        found.append(
            ClassResult(name, missed, states.count("invented"), true, intervals.get(name, {}))
        )
    return tuple(found)


def worst_patients(cases: Iterable[ScoredCase]) -> tuple[tuple[str, float, float | None], ...]:
    """Patient, Dice and HD95 of the lowest Dice of the network that is handed over."""
    dice, hd95 = (patient_means(cases, metric) for metric in ("dice", "hd95_mm"))
    order = sorted(dice, key=lambda patient: (dice[patient], patient))
    return tuple((patient, dice[patient], hd95.get(patient)) for patient in order[:WORST])


def patient_means(cases: Iterable[ScoredCase], metric: str) -> dict[str, float]:
    """Patient -> mean over classes of the mean over the patient's cases."""
    found: dict[str, dict[str, list[float]]] = {}
    for case in cases:
        for score in case.classes:
            value = getattr(score, metric)
            if value is not None:
                classes = found.setdefault(case.patient or case.case, {})
                classes.setdefault(score.class_name, []).append(value)
    return {
        patient: _mean([_mean(values) for values in classes.values()])
        for patient, classes in found.items()
    }


def terms_of(run: Run) -> tuple[str, ...]:
    """The terms that the distilled students learn from beside their labels, in words."""
    distillation = run.study.distillation
    features = [
        f"{term.loss} on the features {scale} (weight {term.weight:g}{_ramp(term.ramp_steps)})"
        for scale, term in distillation.features.items()
        if term.weight
    ]
    maps = [
        f"{term.loss} on the output maps (weight {term.weight:g}{_ramp(term.ramp_steps)}, "
        f"temperature {term.temperature:g}{_boundary(term)})"
        for term in distillation.maps
        if term.weight
    ]
    return (*features, *maps)


def _ramp(steps: int) -> str:
    return f", rising from 0 in {steps} steps" if steps else ""


def _boundary(term: MapTermConfig) -> str:
    if not term.boundary_weight:
        return ""
    return (
        f", places within {term.boundary_width} of a class boundary weighted "
        f"{1 + term.boundary_weight:g}"
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
