"""The tables of a grid as Markdown. Equal summaries give equal bytes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medstill.evaluation.comparison import ClassSummary, ModelSummary
from medstill.evaluation.gridrecords import GridGain, GridRow, GridSummary
from medstill.evaluation.scores import Metric
from medstill.evaluation.spread import Source
from medstill.evaluation.tabletext import NOTHING, interval_text, p_text, table_text

METRICS: tuple[tuple[Metric, str, int], ...] = (
    ("dice", "Dice", 3),
    ("hd95_mm", "HD95 mm", 1),
    ("nsd", "NSD", 3),
)
TITLES = {metric: title for metric, title, _ in METRICS}
DIGITS = {metric: digits for metric, _, digits in METRICS}
SOURCES: tuple[Source, ...] = ("patient", "fold", "seed", "rest")

Facts = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Beside:
    """A further column of the main table, with figures that others measured on other data."""

    title: str
    cells: Mapping[tuple[str, str, str], str]
    """`(student, arm, teacher)` -> text; teacher "" matches every row of the student."""


@dataclass(frozen=True)
class _Line:
    """A model, and the rows that it stands in: a control, say, that all recipes share."""

    model: ModelSummary
    rows: tuple[GridRow, ...]


def table_markdown(summary: GridSummary, facts: Facts, *, beside: Beside | None = None) -> str:
    """The tables of a grid.

    Args:
        summary: Of the grid.
        facts: Name of a network -> its facts, for the column of parameters. Where rows differ in
            it, `ROW: NAME` stands for the one of that row.
        beside: Another source's figures, as the last column of the main table.

    Returns:
        Markdown without headings: what was pooled, models, verdicts in words, gains, the gains by
        fold and seed, classes, and what is missing.
    """
    lines = _lines(summary)
    parts = [
        [_introduction(summary)],
        _models(summary, lines, facts, beside),
        [f"* {text}" for text in sentences(summary)],
        _gains(summary),
        _mixed(summary),
        _classes(summary, lines),
        list(_remarks(summary)),
    ]
    return "\n\n".join("\n".join(part) for part in parts if part) + "\n"


def sentence(gains: Sequence[GridGain]) -> str:
    """One comparison in plain words; `gains` are its metrics.

    Returns:
        Such as `**loss-kl compact**, distilled against control (n = 22): Dice better by 0.040 (95%
        +0.010 to +0.066, p after Holm 0.012); HD95 no difference shown (...).`
    """
    n = ", ".join(dict.fromkeys(str(gain.comparison.n) for gain in gains))
    clauses = "; ".join(map(_clause, gains))
    return f"**{gains[0].row}**, {_versus(gains[0], ' against ')} (n = {n}): {clauses}."


def sentences(summary: GridSummary) -> tuple[str, ...]:
    """Every comparison of a grid in plain words; see `sentence`."""
    return tuple(sentence(gains) for gains in _comparisons(summary))


def _clause(gain: GridGain) -> str:
    """What one metric shows, and what it could have shown where it shows nothing."""
    found, digits = gain.comparison.difference, DIGITS[gain.metric]
    unit = " mm" if gain.metric.endswith("_mm") else ""
    what = TITLES[gain.metric].removesuffix(" mm")
    ends = f"{found.confidence:.0%} {found.low:+.{digits}f} to {found.high:+.{digits}f}{unit}"
    if gain.verdict != "no difference shown":
        size = f"{abs(found.mean):.{digits}f}{unit}"
        return f"{what} {gain.verdict} by {size} ({ends}, p after Holm {p_text(gain.p_holm)})"
    hint = ""
    if gain.comparison.p_value < 1 - found.confidence:
        hint = f", by itself p {p_text(gain.comparison.p_value)}"
    elif gain.detectable is not None:
        hint = f", detectable {gain.detectable:.{digits}f}{unit}"
    return (
        f"{what} no difference shown ({found.mean:+.{digits}f}{unit}, {ends}, p after Holm "
        f"{p_text(gain.p_holm)}{hint})"
    )


def _families(summary: GridSummary) -> str:
    """Over what Holm's adjustment is."""
    sizes = sorted({gain.family for gain in summary.gains})
    named = ", ".join(f"{axis} {value}" for axis, value in (summary.primary or {}).items())
    apart = f", those of {named}, which the study is about, by themselves" if named else ""
    many = " or ".join(map(str, sizes)) or "no"
    return f"is over the rows of one comparison in one metric{apart} ({many} at a time)"


