"""The numbers of a study's tables: every model's scores, and what distillation gained.

A model here is an arm of a student over all its seeds. Per patient, its value is the mean over
seeds; intervals and tests then run over patients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import get_args

from medstill.config import EvaluationConfig, Record
from medstill.errors import DataError, RunError
from medstill.evaluation.arms import COMPARED, TESTED, Arm
from medstill.evaluation.scores import (
    HIGHER_IS_BETTER,
    METRICS,
    Metric,
    ModelScores,
    State,
    same_patients,
)
from medstill.evaluation.statistics import (
    Comparison,
    Interval,
    Verdict,
    bootstrap_interval,
    holm,
    mean_over_seeds,
    paired_comparison,
    verdict,
)
from medstill.runs import read_json, write_json


class Entry(Record):
    """One trained model on the test patients."""

    student: str
    """The student's name; the teacher's own name for the arm `teacher`."""
    arm: Arm
    seed: int
    scores: ModelScores
    collapsed: tuple[str, ...] = ()
    """Classes whose validation Dice stayed under .05."""


class ClassSummary(Record):
    """One class of one model."""

    class_name: str
    intervals: dict[Metric, Interval]
    """Empty when the class is in no truth and in no prediction."""
    counts: dict[State, int]
    """Structures in each state, over all cases and seeds."""
    collapsed_seeds: tuple[int, ...]


class ModelSummary(Record):
    """One model: an arm of a student over its seeds."""

    student: str
    arm: Arm
    seeds: tuple[int, ...]
    n_patients: int
    """Patients with a score; those whose every structure is empty have none."""
    intervals: dict[Metric, Interval]
    """Mean over patients of the mean over foreground classes."""
    classes: tuple[ClassSummary, ...]
    counts: dict[State, int]
    mean_by_seed: dict[Metric, tuple[float | None, ...]]
    """One mean per entry of `seeds`, which shows the spread that seeds alone make."""
    patients: dict[Metric, dict[str, float]]
    """Patient -> mean over classes and seeds, for the paired plot."""


class Gain(Record):
    """What distillation changed against one control; differences are `arm` minus `control`."""

    student: str
    arm: Arm = "distilled"
    control: Arm
    metric: Metric
    higher_is_better: bool
    comparison: Comparison
    p_holm: float
    verdict: Verdict
    unpaired: tuple[str, ...]
    """Patients that one side has no score for, since truth and prediction are empty there."""


class Summary(Record):
    """All that the tables of a report need."""

    test_patients: tuple[str, ...]
    class_names: tuple[str, ...]
    nsd_tolerance_mm: float
    confidence: float
    resamples: int
    models: tuple[ModelSummary, ...]
    gains: tuple[Gain, ...]
    comparisons: int
    """Size of the family that Holm's adjustment is for: all of `gains`."""


def summarise(entries: Sequence[Entry], config: EvaluationConfig) -> Summary:
    """Summarise the models of a study.

    Args:
        entries: One per student, arm and seed, all scored on the same cases.
        config: Confidence, resamples and seed of the statistics.

    Returns:
        Models in the order of their first entry; gains for every pair of `COMPARED` that a
        student has.

    Raises:
        DataError: No entries, one twice, or models scored on different cases, classes or
            tolerances.
        MissingExtraError: scipy is not installed.
    """
    groups = _groups(entries)
    scores = [entry.scores for entry in entries]
    patients = same_patients(scores)
    tolerances = sorted({s.nsd_tolerance_mm for s in scores})
    if len(tolerances) > 1:
        raise DataError(
            f"The models are scored with different NSD tolerances: {tolerances} mm. "
            "Repeat the evaluation of all of them with one."
        )
    gains = _gains(groups, config)
    return Summary(
        test_patients=patients,
        class_names=scores[0].class_names,
        nsd_tolerance_mm=tolerances[0],
        confidence=config.confidence,
        resamples=config.resamples,
        models=tuple(model_summary(group, config) for group in groups.values()),
        gains=gains,
        comparisons=len(gains),
    )


def save_summary(summary: Summary, path: Path) -> None:
    """Write a summary as JSON, all or nothing."""
    write_json(path, summary.model_dump(mode="json"))


def load_summary(path: Path) -> Summary:
    """Read what `save_summary` wrote.

    Raises:
        RunError: The file is missing, damaged or holds no summary.
    """
    content = read_json(path)
    try:
        return Summary.model_validate(content)
    except ValueError as error:
        raise RunError(
            f"'{path}' does not hold the comparison of a study ({error}). "
            "Delete it and repeat the evaluation."
        ) from error


