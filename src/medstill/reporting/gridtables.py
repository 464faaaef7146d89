"""The tables of a study of many runs: verdicts, every network, axis by axis, worst patients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from medstill.reporting import strips, wording
from medstill.reporting.gridrecords import GridGain, GridRow, GridSummary
from medstill.reporting.gridrows import free_axes, title_of, titles
from medstill.reporting.records import ModelRow

METRICS = ("dice", "hd95_mm")
"""Never one without the other."""
TONES = {"better": "good", "worse": "bad"}
WORST = 12
"""Patients in the list of the worst."""


@dataclass(frozen=True)
class Verdict:
    """What one comparison of two arms found, in words."""

    compared: str
    """The two arms."""
    verdict: str
    tone: str
    sentences: tuple[str, ...]
    """One a metric: Dice never stands without HD95."""


@dataclass(frozen=True)
class Effect:
    """One row of the table of an axis: what distillation changed at one value of it."""

    value: str
    gains: tuple[GridGain | None, ...]
    plots: tuple[str, ...]
    """One a metric; empty where there is no gain."""
    models: tuple[ModelRow | None, ...]
    """Control and distilled."""


@dataclass(frozen=True)
class AxisTable:
    """What distillation changed along one axis, everything else being equal."""

    axis: str
    heads: tuple[str, ...]
    """The axis of the small plots of each metric."""
    groups: tuple[tuple[str, tuple[Effect, ...]], ...]


@dataclass(frozen=True)
class Spread:
    """The gain of one row in each fold or with each seed."""

    title: str
    axis: str
    plots: tuple[str, ...]
    texts: tuple[str, ...]


@dataclass(frozen=True)
class Worst:
    """A patient whom a student segments badly."""

    patient: str
    row: GridRow
    title: str
    arm: str
    values: tuple[float | None, ...]
    """One a metric."""
    control: tuple[float | None, ...]


def verdicts(summary: GridSummary) -> dict[str, tuple[Verdict, ...]]:
    """Title of a row -> its comparisons, both metrics of one together."""
    names = titles(summary)
    found: dict[str, dict[tuple[str, ...], list[GridGain]]] = {}
    for gain in summary.gains:
        comparisons = found.setdefault(names.get(gain.row, gain.row), {})
        key = (gain.arm, gain.control, gain.control_row)
        comparisons.setdefault(key, []).append(gain)
    return {
        title: tuple(_verdict(gains, names) for gains in comparisons.values())
        for title, comparisons in found.items()
    }


def _verdict(gains: Sequence[GridGain], names: dict[str, str]) -> Verdict:
    first = min(gains, key=lambda gain: METRICS.index(gain.metric))
    control = wording.arm_name(first.control)
    other = "" if first.within_row else f" of {names.get(first.control_row, first.control_row)}"
    return Verdict(
        compared=f"{wording.arm_name(first.arm).capitalize()} against {control}{other}",
        verdict=first.verdict,
        tone=TONES.get(first.verdict, "even"),
        sentences=tuple(wording.difference_text(gain) for gain in gains),
    )


def counts(summary: GridSummary) -> list[tuple[int, str, str]]:
    """How many rows are better than their control in Dice, and so on, with the tone."""
    gains = [summary.gain(row.name, "dice") for row in summary.rows]
    main = [gain.verdict for gain in gains if gain is not None]
    better, worse = main.count("better"), main.count("worse")
    return [
        (better, "good", "better than their control in Dice"),
        (len(main) - better - worse, "even", "without a difference shown"),
        (worse, "bad", "worse than their control in Dice"),
    ]


def axis_tables(summary: GridSummary) -> tuple[AxisTable, ...]:
    """For each axis: the gain at each of its values, grouped by all else."""
    spans = {
        metric: strips.span_of(
            end
            for row in summary.rows
            for gain in [summary.gain(row.name, metric)]
            if gain is not None
            for end in (gain.comparison.difference.low, gain.comparison.difference.high)
        )
        for metric in METRICS
    }
    heads = tuple(strips.axis(spans[metric], metric) for metric in METRICS)
    tables = []
    for axis in free_axes(summary):
        groups: dict[str, list[Effect]] = {}
        for row in summary.rows:
            if axis in row.values and summary.gain(row.name, "dice") is not None:
                effect = _effect(summary, row, row.values[axis], spans)
                groups.setdefault(title_of(row, axis), []).append(effect)
        if groups:
            found = tuple((title, tuple(effects)) for title, effects in groups.items())
            tables.append(AxisTable(axis, heads, found))
    return tuple(tables)


def _effect(
    summary: GridSummary, row: GridRow, value: str, spans: dict[str, strips.Span]
) -> Effect:
    gains = tuple(summary.gain(row.name, metric) for metric in METRICS)
    plots = tuple(
        ""
        if gain is None
        else strips.forest(
            gain.comparison.difference,
            spans[gain.metric],
            gain.metric,
            TONES.get(gain.verdict, "even"),
        )
        for gain in gains
    )
    return Effect(value, gains, plots, (row.model("control"), row.model("distilled")))


def spreads(summary: GridSummary) -> tuple[Spread, ...]:
    """The gain over the control in each fold and with each seed, where there are several."""
    names = titles(summary)
    gains = [gain for gain in summary.gains if gain.within_row and gain.control == "control"]
    spans = {
        metric: strips.span_of(
            value
            for gain in gains
            if gain.metric == metric
            for value in (gain.comparison.difference.mean, *(x.difference for x in gain.levels))
        )
        for metric in METRICS
    }
    found: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for gain in gains:
        for axis in dict.fromkeys(level.axis for level in gain.levels):
            levels = [level for level in gain.levels if level.axis == axis]
            if len(levels) < 2:
                continue
            text = ", ".join(
                f"{level.value}: {wording.fixed(level.difference, gain.metric, signed=True)}"
                f" (n {level.n})"
                for level in levels
            )
            plot = strips.level_dots(
                [level.difference for level in levels],
                gain.comparison.difference.mean,
                spans[gain.metric],
                f"{names[gain.row]}, by {axis}: {text}",
            )
            found.setdefault((names[gain.row], axis), []).append((plot, text))
    return tuple(
        Spread(title, axis, tuple(plot for plot, _ in parts), tuple(text for _, text in parts))
        for (title, axis), parts in found.items()
    )


def worst(summary: GridSummary) -> tuple[Worst, ...]:
    """The patients of lowest Dice, over all rows."""
    found = []
    for row in summary.rows:
        model = row.model("distilled") or next(
            (one for one in row.models if one.arm != "teacher"), None
        )
        if model is None:
            continue
        control = row.model("control") if model.arm == "distilled" else None
        for patient in model.patients.get("dice", {}):
            found.append(
                Worst(
                    patient=patient,
                    row=row,
                    title=title_of(row),
                    arm=model.arm,
                    values=_values(model, patient),
                    control=_values(control, patient),
                )
            )
    found.sort(key=lambda one: (one.values[0], one.patient, one.title))
    return tuple(found[:WORST])


def _values(model: ModelRow | None, patient: str) -> tuple[float | None, ...]:
    if model is None:
        return (None,) * len(METRICS)
    return tuple(model.patients.get(metric, {}).get(patient) for metric in METRICS)


def class_tables(summary: GridSummary) -> list[dict[str, Any]]:
    """For each row: class -> what each arm scores in it; nothing of a single class."""
    if len(summary.class_names) < 2:
        return []
    tables = []
    for row in summary.rows:
        models = [model for model in row.models if "+" not in model.arm]
        classes = [
            (name, [one for model in models for one in model.classes if one.class_name == name])
            for name in summary.class_names
        ]
        tables.append({"student": title_of(row), "models": models, "classes": classes})
    return tables
