"""Pooling of a grid's runs: which networks stand side by side, and which are one model together.

A unit is the place of one trained network on the pooled axes, such as fold 2 and seed 1. Two arms
are compared on the units that both have, so that a run that is missing cannot tilt a comparison.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from medstill.errors import DataError
from medstill.evaluation.arms import Arm
from medstill.evaluation.comparison import Entry
from medstill.evaluation.scores import ModelScores

SEED = "seed"


@dataclass(frozen=True, order=True)
class Unit:
    """Place of a network on the pooled axes, and the seed it was trained with."""

    places: tuple[tuple[str, str], ...]
    """`(axis, value)` of every pooled axis."""
    seed: int

    @property
    def fold(self) -> tuple[tuple[str, str], ...]:
        """The place without what only repeats a training."""
        return tuple(place for place in self.places if place[0] != SEED)

    @property
    def repeat(self) -> tuple[str, int]:
        """Which repetition of the same training it is."""
        return dict(self.places).get(SEED, ""), self.seed

    @property
    def levels(self) -> tuple[tuple[str, str], ...]:
        """Everything that a mixed view splits by: `(axis, value)`."""
        named = any(axis == SEED for axis, _ in self.places)
        return self.places if named else (*self.places, (SEED, str(self.seed)))

    def __str__(self) -> str:
        """Such as `fold 2, seed 1`."""
        return ", ".join(f"{axis} {value}" for axis, value in self.levels)


@dataclass(frozen=True)
class Row:
    """Values of the axes that are not pooled, and a student."""

    values: tuple[tuple[str, str], ...] = field(compare=False)
    """`(axis, value)`, axes in the order of the study's file."""
    student: str
    place: frozenset[tuple[str, str]]
    """The values; rows that differ in their order alone are the same."""

    @classmethod
    def of(cls, values: Mapping[str, str], student: str) -> Row:
        """The row of some values."""
        return cls(tuple(values.items()), student, frozenset(values.items()))

    @property
    def axes(self) -> tuple[str, ...]:
        """The axes that are not pooled; a run by itself has others than the grid."""
        return tuple(axis for axis, _ in self.values)

    @property
    def name(self) -> str:
        """Such as `loss-kl compact`, or the student alone."""
        place = "_".join(f"{axis}-{value}" for axis, value in self.values)
        return f"{place} {self.student}".strip()


Group = Mapping[Unit, Entry]
"""The networks of one arm of a row."""
Table = dict[Row, dict[Arm, dict[Unit, Entry]]]


def place_of(
    values: Mapping[str, str], student: str, seed: int, pooled: Sequence[str]
) -> tuple[Row, Unit]:
    """Row and unit of a network, from the values of its run."""
    free = {axis: value for axis, value in values.items() if axis not in pooled}
    places = tuple((axis, values[axis]) for axis in pooled if axis in values)
    return Row.of(free, student), Unit(places, seed)


def tabulate(entries: Iterable[tuple[Mapping[str, str], Entry]], pooled: Sequence[str]) -> Table:
    """Put every network into its row, arm and unit.

    A teacher stands in the row of every student that it could teach.

    Args:
        entries: Axis -> value of the run, and the network.
        pooled: Axes that are no part of a row.

    Raises:
        DataError: One network twice.
    """
    table: Table = {}
    teachers: list[tuple[Row, Unit, Entry]] = []
    for values, entry in entries:
        row, unit = place_of(values, entry.student, entry.seed, pooled)
        if entry.arm == "teacher":
            teachers.append((row, unit, entry))
        else:
            _put(table.setdefault(row, {}), unit, entry)
    for own, unit, entry in teachers:
        for row in [row for row in table if row.place == own.place]:
            _put(table[row], unit, entry)
    return table


def pool(group: Group) -> tuple[Entry, ...]:
    """One entry per seed: the cases of all its folds together.

    A patient whom several folds tested has the mean over them. A teacher that several seeds share
    counts once.
    """
    repeats: dict[tuple[str, int], list[Entry]] = {}
    for unit in sorted(group):
        repeats.setdefault(unit.repeat, []).append(group[unit])
    distinct = len({seed for _, seed in repeats}) == len(repeats)
    found: list[Entry] = []
    for index, ((_, seed), entries) in enumerate(sorted(repeats.items())):
        scores = _joined([entry.scores for entry in entries])
        if entries[0].arm == "teacher" and scores in [entry.scores for entry in found]:
            continue
        collapsed = sorted({name for entry in entries for name in entry.collapsed})
        changed = {
            "seed": seed if distinct else index,
            "scores": scores,
            "collapsed": tuple(collapsed),
        }
        found.append(entries[0].model_copy(update=changed))
    return tuple(found)


def matched(ours: Group, theirs: Group) -> tuple[Group, Group, tuple[str, ...]]:
    """The units that both groups have, of each; and the names of the others."""
    both = ours.keys() & theirs.keys()
    return (
        {unit: entry for unit, entry in ours.items() if unit in both},
        {unit: entry for unit, entry in theirs.items() if unit in both},
        tuple(map(str, sorted(ours.keys() ^ theirs.keys()))),
    )


def select(group: Group, axis: str, value: str) -> Group:
    """The units at one value of a pooled axis, or of one seed."""
    return {unit: entry for unit, entry in group.items() if (axis, value) in unit.levels}


def levels(group: Group) -> tuple[tuple[str, str], ...]:
    """Every `(axis, value)` of an axis on which the group has more than one value."""
    found = list(dict.fromkeys(level for unit in sorted(group) for level in unit.levels))
    axes = [axis for axis, _ in found]
    order = list(dict.fromkeys(axes))
    return tuple(
        sorted((f for f in found if axes.count(f[0]) > 1), key=lambda f: order.index(f[0]))
    )


def _put(arms: dict[Arm, dict[Unit, Entry]], unit: Unit, entry: Entry) -> None:
    group = arms.setdefault(entry.arm, {})
    if unit in group and group[unit] != entry:
        raise DataError(
            f"{entry.arm} of '{entry.student}' is there twice for {unit}. Give every trained "
            "network once, or do not pool the axis in which the two differ."
        )
    group[unit] = entry


def _joined(scores: Sequence[ModelScores]) -> ModelScores:
    cases = tuple(case for part in scores for case in part.cases)
    return scores[0].model_copy(update={"cases": cases})
