"""What one arm of a grid changed against another: pairs of arms, and their gains."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from medstill.config import EvaluationConfig
from medstill.evaluation.arms import COMPARED, TESTED, Arm
from medstill.evaluation.comparison import compare_patients, patient_means
from medstill.evaluation.gridrecords import GridGain, Level
from medstill.evaluation.pooling import Group, Row, Table, levels, matched, pool, select
from medstill.evaluation.scores import HIGHER_IS_BETTER, Metric
from medstill.evaluation.spread import Observation, detectable_difference, variance_split
from medstill.evaluation.statistics import Comparison, holm, verdict


@dataclass(frozen=True)
class Pair:
    """Two arms to compare; units that one of them lacks are left out of both."""

    row: Row
    arm: Arm
    control: Arm
    control_row: Row
    ours: Group
    theirs: Group
    unmatched: tuple[str, ...]


def pairs_with_controls(row: Row, table: Table) -> Iterator[Pair]:
    """The pairs of `COMPARED` that a row has."""
    for arm, control in COMPARED:
        yield from _pair((row, arm), (row, control), table)


def pairs_of_rows(
    table: Table, row: Mapping[str, str], other: Mapping[str, str], arms: tuple[Arm, Arm]
) -> list[Pair]:
    """The rows of some values, each with the row that differs from it by `other`.

    Pairs of the very same networks, such as a control that both rows share, are left out.
    """
    found: list[Pair] = []
    for ours in table:
        values = dict(ours.values)
        theirs = _counterpart(ours, other, table)
        if values.items() >= row.items() and values.keys() >= other.keys() and theirs != ours:
            found += _pair((ours, arms[0]), (theirs, arms[1]), table)
    return [pair for pair in found if pair.ours != pair.theirs]


def _counterpart(ours: Row, other: Mapping[str, str], table: Table) -> Row:
    """The row of the other values and the same student.

    Where the axis itself chooses the student, both places have a single row: these are it.
    """
    same = Row.of(dict(ours.values) | dict(other), ours.student)
    here, there = ([row for row in table if row.place == p] for p in (ours.place, same.place))
    return there[0] if len(here) == len(there) == 1 else same


def _pair(ours: tuple[Row, Arm], theirs: tuple[Row, Arm], table: Table) -> Iterator[Pair]:
    groups = [table.get(row, {}).get(arm, {}) for row, arm in (ours, theirs)]
    first, second, unmatched = matched(groups[0], groups[1])
    if first:
        yield Pair(*ours, theirs[1], theirs[0], first, second, unmatched)


Family = tuple[Arm, Arm, bool, Metric, bool]


def _family(pair: Pair, metric: Metric, primary: Mapping[str, str]) -> Family:
    """Comparisons that answer one question: the same arms in the same metric.

    Those of rows that a study names as its primary ones are families of their own.
    """
    chosen = bool(primary) and primary.items() <= dict(pair.row.values).items()
    return pair.arm, pair.control, pair.row == pair.control_row, metric, chosen


def _adjusted(families: Sequence[Family], p_values: Sequence[float]) -> list[tuple[int, float]]:
    """Size of its family, and p after Holm's adjustment within it, of each comparison."""
    found: dict[int, tuple[int, float]] = {}
    for family in dict.fromkeys(families):
        places = [place for place, other in enumerate(families) if other == family]
        adjusted = holm([p_values[place] for place in places])
        found |= {place: (len(places), p) for place, p in zip(places, adjusted, strict=True)}
    return [found[place] for place in range(len(families))]


def gains_of(
    pairs: Sequence[Pair], config: EvaluationConfig, primary: Mapping[str, str] | None = None
) -> tuple[GridGain, ...]:
    """The gain of every pair in every tested metric; Holm's adjustment is within a family.

    Args:
        pairs: What to compare.
        config: Of the statistics.
        primary: Axis -> value of the rows whose comparisons are families of their own.
    """
    found: list[tuple[Pair, Metric, Comparison, tuple[str, ...]]] = []
    for pair in pairs:
        for metric in TESTED:
            values = [patient_means(pool(group), metric) for group in (pair.ours, pair.theirs)]
            if values[0].keys() & values[1].keys():
                found.append((pair, metric, *compare_patients(values[0], values[1], config)))
    adjusted = _adjusted(
        [_family(pair, metric, primary or {}) for pair, metric, *_ in found],
        [comparison.p_value for *_, comparison, _ in found],
    )
    return tuple(
        _gain(pair, metric, (comparison, unpaired), holms, config)
        for (pair, metric, comparison, unpaired), holms in zip(found, adjusted, strict=True)
    )


def _gain(
    pair: Pair,
    metric: Metric,
    compared: tuple[Comparison, tuple[str, ...]],
    holms: tuple[int, float],
    config: EvaluationConfig,
) -> GridGain:
    comparison, unpaired = compared
    family, p_holm = holms
    up = HIGHER_IS_BETTER[metric]
    pooled = _differences(pair.ours, pair.theirs, metric)
    return GridGain(
        row=pair.row.name,
        student=pair.row.student,
        arm=pair.arm,
        control=pair.control,
        control_row=pair.control_row.name,
        metric=metric,
        higher_is_better=up,
        comparison=comparison,
        p_holm=p_holm,
        family=family,
        verdict=verdict(comparison.difference, p_holm, higher_is_better=up),
        detectable=detectable_difference(list(pooled.values()), config.confidence),
        levels=tuple(_levels(pair, metric)),
        spread=variance_split(list(_observations(pair, metric))),
        unpaired=unpaired,
        unmatched=pair.unmatched,
    )


def _differences(ours: Group, theirs: Group, metric: Metric) -> dict[str, float]:
    """Patient -> difference of the patient's means over folds and seeds."""
    first, second = (patient_means(pool(group), metric) for group in (ours, theirs))
    return {patient: first[patient] - second[patient] for patient in first if patient in second}


def _levels(pair: Pair, metric: Metric) -> Iterator[Level]:
    for axis, value in levels(pair.ours):
        ours, theirs = (select(group, axis, value) for group in (pair.ours, pair.theirs))
        found = _differences(ours, theirs, metric)
        if found:
            mean = math.fsum(found.values()) / len(found)
            yield Level(axis=axis, value=value, n=len(found), difference=mean)


def _observations(pair: Pair, metric: Metric) -> Iterator[Observation]:
    for unit in sorted(pair.ours):
        ours, theirs = {unit: pair.ours[unit]}, {unit: pair.theirs[unit]}
        for patient, difference in _differences(ours, theirs, metric).items():
            yield Observation(patient, unit.fold, unit.repeat, difference)
