"""What the commands of studies of many runs print."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text

from medstill.printed import percent
from medstill.terminal import duration, interval_text, new_table

if TYPE_CHECKING:
    from rich.console import Console

    from medstill.evaluation.grid import GridSummary
    from medstill.evaluation.selection import Selection
    from medstill.study.checking import Checked
    from medstill.study.cleaning import Leftover
    from medstill.study.status import GridState
    from medstill.study.timing import Times

STYLES = {"finished": "green", "running": "cyan", "failed": "red", "waiting": "dim"}
FEW_NAMES = 10
"""So many runs without scores are named; `table.md` names all."""


def show_status(out: Console, found: GridState) -> None:
    """How every run of a study stands."""
    table = new_table("run", "state", "networks")
    for run in found.runs:
        state = Text(run.state, style=STYLES[run.state])
        table.add_row(run.name, state, f"{run.trained} of {run.networks}")
    out.print(table)
    for run in found.runs:
        if run.message:
            text = f"{run.name} failed: {run.message}"
            out.print(text, style="red", markup=False, soft_wrap=True)
    running, finished = found.count("running"), found.count("finished")
    counts = f"{finished} of {len(found.trainings)} trainings done, {running} running"
    left = f", {duration(found.left_s)} left" if found.left_s else ""
    out.print(f"{found.name}: {counts}{left}.")


def show_check(out: Console, found: Checked) -> None:
    """The runs of a study and what they will cost."""
    from medstill.training.schedule import idle_warmups

    table = new_table("run", *found.axes)
    for point in found.points:
        table.add_row(point.name, *(point.values.get(axis, "-") for axis in found.axes))
    out.print(table)
    out.print(
        f"Everything checked: {len(found.points)} runs, which share {found.trainings} trainings. "
        f"They take {duration(found.training_s)} with {found.workers} worker(s) and "
        f"{found.memory_mb:.0f} MB of memory each."
    )
    if found.cache_mb:
        out.print(f"What the teachers say is kept on disk: about {found.cache_mb:.0f} MB.")
    for text in dict.fromkeys(text for point in found.points for text in idle_warmups(point.study)):
        out.print(text, style="yellow", markup=False, soft_wrap=True)


def show_selection(out: Console, folder: Path, selection: Selection) -> None:
    """The candidates by their validation scores, and what was chosen."""
    folds = list(dict.fromkeys(fold for one in selection.candidates for fold in one.by_fold))
    table = new_table("row", "validation Dice", *folds, "networks")
    for one in selection.candidates:
        cells = [f"{one.by_fold[fold]:.3f}" if fold in one.by_fold else "-" for fold in folds]
        table.add_row(one.row, f"{one.mean:.3f}", *cells, str(one.n))
    out.print(table)
    for one in selection.candidates:
        if one.lacking:
            text = f"{one.row} lacks {'; '.join(one.lacking)}: it cannot be chosen."
            out.print(text, style="yellow", markup=False, soft_wrap=True)
    for choice in selection.choices:
        out.print(f"Chosen for {choice.student}: {choice.row}.", markup=False, soft_wrap=True)
    out.print(f"Selection: {folder / 'selection.md'}", soft_wrap=True)


def show_table(out: Console, folder: Path, summary: GridSummary) -> None:
    """The rows of a grid, its comparisons, what is missing, and where the table is."""
    show_rows(out, summary)
    out.print(f"Table: {folder / 'table.md'}", soft_wrap=True)


def show_rows(out: Console, summary: GridSummary) -> None:
    """The rows of a grid, its comparisons, and what is missing."""
    from medstill.evaluation.gridwords import sentences

    level = percent(summary.confidence)
    table = new_table("row", "model", "n", f"Dice ({level})", f"HD95 mm ({level})", "missed")
    for row in summary.rows:
        for model in row.models:
            table.add_row(
                row.name,
                f"{model.student} {model.arm}",
                str(model.n_patients),
                interval_text(model.intervals.get("dice"), 3),
                interval_text(model.intervals.get("hd95_mm"), 1),
                str(model.counts["missed"]),
            )
    out.print(table)
    for sentence in sentences(summary):
        out.print(sentence.replace("**", ""), markup=False, soft_wrap=True)
    for note in summary.notes:
        out.print(note, markup=False, soft_wrap=True)
    if summary.missing:
        names, left = summary.missing[:FEW_NAMES], len(summary.missing) - FEW_NAMES
        more = f" and {left} more" if left > 0 else ""
        text = f"{len(summary.missing)} not scored yet: {', '.join(names)}{more}."
        out.print(text, style="yellow", markup=False, soft_wrap=True)


def show_times(out: Console, folder: Path, times: Times) -> None:
    """What the networks of a study take to answer."""
    table = new_table("row", "network", "ms", "fastest to slowest")
    for one in times.networks:
        span = f"{one.low:.2f} to {one.high:.2f}"
        table.add_row(one.row, one.network, f"{one.milliseconds:.2f}", span)
    out.print(table)
    out.print(
        f"One input, {times.runtime}, {times.threads} thread, {times.cpu}; median of "
        f"{times.rounds} rounds. Times: {folder / 'times.json'}",
        markup=False,
        soft_wrap=True,
    )


def show_leftovers(out: Console, folder: Path, found: Sequence[Leftover]) -> None:
    """What can be computed again, and how large it is."""
    table = new_table("what", "number", "MB")
    for what in dict.fromkeys(entry.what for entry in found):
        mine = [entry.size_bytes for entry in found if entry.what == what]
        table.add_row(what, str(len(mine)), f"{sum(mine) / 1e6:.1f}")
    if found:
        out.print(table)
    total = sum(entry.size_bytes for entry in found) / 1e6
    out.print(f"{total:.1f} MB in '{folder}' can be computed again.", soft_wrap=True)
