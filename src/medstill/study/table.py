"""The table of a grid: what all its scored runs say together, read from files alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medstill import scoring
from medstill.errors import RunError
from medstill.evaluation.grid import Asked, GridEntry, GridRow, GridSummary, summarise_grid
from medstill.evaluation.gridtable import table_markdown
from medstill.runs import atomic, read_study, write_json
from medstill.study.folder import (
    GridFolder,
    Listed,
    failures_of,
    is_scored,
    networks_of,
    read_grid,
    run_folder,
)

TABLE_FILE = "table.json"
MARKDOWN_FILE = "table.md"

Facts = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Collected:
    """What the runs of a grid left so far."""

    entries: list[GridEntry] = field(default_factory=list)
    facts: dict[str, Facts] = field(default_factory=dict)
    """Name of a run -> name of a network -> what it costs."""
    missing: list[str] = field(default_factory=list)


def write_table(root: Path) -> GridSummary:
    """Write `table.json` and `table.md` of a grid, whole or in part.

    Args:
        root: Folder of the grid; runs whose every network is scored are taken.

    Returns:
        What is in the table; `missing` names the runs that are not.

    Raises:
        RunError: The folder holds no grid, or none of its runs is scored.
        MissingExtraError: scipy is not installed.
    """
    grid = read_grid(root)
    found = collect(root, grid)
    if not found.entries:
        raise RunError(
            f"None of the {len(grid.runs)} runs in '{root}' is scored yet. 'medstill study status "
            f"{root}' shows how they stand."
        )
    first = read_study(run_folder(root, found.entries[0].point))
    summary = summarise_grid(
        grid.name,
        dict(grid.axes),
        grid.pooled,
        found.entries,
        first.evaluation,
        missing=found.missing,
        asked=Asked(grid.grid.get("against"), grid.grid.get("primary")),
    )
    facts = facts_of_rows(summary, found)
    failures = {
        listed.name: " ".join(one.message for one in failures_of(run_folder(root, listed.name)))
        for listed in grid.runs
        if listed.name in found.missing and failures_of(run_folder(root, listed.name))
    }
    content = summary.model_dump(mode="json")
    # Sorted keys would lose the order of the axes.
    everything = {**content, "facts": facts, "failures": failures}
    write_json(root / TABLE_FILE, everything, sort_keys=False)
    text = "\n\n".join(part for part in (f"# {grid.name}", grid.description) if part)
    with atomic(root / MARKDOWN_FILE) as draft:
        draft.write_text(f"{text}\n\n{table_markdown(summary, facts)}", encoding="utf-8")
    return summary


def collect(root: Path, grid: GridFolder) -> Collected:
    """Scores and facts of every run whose networks are all scored."""
    found = Collected()
    for listed in grid.runs:
        run = run_folder(root, listed.name)
        refs = networks_of(run)
        if not refs or not all(is_scored(run, ref) for ref in refs):
            found.missing.append(listed.name)
            continue
        found.entries.extend(_entries(run, listed))
        study = read_study(run)
        found.facts[listed.name] = {
            ref.student or study.teacher.network.name: scoring.kept_result(run, ref)["facts"]
            for ref in refs
        }
    return found


def facts_of_rows(summary: GridSummary, found: Collected) -> Facts:
    """Name of a network -> its facts; under `ROW: NAME` where rows differ in them."""
    by_name: dict[str, Facts] = {}
    for row in summary.rows:
        facts = found.facts[_run_of(row, found)]
        for model in row.models:
            by_name.setdefault(model.student, {})[row.name] = facts[model.student]
    result: Facts = {}
    for name, rows in sorted(by_name.items()):
        values = list(rows.values())
        if all(value == values[0] for value in values):
            result[name] = values[0]
        else:
            result.update({f"{row}: {name}": value for row, value in rows.items()})
    return result


def _run_of(row: GridRow, found: Collected) -> str:
    """A run that a row is made of: pooled runs train the same networks."""
    return next(
        entry.point
        for entry in found.entries
        if entry.entry.student == row.student and row.values.items() <= entry.values.items()
    )


def _entries(run: Path, listed: Listed) -> Iterator[GridEntry]:
    study = read_study(run)
    for ref in networks_of(run):
        for entry in scoring.kept_entries(run, study, ref):
            yield GridEntry(point=listed.name, values=dict(listed.values), entry=entry)