def _introduction(summary: GridSummary) -> str:
    pooled = " and ".join((*summary.pooled, *(() if "seed" in summary.pooled else ("seed",))))
    return (
        f"Means over test patients of the mean over classes, pooled over {pooled}; in brackets the "
        f"{summary.confidence:.0%} bootstrap interval over patients. NSD at "
        f"{summary.nsd_tolerance_mm:g} mm. Differences are paired by patient; Holm's adjustment "
        f"{_families(summary)}. Detectable is the smallest true difference "
        "that so many patients show with 80% power in a test by itself."
    )


def _lines(summary: GridSummary) -> tuple[_Line, ...]:
    """Every different model once, teachers first."""
    found: list[tuple[ModelSummary, list[GridRow]]] = []
    for row in summary.rows:
        for model in row.models:
            same = [rows for other, rows in found if other == model]
            if same:
                same[0].append(row)
            else:
                found.append((model, [row]))
    found.sort(key=lambda pair: pair[0].arm != "teacher")
    return tuple(_Line(model, tuple(rows)) for model, rows in found)


def _comparisons(summary: GridSummary) -> list[list[GridGain]]:
    """The gains, those of one comparison together."""
    found: dict[tuple[str, str, str, str], list[GridGain]] = {}
    for gain in summary.gains:
        found.setdefault((gain.row, gain.arm, gain.control_row, gain.control), []).append(gain)
    return list(found.values())


def _free(summary: GridSummary) -> tuple[str, ...]:
    return tuple(axis for axis in summary.axes if axis not in summary.pooled)


def _place(summary: GridSummary, line: _Line) -> list[str]:
    """What a line has on each axis that is not pooled."""
    cells = []
    for axis in _free(summary):
        own = list(dict.fromkeys(row.values.get(axis, NOTHING) for row in line.rows))
        every = {row.values.get(axis, NOTHING) for row in summary.rows}
        cells.append("all" if len(own) > 1 and set(own) == every else ", ".join(own))
    return cells


def _models(
    summary: GridSummary, lines: Sequence[_Line], facts: Facts, beside: Beside | None
) -> list[str]:
    head = [*_free(summary), "network", "arm", "parameters"]
    head += [title for _, title, _ in METRICS] + ["missed", "invented", "seeds", "n"]
    rows = []
    for line in lines:
        model = line.model
        cells = [*_place(summary, line), model.student, model.arm, _parameters(line, facts)]
        cells += [interval_text(model.intervals.get(m), digits) for m, _, digits in METRICS]
        cells += [str(model.counts["missed"]), str(model.counts["invented"])]
        cells += [str(len(model.seeds)), str(model.n_patients)]
        rows.append(cells + ([_beside(line, beside)] if beside else []))
    left = len(_free(summary)) + 2
    return table_text(head + ([beside.title] if beside else []), rows, left)


def _parameters(line: _Line, facts: Facts) -> str:
    name = line.model.student
    own = [facts[key] for row in line.rows if (key := f"{row.name}: {name}") in facts]
    found = own or ([facts[name]] if name in facts else [])
    return ", ".join(sorted({f"{fact['parameters']:,}" for fact in found})) or NOTHING


def _beside(line: _Line, beside: Beside) -> str:
    for row in line.rows:
        teachers = [model.student for model in row.models if model.arm == "teacher"]
        for teacher in (*teachers, ""):
            key = (line.model.student, line.model.arm, teacher)
            if key in beside.cells:
                return beside.cells[key]
    return NOTHING


