"""The part of docs/results.md that shows one grid, from its kept runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from medstill.evaluation.archive import GridFacts, KeptRun, facts_of
from medstill.evaluation.grid import Asked, summarise_grid
from medstill.evaluation.gridtable import Beside, table_markdown
from medstill.evaluation.selection import select_rows, selection_markdown


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
    text = table_markdown(summary, facts_of(runs, grid.pooled), beside=beside)
    selection = select_rows(grid.name, grid.pooled, [v for run in runs for v in run.validations()])
    if len(selection.candidates) > len({one.student for one in selection.candidates}):
        text += f"\nBy the validation patients alone:\n\n{selection_markdown(selection)}"
    return text


def _parts(run: KeptRun) -> str:
    names = ("train", "student", "validation", "test")
    return " / ".join(str(run.patients[name]) for name in names)


def _names(found: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in dict.fromkeys(found))
