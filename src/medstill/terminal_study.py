"""What the commands of studies of many runs print."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medstill.terminal import duration, new_table

if TYPE_CHECKING:
    from rich.console import Console

    from medstill.study.checking import Checked
    from medstill.study.status import GridState

STYLES = {"finished": "green", "running": "cyan", "failed": "red", "waiting": "dim"}


def show_status(out: Console, found: GridState) -> None:
    """How every run of a study stands."""
    table = new_table("run", "state", "networks")
    for run in found.runs:
        state = f"[{STYLES[run.state]}]{run.state}[/]"
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
    table = new_table("run", *found.axes)
    for point in found.points:
        table.add_row(point.name, *(point.values.get(axis, "-") for axis in found.axes))
    out.print(table)
    out.print(
        f"Everything checked: {len(found.points)} runs, which share {found.trainings} trainings. "
        f"They take {duration(found.training_s)} with {found.workers} worker(s) and "
        f"{found.memory_mb:.0f} MB of memory each."
    )
