"""How the rows of a study of many runs are called, and its main table: each network once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from medstill.reporting.gridreading import GridStudy
from medstill.reporting.gridrecords import GridRow, GridSummary, NetworkFacts
from medstill.reporting.records import ModelRow


@dataclass(frozen=True)
class Placed:
    """A network with what it costs."""

    row: ModelRow
    facts: NetworkFacts | None

    def same_line(self, other: Placed) -> bool:
        """Whether both say the same in the table; not every source knows all facts."""
        return (self.row, self._costs) == (other.row, other._costs)

    @property
    def _costs(self) -> tuple[float | None, ...]:
        facts = self.facts
        return (facts.parameters, facts.macs, facts.milliseconds) if facts else ()

    @property
    def kind(self) -> str:
        """Its arm, without what was done to the masks."""
        return self.row.arm.split("+")[0]

    @property
    def missed(self) -> int:
        """Structures of which it found nothing, over all its networks."""
        return self.row.counts.get("missed", 0)

    @property
    def invented(self) -> int:
        """Structures that it found where there are none."""
        return self.row.counts.get("invented", 0)

    @property
    def true(self) -> int:
        """Structures that are there."""
        return self.row.counts.get("scored", 0) + self.missed


@dataclass(frozen=True)
class NetworkGroup:
    """The networks that stand in the same rows: in one, or in all that share them."""

    title: str
    models: tuple[Placed, ...]


def title_of(row: GridRow, leave_out: str = "") -> str:
    """A row as a reader sees it; the student is named once.

    >>> title_of(GridRow(name="", values={"loss": "kl"}, student="compact", models=()))
    'loss kl · compact'
    >>> title_of(GridRow(name="", values={"student": "compact"}, student="compact", models=()))
    'student compact'
    """
    parts = [f"{axis} {value}" for axis, value in row.values.items() if axis != leave_out]
    if not parts or row.student not in row.values.values():
        parts.append(row.student)
    return " · ".join(parts)


def titles(summary: GridSummary) -> dict[str, str]:
    """Name of a row -> its title."""
    return {row.name: title_of(row) for row in summary.rows}


def free_axes(summary: GridSummary) -> tuple[str, ...]:
    """The axes that are not pooled and have more than one value among the rows."""
    axes = dict.fromkeys(axis for row in summary.rows for axis in row.values)
    return tuple(a for a in axes if len({row.values.get(a) for row in summary.rows} - {None}) > 1)


def networks(study: GridStudy) -> tuple[NetworkGroup, ...]:
    """The main table: a teacher or a control that several rows share stands in it once."""
    found: list[tuple[Placed, list[GridRow]]] = []
    for row in study.summary.rows:
        for model in row.models:
            placed = Placed(model, study.facts_of(row, model))
            known = next((rows for other, rows in found if other.same_line(placed)), None)
            if known is None:
                found.append((placed, [row]))
            else:
                known.append(row)
    groups: dict[tuple[str, ...], tuple[list[GridRow], list[Placed]]] = {}
    for placed, rows in found:
        key = tuple(row.name for row in rows)
        groups.setdefault(key, (rows, []))[1].append(placed)
    return tuple(
        NetworkGroup(_shared_title(study.summary, rows), tuple(models))
        for rows, models in groups.values()
    )


def _shared_title(summary: GridSummary, rows: Sequence[GridRow]) -> str:
    """What rows have in common, and over which values they differ."""
    if len(rows) == 1:
        return title_of(rows[0])
    parts = []
    for axis in dict.fromkeys(axis for row in rows for axis in row.values):
        own = _values(rows, axis)
        every = len(own) > 1 and set(own) == set(_values(summary.rows, axis))
        parts.append(f"{axis} (all)" if every else f"{axis} {', '.join(own)}")
    students = dict.fromkeys(row.student for row in rows)
    if not set(students) <= {value for row in rows for value in row.values.values()}:
        parts.append(", ".join(students))
    return " · ".join(parts)


def _values(rows: Sequence[GridRow], axis: str) -> list[str]:
    return list(dict.fromkeys(row.values[axis] for row in rows if axis in row.values))
