"""Which charts a study of many runs gets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from medstill.reporting import wording
from medstill.reporting.charts import PAIRED, Chart, Group, paired_group, safe
from medstill.reporting.gridreading import GridStudy
from medstill.reporting.gridrecords import GridRow, GridSummary
from medstill.reporting.gridrows import free_axes, title_of
from medstill.reporting.plots import Curve, Point, fraction_plot, pareto_plot

COSTS = {
    "parameters": "parameters",
    "macs": "multiply-adds of one input",
    "milliseconds": "milliseconds of one input",
}
"""Field of a network's facts -> label of the axis."""


@dataclass(frozen=True)
class FractionGroup:
    """The curves over the share of labels of one student, all else being equal."""

    title: str
    arms: tuple[str, ...]
    charts: tuple[Chart, ...]
    patients: tuple[tuple[str, str], ...]
    """Share of labels -> labelled patients, over the runs."""


def pareto_charts(study: GridStudy) -> tuple[Group, ...]:
    """For each cost that is known: Dice and HD95 against it."""
    groups = []
    for cost, label in COSTS.items():
        charts = []
        for metric, higher in PAIRED.items():
            points = list(_points(study, cost, metric))
            if len({point.network for point in points}) < 2:
                continue
            name = wording.METRIC_NAMES[metric]
            best = (max if higher else min)(points, key=lambda point: point.score.mean)
            alt = (
                f"{name} against {label} of {wording.plural(len(points), 'model')}; best: "
                f"{best.network}, {best.arm}, {wording.fixed(best.score.mean, metric)}"
            )
            svg = pareto_plot(points, alt=alt, x_label=label, y_label=name, higher_is_better=higher)
            charts.append(Chart(f"{name} against {label}", safe(svg)))
        if charts:
            groups.append(Group(label, _arms(study.summary.rows), tuple(charts)))
    return tuple(groups)


def _points(study: GridStudy, cost: str, metric: str) -> Iterable[Point]:
    """Every network once; a teacher that several rows share is one point."""
    seen: set[tuple[object, ...]] = set()
    for row in study.summary.rows:
        for model in row.models:
            facts, score = study.facts_of(row, model), model.intervals.get(metric)
            value = getattr(facts, cost, None) if facts is not None else None
            if "+" in model.arm or value is None or score is None:
                continue
            key = (model.arm, model.student, score.mean, score.low, score.high)
            if key not in seen:
                seen.add(key)
                yield Point(model.arm, model.student, float(value), score)


def fraction_charts(study: GridStudy) -> tuple[FractionGroup, ...]:
    """For each student: Dice and HD95 over the share of labels, where an axis changes it."""
    studies = {row.name: study.study_of(row) for row in study.summary.rows}
    found = []
    for axis in free_axes(study.summary):
        groups: dict[str, list[tuple[float, GridRow]]] = {}
        for row in study.summary.rows:
            of_row = studies[row.name]
            if of_row is not None and axis in row.values:
                groups.setdefault(title_of(row, axis), []).append((of_row.label_fraction, row))
        found += [
            _fraction_group(study, title, dict(pairs))
            for title, pairs in groups.items()
            if len({share for share, _ in pairs}) == len(pairs) > 1
        ]
    return tuple(found)


def _fraction_group(study: GridStudy, title: str, rows: dict[float, GridRow]) -> FractionGroup:
    ordered = dict(sorted(rows.items()))
    return FractionGroup(
        title=title,
        arms=_arms(ordered.values()),
        charts=tuple(_fraction_chart(title, ordered, metric) for metric in PAIRED),
        patients=tuple(
            (wording.percent(share), _labelled(study, row)) for share, row in ordered.items()
        ),
    )


def _fraction_chart(title: str, rows: dict[float, GridRow], metric: str) -> Chart:
    curves = []
    for arm in _arms(rows.values()):
        known = {
            share: model.intervals[metric]
            for share, row in rows.items()
            for model in [row.model(arm)]
            if model is not None and metric in model.intervals
        }
        if known:
            curves.append(Curve(arm, [100 * share for share in known], list(known.values())))
    name = wording.METRIC_NAMES[metric]
    ends = "; ".join(
        f"{curve.arm} {wording.fixed(curve.scores[0].mean, metric)} at {curve.x[0]:g} % to "
        f"{wording.fixed(curve.scores[-1].mean, metric)} at {curve.x[-1]:g} %"
        for curve in curves
    )
    alt = f"{title}: {name} over the labelled share of the training patients; {ends}"
    return Chart(name, safe(fraction_plot(curves, alt=alt, y_label=name)))


def _labelled(study: GridStudy, row: GridRow) -> str:
    """How many patients are labelled for the students, over the runs of a row."""
    numbers = set()
    for run in study.runs_of(row):
        split = study.split_of(run)
        numbers.add(len({split.patients.get(case, case) for case in split.student}))
    least, most = min(numbers), max(numbers)
    return str(least) if least == most else f"{least} to {most}"


def row_pairs(summary: GridSummary) -> tuple[Group, ...]:
    """For each row: control to distilled, patient by patient."""
    groups = []
    for row in summary.rows:
        control, distilled = row.model("control"), row.model("distilled")
        if control is not None and distilled is not None:
            groups.append(paired_group(title_of(row), control, distilled))
    return tuple(groups)


def _arms(rows: Iterable[GridRow]) -> tuple[str, ...]:
    arms: Sequence[str] = [model.arm for row in rows for model in row.models]
    return tuple(dict.fromkeys(arm for arm in arms if "+" not in arm))
