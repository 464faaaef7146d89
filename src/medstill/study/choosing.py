"""Choose a grid's recipe by validation patients, and judge the choice by test patients."""

from __future__ import annotations

from pathlib import Path

from medstill import scoring
from medstill.errors import RunError
from medstill.evaluation.grid import GridSummary, summarise_grid
from medstill.evaluation.selection import (
    CHOSEN,
    Selection,
    Validation,
    nested_entries,
    save_selection,
    select_rows,
    selection_markdown,
)
from medstill.refs import ModelRef
from medstill.runs import atomic, is_finished, read_study
from medstill.study.folder import GridFolder, networks_of, read_grid, run_folder
from medstill.study.table import collect

SELECTION_FILE = "selection.json"
SELECTION_TEXT_FILE = "selection.md"


def choose(root: Path) -> Selection:
    """Rank the rows of a grid by validation Dice; writes `selection.json` and `selection.md`.

    No test score is read. A row that lacks a fold or seed which others have is listed but not
    chosen.

    Raises:
        RunError: The folder holds no grid.
        DataError: No distilled student is trained yet.
    """
    grid = read_grid(root)
    selection = select_rows(grid.name, grid.pooled, _validations(root, grid))
    save_selection(selection, root / SELECTION_FILE)
    with atomic(root / SELECTION_TEXT_FILE) as draft:
        draft.write_text(selection_markdown(selection), encoding="utf-8")
    return selection


def judge(root: Path, selection: Selection) -> GridSummary:
    """What the whole procedure is worth: in each fold the row chosen there, on its test patients.

    Raises:
        RunError: Nothing that was chosen is scored yet.
        MissingExtraError: scipy is not installed.
    """
    grid = read_grid(root)
    found = collect(root, grid)
    entries = nested_entries(found.entries, grid.pooled, selection)
    if not entries:
        raise RunError(
            f"No row that validation chose in '{root}' is scored on test patients yet. 'medstill "
            f"study status {root}' shows how they stand."
        )
    axes = {name: values for name, values in grid.axes if name in grid.pooled}
    config = read_study(run_folder(root, entries[0].point)).evaluation
    return summarise_grid(grid.name, {**axes, "recipe": (CHOSEN,)}, grid.pooled, entries, config)


def _validations(root: Path, grid: GridFolder) -> list[Validation]:
    found = []
    for listed in grid.runs:
        run = run_folder(root, listed.name)
        for ref in networks_of(run):
            if ref.student and is_finished(ref.folder(run)):
                found.append(_validation(run, listed.name, dict(listed.values), ref))
    return found


def _validation(run: Path, point: str, values: dict[str, str], ref: ModelRef) -> Validation:
    return Validation(
        point=point,
        values=values,
        student=ref.student,
        arm=ref.arm,
        seed=ref.seed,
        dice=scoring.kept_result(run, ref)["best_dice"],
    )
