"""Recipes chosen by validation patients alone, so that test scores can still judge the choice.

Nested: in each fold the row with the best validation score of that fold is chosen and tested on
the fold's test patients. The recipe for all is the one with the best mean over the folds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from medstill.config import Record
from medstill.errors import DataError, RunError
from medstill.evaluation.arms import Arm
from medstill.evaluation.gridrecords import GridEntry
from medstill.evaluation.pooling import Row, Unit, place_of
from medstill.evaluation.tabletext import NOTHING, table_text
from medstill.runs import read_json, write_json

CHOSEN = "chosen"
"""Value of the axis `recipe` of the networks that nested selection chose."""

Scores = Mapping[Row, Mapping[Unit, float]]


class Validation(Record):
    """The best validation Dice of one trained network, as its `stage.json` says."""

    point: str
    values: dict[str, str]
    """Axis -> value of that run."""
    student: str
    arm: Arm
    seed: int
    dice: float


class Candidate(Record):
    """One row that could be chosen."""

    row: str
    values: dict[str, str]
    student: str
    mean: float
    """Of the validation Dice over folds and seeds."""
    n: int
    """Trained networks behind the mean."""
    by_fold: dict[str, float]
    """Fold, such as `fold 2`, -> mean over its seeds; empty without folds."""
    lacking: tuple[str, ...]
    """Folds and seeds that other candidates have: with any, it cannot be chosen."""


class Choice(Record):
    """What validation chose for one student."""

    student: str
    row: str
    """Best mean over all folds and seeds."""
    values: dict[str, str]
    by_fold: dict[str, str]
    """Fold -> row with the best validation score in that fold alone."""
    by_axis: dict[str, str]
    """Axis -> value with the best mean over the candidates that have it."""


class Selection(Record):
    """`selection.json`: the candidates with their validation scores, and what they decide."""

    name: str
    """Of the grid."""
    arm: Arm
    candidates: tuple[Candidate, ...]
    """By student, best first."""
    choices: tuple[Choice, ...]
    """One per student that has a complete candidate."""


def select_rows(
    name: str,
    pooled: Sequence[str],
    validations: Iterable[Validation],
    *,
    arm: Arm = "distilled",
) -> Selection:
    """Rank the rows of a grid by their validation scores; no test score is looked at.

    Args:
        name: Of the grid.
        pooled: Axes whose runs are one row together, such as `fold`.
        validations: Of all trained networks, in any order; those of other arms are left out.
        arm: Whose scores decide.

    Raises:
        DataError: No network of that arm, or one twice.
    """
    scores = _scores(pooled, validations, arm)
    candidates: list[Candidate] = []
    choices: list[Choice] = []
    for student in sorted({row.student for row in scores}):
        own = {row: units for row, units in scores.items() if row.student == student}
        everywhere = _everywhere(own)
        ranked = sorted(own, key=lambda row: (-_mean(scores[row].values()), row.name))
        candidates += [_candidate(row, own[row], everywhere) for row in ranked]
        complete = {row: own[row] for row in ranked if own[row].keys() == everywhere}
        if complete:
            choices.append(_choice(complete))
    return Selection(name=name, arm=arm, candidates=tuple(candidates), choices=tuple(choices))


def nested_entries(
    entries: Iterable[GridEntry], pooled: Sequence[str], selection: Selection
) -> tuple[GridEntry, ...]:
    """The students that were chosen fold by fold, with all their arms, as one row.

    Its test scores judge the whole procedure, the choice of the recipe included. Teachers stay
    out: the rows chosen may have different ones.

    Args:
        entries: As for `summarise_grid`.
        pooled: As there.
        selection: Of the same grid.
    """
    chosen = {(c.student, fold, row) for c in selection.choices for fold, row in c.by_fold.items()}
    found = []
    for one in entries:
        row, unit = place_of(one.values, one.entry.student, one.entry.seed, pooled)
        if (row.student, _fold(unit), row.name) in chosen:
            kept = {axis: value for axis, value in one.values.items() if axis in pooled}
            found.append(one.model_copy(update={"values": {**kept, "recipe": CHOSEN}}))
    return tuple(found)


def selection_markdown(selection: Selection) -> str:
    """The candidates as a Markdown table, best first, and what was chosen."""
    folds = list(dict.fromkeys(fold for c in selection.candidates for fold in c.by_fold))
    head = ["student", "row", "mean validation Dice", *folds, "networks"]
    rows = []
    for one in selection.candidates:
        name = one.row + (f" (lacks {'; '.join(one.lacking)})" if one.lacking else "")
        cells = [f"{one.by_fold[f]:.3f}" if f in one.by_fold else NOTHING for f in folds]
        rows.append([one.student, name, f"{one.mean:.3f}", *cells, str(one.n)])
    chosen = [f"* Chosen for {choice.student}: **{choice.row}**." for choice in selection.choices]
    return "\n".join([*table_text(head, rows, 2), "", *chosen]) + "\n"


def save_selection(selection: Selection, path: Path) -> None:
    """Write a selection as JSON, all or nothing."""
    write_json(path, selection.model_dump(mode="json"))


def load_selection(path: Path) -> Selection:
    """Read what `save_selection` wrote.

    Raises:
        RunError: The file is missing, damaged or holds no selection.
    """
    content = read_json(path)
    try:
        return Selection.model_validate(content)
    except ValueError as error:
        raise RunError(
            f"'{path}' does not hold a selection by validation scores ({error}). "
            "Delete it and repeat the selection."
        ) from error


def _scores(
    pooled: Sequence[str], validations: Iterable[Validation], arm: Arm
) -> dict[Row, dict[Unit, float]]:
    scores: dict[Row, dict[Unit, float]] = {}
    for one in validations:
        if one.arm != arm:
            continue
        row, unit = place_of(one.values, one.student, one.seed, pooled)
        units = scores.setdefault(row, {})
        if unit in units:
            raise DataError(
                f"'{row.name}' has two validation scores for {unit}. Give every trained network "
                "once."
            )
        units[unit] = one.dice
    if not scores:
        raise DataError(
            f"There is no validation score of a {arm} network to choose by. Train the grid first."
        )
    return scores


def _everywhere(scores: Scores) -> set[Unit]:
    """Where a row must have a network to be chosen: all places on the pooled axes.

    A run by itself has no place there: it is ranked, but its validation patients are others.
    """
    units = {unit for found in scores.values() for unit in found}
    axes = max(len(unit.places) for unit in units)
    return {unit for unit in units if len(unit.places) == axes}


def _fold(unit: Unit) -> str:
    return ", ".join(f"{axis} {value}" for axis, value in unit.fold)


def _by_fold(units: Mapping[Unit, float]) -> dict[str, float]:
    folds = {_fold(unit): unit.fold for unit in sorted(units)}
    return {
        name: _mean([dice for unit, dice in units.items() if unit.fold == fold])
        for name, fold in folds.items()
        if name
    }


def _candidate(row: Row, units: Mapping[Unit, float], everywhere: set[Unit]) -> Candidate:
    return Candidate(
        row=row.name,
        values=dict(row.values),
        student=row.student,
        mean=_mean(units.values()),
        n=len(units),
        by_fold=_by_fold(units),
        lacking=tuple(map(str, sorted(everywhere - units.keys()))),
    )


def _choice(complete: Scores) -> Choice:
    """`complete`: rows best first."""
    best = next(iter(complete))
    folds = {row: _by_fold(units) for row, units in complete.items()}
    axes = dict.fromkeys(axis for row in complete for axis in row.axes)
    by_axis: dict[str, str] = {}
    for axis in axes:
        means: dict[str, list[float]] = {}
        for row, units in complete.items():
            if axis in row.axes:
                means.setdefault(dict(row.values)[axis], []).append(_mean(units.values()))
        by_axis[axis] = max(sorted(means), key=lambda value: _mean(means[value]))
    return Choice(
        student=best.student,
        row=best.name,
        values=dict(best.values),
        by_fold={
            fold: max(complete, key=lambda row: folds[row].get(fold, -math.inf)).name
            for fold in folds[best]
        },
        by_axis=by_axis,
    )


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return math.fsum(found) / len(found)
