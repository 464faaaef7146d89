"""Which charts a run gets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from medstill.errors import require
from medstill.reporting import wording
from medstill.reporting.figures import Line, curve_chart, paired_chart
from medstill.reporting.reading import Run
from medstill.reporting.records import Checkpoint, ModelRow, Training

PAIRED = {"dice": True, "hd95_mm": False}
"""Metric -> whether higher is better."""
PAIRED_ARMS = ("control", "distilled")


@dataclass(frozen=True)
class Chart:
    """A drawn chart, safe to stand in the page."""

    title: str
    svg: str


@dataclass(frozen=True)
class Group:
    """The charts of one network."""

    name: str
    arms: tuple[str, ...]
    charts: tuple[Chart, ...]


@dataclass(frozen=True)
class Speed:
    """How fast one network trained."""

    name: str
    steps_per_s: float
    wait_share: float
    best_dice: float
    best_steps: tuple[int, ...]


def paired_charts(run: Run) -> tuple[Group, ...]:
    """For each student: control to distilled, patient by patient, mean over seeds."""
    groups = []
    for student in run.study.students:
        control, distilled = (run.summary.model(student.called, arm) for arm in PAIRED_ARMS)
        if control is not None and distilled is not None:
            groups.append(paired_group(student.called, control, distilled))
    return tuple(groups)


def paired_group(name: str, control: ModelRow, distilled: ModelRow) -> Group:
    """One chart a metric: control to distilled, patient by patient."""
    charts = []
    for metric, higher in PAIRED.items():
        before, after = (row.patients.get(metric, {}) for row in (control, distilled))
        both = sorted(before.keys() & after.keys())
        if not both:
            continue
        rose = sum(after[p] > before[p] for p in both)
        fell = sum(after[p] < before[p] for p in both)
        title = wording.METRIC_NAMES[metric]
        alt = (
            f"{name}: {title} of each test patient, control and distilled; higher for "
            f"{rose}, lower for {fell} of {wording.plural(len(both), 'patient')}"
        )
        svg = paired_chart(before, after, alt=alt, higher_is_better=higher)
        charts.append(Chart(title, safe(svg)))
    return Group(name, PAIRED_ARMS, tuple(charts))


def history_charts(run: Run) -> tuple[Group, ...]:
    """For each network: validation Dice, then every loss term by name."""
    groups = []
    for name in ("", *(student.called for student in run.study.students)):
        trainings = [(ref.arm, t) for ref, t in run.trainings.items() if ref.student == name]
        title = name or f"teacher ({trainings[0][1].facts.name})"
        terms = sorted({term for _, t in trainings for c in t.history for term in c.losses})
        charts = [_history(trainings, title, None)]
        charts += [_history(trainings, title, term) for term in terms]
        arms = tuple(dict.fromkeys(arm for arm, _ in trainings))
        groups.append(Group(title, arms, tuple(charts)))
    return tuple(groups)


def speeds(run: Run) -> tuple[Speed, ...]:
    """For each network: steps per second and the share of time spent waiting for data."""
    found = []
    keys = dict.fromkeys((ref.student, ref.arm) for ref in run.trainings)
    for student, arm in keys:
        trainings = [t for r, t in run.trainings.items() if (r.student, r.arm) == (student, arm)]
        points = [point for training in trainings for point in training.history]
        if points:
            found.append(
                Speed(
                    name=f"{student} {arm}".strip(),
                    steps_per_s=_mean([point.steps_per_s for point in points]),
                    wait_share=_mean([point.data_wait_share for point in points]),
                    best_dice=_mean([training.best_dice for training in trainings]),
                    best_steps=tuple(training.best_step for training in trainings),
                )
            )
    return tuple(found)


def _history(trainings: Sequence[tuple[str, Training]], who: str, term: str | None) -> Chart:
    """Validation Dice, or one loss term, of every seed and the mean over seeds."""
    lines = []
    for arm in dict.fromkeys(arm for arm, _ in trainings):
        seeds = [_points(t.history, term) for name, t in trainings if name == arm]
        seeds = [points for points in seeds if points]
        for points in seeds if len(seeds) > 1 else []:
            lines.append(Line(arm, list(points), list(points.values())))
        # Only steps that every seed has reached: the mean of others would jump.
        steps = sorted(set.intersection(*map(set, seeds))) if seeds else []
        means = [_mean([points[step] for points in seeds]) for step in steps]
        lines.append(Line(arm, steps, means, strong=True))
    title = "validation Dice" if term is None else term.removeprefix("train/").replace("_", " ")
    alt = f"{who}: {title} against training steps"
    return Chart(title, safe(curve_chart(lines, alt=alt, share=term is None)))


def _points(history: Sequence[Checkpoint], term: str | None) -> dict[int, float]:
    if term is None:
        return {point.step: point.dice for point in history}
    return {point.step: point.losses[term] for point in history if term in point.losses}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def safe(svg: str) -> str:
    """Marks text as HTML that needs no escaping: it is matplotlib's, which escapes its own."""
    marked: str = require("markupsafe", "report").Markup(svg)
    return marked