def model_summary(group: Sequence[Entry], config: EvaluationConfig) -> ModelSummary:
    """Summarise one arm of a student; `group` holds one entry per seed."""
    patients = {metric: patient_means(group, metric) for metric in METRICS}
    names = group[0].scores.class_names
    return ModelSummary(
        student=group[0].student,
        arm=group[0].arm,
        seeds=tuple(entry.seed for entry in group),
        n_patients=len(patients["dice"]),
        intervals=_intervals(patients, config),
        classes=tuple(_class(group, name, config) for name in names),
        counts=_counts(group),
        mean_by_seed={m: tuple(entry.scores.summary(m) for entry in group) for m in METRICS},
        patients=patients,
    )


def patient_means(group: Sequence[Entry], metric: Metric) -> dict[str, float]:
    """Patient -> mean over classes, cases and seeds; `group` holds one entry per seed."""
    return mean_over_seeds([entry.scores.per_patient_mean(metric) for entry in group])


def compare_patients(
    ours: Mapping[str, float], theirs: Mapping[str, float], config: EvaluationConfig
) -> tuple[Comparison, tuple[str, ...]]:
    """Compare two models on the patients that both have a score for, and name the others.

    Raises:
        DataError: There is no such patient.
    """
    both = ours.keys() & theirs.keys()
    comparison = paired_comparison(
        {p: ours[p] for p in both},
        {p: theirs[p] for p in both},
        confidence=config.confidence,
        resamples=config.resamples,
        seed=config.seed,
    )
    return comparison, tuple(sorted(ours.keys() ^ theirs.keys()))


def _groups(entries: Sequence[Entry]) -> dict[tuple[str, Arm], list[Entry]]:
    groups: dict[tuple[str, Arm], list[Entry]] = {}
    for entry in entries:
        group = groups.setdefault((entry.student, entry.arm), [])
        if entry.seed in [other.seed for other in group]:
            raise DataError(
                f"{entry.arm} of '{entry.student}' has seed {entry.seed} twice. "
                "Give every trained model once."
            )
        group.append(entry)
    if not groups:
        raise DataError("There is no model to summarise. Score at least one first.")
    return groups


def _class(group: Sequence[Entry], name: str, config: EvaluationConfig) -> ClassSummary:
    scores = [entry.scores for entry in group]
    patients = {m: mean_over_seeds([s.per_patient(name, m) for s in scores]) for m in METRICS}
    return ClassSummary(
        class_name=name,
        intervals=_intervals(patients, config),
        counts=_counts(group, name),
        collapsed_seeds=tuple(entry.seed for entry in group if name in entry.collapsed),
    )


def _intervals(
    patients: dict[Metric, dict[str, float]], config: EvaluationConfig
) -> dict[Metric, Interval]:
    return {
        metric: bootstrap_interval(
            list(values.values()), config.confidence, config.resamples, config.seed
        )
        for metric, values in patients.items()
        if values
    }


def _counts(group: Sequence[Entry], name: str | None = None) -> dict[State, int]:
    return {
        state: sum(entry.scores.count(state, name) for entry in group) for state in get_args(State)
    }


def _gains(
    groups: dict[tuple[str, Arm], list[Entry]], config: EvaluationConfig
) -> tuple[Gain, ...]:
    rows: list[tuple[str, Arm, Arm, Metric, Comparison, tuple[str, ...]]] = []
    for student in dict.fromkeys(student for student, _ in groups):
        for arm, control in COMPARED:
            if (student, arm) not in groups or (student, control) not in groups:
                continue
            for metric in TESTED:
                pair = groups[student, arm], groups[student, control]
                rows.append((student, arm, control, metric, *_compare(*pair, metric, config)))
    adjusted = holm([comparison.p_value for *_, comparison, _ in rows])
    return tuple(
        Gain(
            student=student,
            arm=arm,
            control=control,
            metric=metric,
            higher_is_better=HIGHER_IS_BETTER[metric],
            comparison=comparison,
            p_holm=p,
            verdict=verdict(comparison.difference, p, higher_is_better=HIGHER_IS_BETTER[metric]),
            unpaired=unpaired,
        )
        for (student, arm, control, metric, comparison, unpaired), p in zip(
            rows, adjusted, strict=True
        )
    )


def _compare(
    treated: Sequence[Entry], control: Sequence[Entry], metric: Metric, config: EvaluationConfig
) -> tuple[Comparison, tuple[str, ...]]:
    seeds = [tuple(sorted(entry.seed for entry in group)) for group in (treated, control)]
    if seeds[0] != seeds[1]:
        raise DataError(
            f"'{treated[0].student}': {treated[0].arm} has the seeds {list(seeds[0])}, but "
            f"{control[0].arm} has {list(seeds[1])}. Train both arms with the same seeds."
        )
    ours, theirs = patient_means(treated, metric), patient_means(control, metric)
    if not ours.keys() & theirs.keys():
        raise DataError(
            f"'{treated[0].student}': no test patient has a score in both {treated[0].arm} and "
            f"{control[0].arm}. Do the true masks of the test patients hold any class?"
        )
    return compare_patients(ours, theirs, config)