def _gains(summary: GridSummary) -> list[str]:
    if not summary.gains:
        return []
    head = ["row", "comparison", "metric", f"difference ({summary.confidence:.0%})"]
    head += ["better / worse", "p", "p (Holm)", "detectable", "verdict"]
    rows = []
    for gain in summary.gains:
        found, digits = gain.comparison, DIGITS[gain.metric]
        counts = (
            (found.higher, found.lower) if gain.higher_is_better else (found.lower, found.higher)
        )
        rows.append(
            [
                gain.row,
                _versus(gain),
                TITLES[gain.metric],
                interval_text(found.difference, digits, sign=True),
                f"{counts[0]} / {counts[1]} of {found.n}",
                p_text(found.p_value),
                p_text(gain.p_holm),
                NOTHING if gain.detectable is None else f"{gain.detectable:.{digits}f}",
                gain.verdict,
            ]
        )
    return table_text(head, rows, 3)


def _mixed(summary: GridSummary) -> list[str]:
    """The mixed view: each gain by fold and seed, and what its variation comes from."""
    columns = list(dict.fromkeys((v.axis, v.value) for gain in summary.gains for v in gain.levels))
    sources = [s for s in SOURCES if any(s in gain.spread for gain in summary.gains)]
    if not columns and not sources:
        return []
    order = list(summary.axes)
    columns.sort(key=lambda column: order.index(column[0]) if column[0] in order else len(order))
    head = ["row", "comparison", "metric", *(f"{axis} {value}" for axis, value in columns)]
    head += [f"sd by {source}" for source in sources]
    rows = []
    for gain in summary.gains:
        digits = DIGITS[gain.metric]
        levels = {(v.axis, v.value): f"{v.difference:+.{digits}f} ({v.n})" for v in gain.levels}
        cells = [levels.get(column, NOTHING) for column in columns]
        cells += [
            f"{gain.spread[source]:.{digits}f}" if source in gain.spread else NOTHING
            for source in sources
        ]
        rows.append([gain.row, _versus(gain), TITLES[gain.metric], *cells])
    return table_text(head, rows, 3)


def _classes(summary: GridSummary, lines: Sequence[_Line]) -> list[str]:
    """Dice and HD95 of each class."""
    if len(summary.class_names) < 2:
        return []
    head = [*_free(summary), "Dice / HD95 mm", *summary.class_names]
    rows = [
        [*_place(summary, line), f"{line.model.student} {line.model.arm}"]
        + [_class(found) for found in line.model.classes]
        for line in lines
    ]
    return table_text(head, rows, len(_free(summary)) + 1)


def _class(found: ClassSummary) -> str:
    intervals = [(found.intervals.get(m), DIGITS[m]) for m in ("dice", "hd95_mm")]
    cell = " / ".join(NOTHING if i is None else f"{i.mean:.{digits}f}" for i, digits in intervals)
    return cell + (" (collapsed)" if found.collapsed_seeds else "")


def _remarks(summary: GridSummary) -> Iterator[str]:
    died: dict[str, list[str]] = {}
    for row in summary.rows:
        for text in row.collapsed:
            died.setdefault(text, []).append(row.name)
    if died:
        texts = "; ".join(f"{text} ({', '.join(rows)})" for text, rows in died.items())
        yield f"* **Collapsed classes** (validation Dice under .05): {texts}."
    for gain in summary.gains:
        if gain.unpaired and gain.metric == "dice":
            yield (
                f"* {gain.row}, {_versus(gain)}: not paired, since one side has no score: "
                f"{', '.join(gain.unpaired)}."
            )
    yield from (f"* {note}" for note in summary.notes)
    if summary.missing:
        yield f"* Not finished: {', '.join(summary.missing)}."


def _versus(gain: GridGain, between: str = " - ") -> str:
    other = f" of {gain.control_row}" if gain.control_row != gain.row else ""
    return f"{gain.arm}{between}{gain.control}{other}"
