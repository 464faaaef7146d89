"""The numbers of a grid's tables: many runs, pooled over folds and seeds, row by row.

A row is one combination of the axes that are not pooled, and one student. Folds test every patient
once, so that a row pooled over them speaks for all patients of the data set.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

from medstill.config import EvaluationConfig
from medstill.errors import DataError
from medstill.evaluation.arms import FILTERED, Arm
from medstill.evaluation.comparison import model_summary
from medstill.evaluation.gains import Pair, gains_of, pairs_of_rows, pairs_with_controls
from medstill.evaluation.gridrecords import GridEntry, GridGain, GridRow, GridSummary, Level
from medstill.evaluation.pooling import Group, Row, Table, Unit, pool, tabulate

__all__ = [
    "Asked",
    "GridEntry",
    "GridGain",
    "GridRow",
    "GridSummary",
    "Level",
    "compare_rows",
    "summarise_grid",
]


@dataclass(frozen=True)
class Asked:
    """What a study asks of its table."""

    against: Mapping[str, str] | None = None
    """Axis -> value of a row that every other row is compared with too, arm by arm: distilled, and
    control where it is another one."""
    primary: Mapping[str, str] | None = None
    """Axis -> value of the rows that the study is about: the others do not weaken their tests."""


COMPARED_BETWEEN_ROWS: tuple[Arm, ...] = ("distilled", "control")


def summarise_grid(
    name: str,
    axes: Mapping[str, Sequence[str]],
    pooled: Sequence[str],
    entries: Sequence[GridEntry],
    config: EvaluationConfig,
    *,
    missing: Sequence[str] = (),
    asked: Asked | None = None,
) -> GridSummary:
    """Summarise a grid, whole or in part.

    Args:
        name: Of the grid.
        axes: Axis -> values, in the order in which rows are shown.
        pooled: Axes whose runs are one row together, such as `fold`.
        entries: One per run, student, arm and seed, in any order.
        config: Confidence, resamples and seed of the statistics.
        missing: Points without scores, for the record.
        asked: Which rows are compared with one another, and which are primary.

    Returns:
        Rows and gains in the order of the axes, students by name.

    Raises:
        DataError: No entries, one network twice, different classes or tolerances, or `asked`
            names what no axis has.
        MissingExtraError: scipy is not installed.
    """
    _check_alike(entries)
    table = _sorted(tabulate(((e.values, e.entry) for e in entries), pooled), axes)
    pairs = [pair for row in table for pair in pairs_with_controls(row, table)]
    between: list[Pair] = []
    asked = asked or Asked()
    against, primary = asked.against, asked.primary
    _check_named({**(against or {}), **(primary or {})}, axes)
    if against is not None:
        for arm in COMPARED_BETWEEN_ROWS:
            between += pairs_of_rows(table, {}, against, (arm, arm))
    pairs += between
    gains = gains_of(pairs, config, primary)
    scores = entries[0].entry.scores
    return GridSummary(
        name=name,
        axes={axis: tuple(values) for axis, values in axes.items()},
        pooled=tuple(pooled),
        class_names=scores.class_names,
        nsd_tolerance_mm=scores.nsd_tolerance_mm,
        confidence=config.confidence,
        resamples=config.resamples,
        rows=tuple(_row(row, arms, config) for row, arms in table.items()),
        gains=gains,
        comparisons=len(gains),
        primary=None if primary is None else dict(primary),
        missing=tuple(missing),
        notes=(*_notes(table), *(_not_yet(against) if against and not between else ())),
    )


def compare_rows(
    entries: Sequence[GridEntry],
    pooled: Sequence[str],
    row: Mapping[str, str],
    other: Mapping[str, str],
    config: EvaluationConfig,
    *,
    arms: tuple[Arm, Arm] = ("distilled", "distilled"),
) -> tuple[GridGain, ...]:
    """Compare rows of a grid with others, such as one recipe with another.

    Args:
        entries: As for `summarise_grid`.
        pooled: As there.
        row: Axis -> value of the rows to compare; axes that it does not name are all compared.
        other: Axis -> value in which the rows that they are compared with differ from them.
        config: Of the statistics.
        arms: The arm of `row` and that of `other`.

    Returns:
        Differences `row` minus `other` for every student; Holm's adjustment is over them
        alone, in each metric.

    Raises:
        DataError: There is no such pair of rows.
    """
    _check_alike(entries)
    table = tabulate(((e.values, e.entry) for e in entries), pooled)
    pairs = pairs_of_rows(table, row, other, arms)
    if not pairs:
        raise DataError(
            f"No row of {dict(row) or 'the grid'} has a counterpart with {dict(other)} whose "
            f"{arms[1]} networks are others, scored in the same folds. The rows are "
            f"{', '.join(found.name for found in table)}. Name axes and values of these."
        )
    return gains_of(pairs, config)


def _row(row: Row, arms: Mapping[Arm, Group], config: EvaluationConfig) -> GridRow:
    order = [arm for arm in get_args(Arm) if arm in arms]
    return GridRow(
        name=row.name,
        values=dict(row.values),
        student=row.student,
        models=tuple(model_summary(pool(arms[arm]), config) for arm in order),
        collapsed=tuple(
            f"{arm}, {unit}: {', '.join(entry.collapsed)}"
            for arm in order
            for unit, entry in sorted(arms[arm].items())
            # A filtered arm has the networks of its arm, which are named already.
            if entry.collapsed and arm not in FILTERED.values()
        ),
    )


def _sorted(table: Table, axes: Mapping[str, Sequence[str]]) -> Table:
    def place(row: Row) -> tuple[object, ...]:
        values = dict(row.values)
        known = [(axis, list(axes[axis])) for axis in axes if axis in values]
        ranks = [order.index(values[a]) if values[a] in order else len(order) for a, order in known]
        return ranks, sorted(row.values), row.student

    return {row: table[row] for row in sorted(table, key=place)}


def _notes(table: Table) -> Iterator[str]:
    """What differs between rows or patients, so that no row changes in silence."""
    groups = [
        (row, arm, group)
        for row, arms in table.items()
        for arm, group in arms.items()
        if arm != "teacher"
    ]
    everywhere: dict[tuple[str, ...], set[Unit]] = {}
    for row, _, group in groups:
        everywhere.setdefault(row.axes, set()).update(group)
    for row, arms in table.items():
        lacking: dict[str, list[str]] = {}
        for arm in (arm for arm in arms if arm != "teacher"):
            places = _places(everywhere[row.axes] - arms[arm].keys(), everywhere[row.axes])
            lacking.setdefault("; ".join(places), []).append(arm)
        for where, named in lacking.items():
            if where:
                which = f", {', '.join(named)}" if len(lacking) > 1 else ""
                yield f"{row.name}{which}: not scored for {where}."
    # A run by itself has no fold, which is no further fold of the grid's rows.
    folds: dict[tuple[tuple[str, ...], str], set[object]] = {}
    for row, _, group in groups:
        for unit, entry in group.items():
            for patient in entry.scores.patients:
                folds.setdefault((row.axes, patient), set()).add(unit.fold)
    several = sorted({patient for (_, patient), found in folds.items() if len(found) > 1})
    if several:
        more = ", ..." if len(several) > 5 else ""
        yield (
            f"Patients tested in more than one fold have the mean over these as their value: "
            f"{', '.join(several[:5])}{more} ({len(several)})."
        )


def _places(lacking: set[Unit], everywhere: set[Unit]) -> list[str]:
    """Units by name; a level that is lacking altogether is named in place of its units."""
    found: list[str] = []
    for axis, value in sorted({level for unit in lacking for level in unit.levels}):
        of_level = {unit for unit in everywhere if (axis, value) in unit.levels}
        if of_level <= lacking and of_level != everywhere:
            found.append(f"{axis} {value}")
            lacking = lacking - of_level
    return found + [str(unit) for unit in sorted(lacking)]


def _not_yet(against: Mapping[str, str]) -> tuple[str]:
    named = ", ".join(f"{axis} {value}" for axis, value in against.items())
    return (f"No row can be compared with that of {named}: one of the two is not scored yet.",)


def _check_named(named: Mapping[str, str], axes: Mapping[str, Sequence[str]]) -> None:
    for axis, value in named.items():
        if value not in axes.get(axis, ()):
            raise DataError(
                f"There are no rows of {axis} '{value}' to compare: expected one of "
                f"{ {name: list(values) for name, values in axes.items()} }."
            )


def _check_alike(entries: Sequence[GridEntry]) -> None:
    if not entries:
        raise DataError("There is no network to summarise. Score at least one point of the grid.")
    first = entries[0]
    for other in entries:
        for what in ("class_names", "nsd_tolerance_mm"):
            values = [getattr(e.entry.scores, what) for e in (first, other)]
            if values[0] != values[1]:
                raise DataError(
                    f"'{first.point}' and '{other.point}' are scored with different "
                    f"{what.replace('_', ' ')}: {values[0]} and {values[1]}. A table needs the "
                    "same for all: make two grids of them."
                )
