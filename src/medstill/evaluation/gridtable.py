"""The tables of a grid as Markdown. Equal summaries give equal bytes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from medstill.evaluation.comparison import ClassSummary, ModelSummary
from medstill.evaluation.gridrecords import GridRow, GridSummary
from medstill.evaluation.gridwords import DIGITS, METRICS, TITLES, sentences, versus
from medstill.evaluation.spread import Source
from medstill.evaluation.tabletext import NOTHING, interval_text, table_text
from medstill.printed import p_text, percent, plain

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


@dataclass(frozen=True)
class Blocks:
    """The parts of a grid's tables, each as lines of Markdown without headings."""

    introduction: list[str]
    """What was pooled, and how it was compared."""
    models: list[str]
    words: list[str]
    """Every comparison as a sentence."""
    gains: list[str]
    mixed: list[str]
    """The gains by fold and seed."""
    classes: list[str]
    remarks: list[str]
    """What collapsed or must be known."""
    missing: list[str]
    """Which runs have no scores."""


def table_blocks(summary: GridSummary, facts: Facts, *, beside: Beside | None = None) -> Blocks:
    """The parts of a grid's tables; arguments as for `table_markdown`."""
    lines = _lines(summary)
    return Blocks(
        [_introduction(summary)],
        _models(summary, lines, facts, beside),
        [f"* {text}" for text in sentences(summary)],
        _gains(summary),
        _mixed(summary),
        _classes(summary, lines),
        list(_remarks(summary)),
        _missing(summary),
    )


def joined(*blocks: Sequence[str]) -> str:
    """Blocks that hold something, an empty line between them."""
    return "\n\n".join("\n".join(block) for block in blocks if block) + "\n"


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
    found = table_blocks(summary, facts, beside=beside)
    return joined(*(getattr(found, field.name) for field in fields(found)))


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
        f"{percent(summary.confidence)} bootstrap interval over patients. NSD at "
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


def free_axes(summary: GridSummary) -> tuple[str, ...]:
    """The axes that are not pooled."""
    return tuple(axis for axis in summary.axes if axis not in summary.pooled)


def _place(summary: GridSummary, line: _Line) -> list[str]:
    """What a line has on each axis that is not pooled."""
    cells = []
    for axis in free_axes(summary):
        own = list(dict.fromkeys(row.values.get(axis, NOTHING) for row in line.rows))
        every = {row.values.get(axis, NOTHING) for row in summary.rows}
        cells.append("all" if len(own) > 1 and set(own) == every else ", ".join(own))
    return cells


def _models(
    summary: GridSummary, lines: Sequence[_Line], facts: Facts, beside: Beside | None
) -> list[str]:
    head = [*free_axes(summary), "network", "arm", "parameters"]
    head += [title for _, title, _ in METRICS] + ["missed", "invented", "seeds", "n"]
    rows = []
    for line in lines:
        model = line.model
        cells = [*_place(summary, line), model.student, model.arm, _parameters(line, facts)]
        cells += [interval_text(model.intervals.get(m), digits) for m, _, digits in METRICS]
        cells += [str(model.counts["missed"]), str(model.counts["invented"])]
        cells += [str(len(model.seeds)), str(model.n_patients)]
        rows.append(cells + ([_beside(line, beside)] if beside else []))
    left = len(free_axes(summary)) + 2
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
    head = ["row", "comparison", "metric", f"difference ({percent(summary.confidence)})"]
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
                versus(gain),
                TITLES[gain.metric],
                interval_text(found.difference, digits, sign=True),
                f"{counts[0]} / {counts[1]} of {found.n}",
                p_text(found.p_value, summary.confidence),
                p_text(gain.p_holm, summary.confidence),
                NOTHING if gain.detectable is None else f"{gain.detectable:.{digits}f}",
                gain.verdict,
            ]
        )
    return table_text(head, rows, 3)


def _mixed(summary: GridSummary) -> list[str]:
    """The mixed view: each gain by fold and seed, and what its variation comes from."""
    found = {(v.axis, v.value) for gain in summary.gains for v in gain.levels}
    columns = sorted(found, key=lambda column: (column[0], len(column[1]), column[1]))
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
        rows.append([gain.row, versus(gain), TITLES[gain.metric], *cells])
    return table_text(head, rows, 3)


def _classes(summary: GridSummary, lines: Sequence[_Line]) -> list[str]:
    """Dice and HD95 of each class."""
    if len(summary.class_names) < 2:
        return []
    head = [*free_axes(summary), "Dice / HD95 mm", *map(plain, summary.class_names)]
    rows = [
        [*_place(summary, line), f"{line.model.student} {line.model.arm}"]
        + [_class(found) for found in line.model.classes]
        for line in lines
    ]
    return table_text(head, rows, len(free_axes(summary)) + 1)


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
        texts = "; ".join(f"{plain(text)} ({', '.join(rows)})" for text, rows in died.items())
        yield f"* **Collapsed classes** (validation Dice under .05): {texts}."
    for gain in summary.gains:
        if gain.unpaired and gain.metric == "dice":
            yield (
                f"* {gain.row}, {versus(gain)}: not paired, since one side has no score: "
                f"{', '.join(map(plain, gain.unpaired))}."
            )
    yield from (f"* {plain(note)}" for note in summary.notes)


def _missing(summary: GridSummary) -> list[str]:
    return [f"* Not finished: {', '.join(summary.missing)}."] if summary.missing else []
