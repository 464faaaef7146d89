"""The part of docs/results.md that shows one grid, from its kept runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from medstill.evaluation.archive import GridFacts, KeptRun, facts_of
from medstill.evaluation.grid import Asked, summarise_grid
from medstill.evaluation.gridrecords import GridGain, GridRow, GridSummary
from medstill.evaluation.gridtable import (
    Beside,
    free_axes,
    joined,
    table_blocks,
)
from medstill.evaluation.gridwords import DIGITS, comparisons, versus
from medstill.evaluation.selection import select_rows, selection_markdown
from medstill.evaluation.tabletext import NOTHING, interval_text, table_text
from medstill.printed import p_text, percent


def grid_heading(grid: GridFacts, runs: Sequence[KeptRun]) -> str:
    """What was run on what, with which code; no statistics."""
    networks = {kept.weights: kept for run in runs for kept in run.networks}
    hours = sum(kept.minutes for kept in networks.values()) / 60
    tested = {row[1] for run in runs for kept in run.scores for row in kept.cases}
    text = (
        f"`medstill study run studies/{grid.name}.yaml --data DATA --out OUT`, commit "
        f"{_names(run.commit for run in runs)}: {len(runs)} of {len(grid.runs)} runs with "
        f"{len(networks)} different networks, {hours:.1f} hours of training steps. Data "
        f"{_names(run.data_hash[:16] for run in runs)}; torch "
        f"{_names(run.versions.get('torch', '-') for run in runs)}. {len(tested)} patients are "
        f"tested. Cases that train the teacher, are labelled for the students, validate and test "
        f"in a run: {'; '.join(dict.fromkeys(_parts(run) for run in runs))}."
    )
    description = [grid.description.strip()] if grid.description.strip() else []
    return "\n\n".join([f"## {grid.name}", *description, text])


def grid_tables(grid: GridFacts, runs: Sequence[KeptRun], *, beside: Beside | None = None) -> str:
    """The tables, and the ranking by validation where there is more than one recipe.

    A page of many grids has each comparison in one line, and folds away what few readers ask for.

    Raises:
        DataError: The runs cannot stand in one table.
        MissingExtraError: scipy is not installed.
    """
    kept = {run.point for run in runs}
    summary = summarise_grid(
        grid.name,
        dict(grid.axes),
        grid.pooled,
        [entry for run in runs for entry in run.entries()],
        runs[0].evaluation,
        missing=[run.name for run in grid.runs if run.name not in kept],
        asked=Asked(grid.against, grid.primary),
    )
    blocks = table_blocks(summary, facts_of(runs, grid.pooled), beside=beside)
    text = joined(
        blocks.introduction,
        blocks.models,
        compared(summary),
        blocks.remarks,
        folded("Gains by fold and seed", blocks.mixed),
        folded("By class", blocks.classes),
        folded(f"Without scores: {len(summary.missing)} of {len(grid.runs)}", blocks.missing),
    )
    selection = select_rows(grid.name, grid.pooled, [v for run in runs for v in run.validations()])
    if len(selection.candidates) > len({one.student for one in selection.candidates}):
        ranking = selection_markdown(selection).rstrip().split("\n")
        text += "\n" + joined(folded("Ranked by the validation patients alone", ranking))
    return text


def compared(summary: GridSummary) -> list[str]:
    """Every comparison in one line, HD95 beside Dice."""
    rows = {row.name: row for row in summary.rows}
    head = [*free_axes(summary), "network", "comparison"]
    left = len(head)
    level = percent(summary.confidence)
    head += [f"Dice ({level})", "better / worse", "p (Holm)", "detectable", "verdict"]
    head += [f"HD95 mm ({level})", "p (Holm)", "verdict"]
    lines = []
    for gains in comparisons(summary):
        found = {gain.metric: gain for gain in gains}
        lines.append(
            [
                *_place(summary, rows[gains[0].row]),
                versus(gains[0]),
                *_dice(found.get("dice")),
                *_hd95(found.get("hd95_mm")),
            ]
        )
    return table_text(head, lines, left) if lines else []


def folded(title: str, block: Sequence[str]) -> list[str]:
    """A block that a page shows when its title is clicked; nothing of nothing."""
    if not block:
        return []
    return [f"<details><summary>{title}</summary>", "", *block, "", "</details>"]


def _place(summary: GridSummary, row: GridRow) -> list[str]:
    return [*(row.values.get(axis, NOTHING) for axis in free_axes(summary)), row.student]


def _dice(gain: GridGain | None) -> list[str]:
    if gain is None:
        return [NOTHING] * 5
    found, digits = gain.comparison, DIGITS["dice"]
    detectable = NOTHING if gain.detectable is None else f"{gain.detectable:.{digits}f}"
    return [
        interval_text(found.difference, digits, sign=True),
        f"{found.higher} / {found.lower} of {found.n}",
        p_text(gain.p_holm, gain.comparison.difference.confidence),
        detectable,
        gain.verdict,
    ]


def _hd95(gain: GridGain | None) -> list[str]:
    if gain is None:
        return [NOTHING] * 3
    digits = DIGITS["hd95_mm"]
    difference = interval_text(gain.comparison.difference, digits, sign=True)
    return [difference, p_text(gain.p_holm, gain.comparison.difference.confidence), gain.verdict]


def _parts(run: KeptRun) -> str:
    names = ("train", "student", "validation", "test")
    return " / ".join(str(run.patients[name]) for name in names)


def _names(found: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in dict.fromkeys(found))
