"""What the commands print of data sets: what is there, what is wrong, what was left out."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from medstill.terminal import new_table

if TYPE_CHECKING:
    from medstill.volumes.inspect import Inspection, Spread
    from medstill.volumes.store import PreparedSet, Skipped


def show_inspection(out: Console, found: Inspection) -> None:
    """What a data set holds and what is wrong with it."""
    labelled = sum(row.labelled for row in found.cases)
    out.print(f"{found.root}: layout {found.layout}, {', '.join(found.modalities)}")
    out.print(f"{len(found.cases)} cases ({labelled} labelled) of {found.patients} patients")
    table = new_table("axis", "size", "spacing mm")
    for axis, size, spacing in zip_longest("zyx", found.size_zyx, found.spacing_zyx_mm):
        table.add_row(axis, _spread(size, 0), _spread(spacing, 3))
    out.print(table)
    for channel, (low, high) in enumerate(found.intensity):
        out.print(f"intensity of channel {channel}: {low:g} to {high:g}")
    table = new_table("label", "value", "cases", "voxels", "share", "mean ml")
    for label in found.labels:
        volume = "-" if label.ml is None else f"{label.ml:.1f}"
        row = (str(label.value), str(label.cases), f"{label.voxels:,}", f"{label.share:.2%}")
        table.add_row(label.name, *row, volume)
    out.print(table)
    for note in found.notes:
        out.print(f"note: {note}", markup=False, soft_wrap=True)
    for problem in found.problems:
        out.print(f"problem: {problem}", style="red", markup=False, soft_wrap=True)
    out.print(f"{len(found.problems)} problem(s) found.")


def show_prepared(out: Console, folder: Path, prepared: PreparedSet) -> None:
    """What was prepared and how."""
    preparation = prepared.preparation
    spacing = " x ".join("as is" if v is None else f"{v:.3g}" for v in preparation.spacing_zyx_mm)
    out.print(
        f"{len(prepared.infos)} cases prepared in '{folder}': spacing (z, y, x) {spacing} mm, "
        f"{preparation.channels} channel(s), classes {', '.join(preparation.classes)}.",
        markup=False,
    )
    show_skipped(out, prepared.skipped)


def show_skipped(out: Console, skipped: Sequence[Skipped]) -> None:
    """What was left out and why."""
    if skipped:
        out.print(f"{len(skipped)} left out:", style="yellow")
    for entry in skipped:
        out.print(f"  {entry.id}: {entry.reason}", markup=False, soft_wrap=True)


def show_problems(out: Console, problems: Sequence[str]) -> None:
    """What would be left out."""
    if problems:
        out.print(f"{len(problems)} would be left out:", style="yellow")
    for problem in problems:
        out.print(f"  {problem}", markup=False, soft_wrap=True)


def _spread(spread: Spread | None, digits: int) -> str:
    if spread is None:
        return "-"
    least, median, greatest = (
        f"{value:.{digits}f}" for value in (spread.least, spread.median, spread.greatest)
    )
    return least if least == greatest else f"{least} to {greatest}, median {median}"
