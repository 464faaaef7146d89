"""The runs of a grid: each a study of its own, with a name that says where it lies on the axes."""

from __future__ import annotations

import copy
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from medstill.config import NOT_DECIDING, Study, content_hash
from medstill.errors import ConfigError, unknown_name
from medstill.study.gridfile import RUN_AXIS, Changes, Grid
from medstill.studyfile import problems_error, problems_of, set_value


@dataclass(frozen=True)
class Point:
    """One run of a grid. `values`: axis -> name of its value."""

    name: str
    values: dict[str, str]
    study: Study


@dataclass(frozen=True)
class _Draft:
    name: str
    values: dict[str, str]
    changes: tuple[Changes, ...]


def expand(grid: Grid) -> tuple[Point, ...]:
    """Every run of a grid: the last axis varies fastest, the runs by themselves come last.

    Raises:
        ConfigError: A change gives no valid study, or two runs have one name or are the same
            study; all are named.
    """
    points: list[Point] = []
    problems: dict[str, list[str]] = {}
    drafts = tuple(_drafts(grid))
    for draft in drafts:
        found = _study(grid, draft)
        if isinstance(found, Study):
            points.append(Point(draft.name, draft.values, found))
        else:
            for problem in found:
                problems.setdefault(problem, []).append(draft.name)
    lines = [f"{_runs(names)}: {problem}" for problem, names in problems.items()]
    lines += _twice(drafts)
    lines += _same(points)
    if lines:
        raise problems_error(lines, f"the runs of '{grid.name}'")
    return tuple(points)


def axes_of(points: Iterable[Point]) -> dict[str, tuple[str, ...]]:
    """Axis -> names of its values, in the order in which runs have them."""
    axes: dict[str, dict[str, None]] = {}
    for point in points:
        for axis, value in point.values.items():
            axes.setdefault(axis, {})[value] = None
    return {axis: tuple(values) for axis, values in axes.items()}


def select(points: Sequence[Point], only: Sequence[str]) -> tuple[Point, ...]:
    """The runs that `axis=value` texts choose: any value named of an axis, of every axis named.

    Raises:
        ConfigError: No such axis or value, or no run is left.
    """
    axes = axes_of(points)
    wanted: dict[str, set[str]] = {}
    for text in only:
        axis, sign, value = text.partition("=")
        if not sign:
            raise ConfigError(f"--only expects AXIS=VALUE such as fold=0, but got '{text}'.")
        if axis not in axes:
            raise unknown_name("axis of this study", axis, axes)
        if value not in axes[axis]:
            raise unknown_name(f"value of the axis '{axis}'", value, axes[axis])
        wanted.setdefault(axis, set()).add(value)
    chosen = tuple(
        point
        for point in points
        if all(point.values.get(axis) in values for axis, values in wanted.items())
    )
    if not chosen:
        raise ConfigError(f"No run has {', '.join(only)} together. Ask for fewer of them.")
    return chosen


def _drafts(grid: Grid) -> Iterator[_Draft]:
    axes = {name: axis.changes() for name, axis in grid.axes.items()}
    if axes:
        for names in itertools.product(*axes.values()):
            values = dict(zip(axes, names, strict=True))
            changes = tuple(axes[axis][value] for axis, value in values.items())
            yield _Draft("_".join(f"{a}-{v}" for a, v in values.items()), values, changes)
    for run in grid.runs:
        yield _Draft(run.name, {RUN_AXIS: run.name}, (run.set,))


def _study(grid: Grid, draft: _Draft) -> Study | list[str]:
    """The study of a run, or what is wrong with it."""
    safe = draft.name.replace("_", "-").replace(".", "-")
    content = copy.deepcopy({**grid.base, "name": f"{grid.name}-{safe}"})
    try:
        for key, value in (pair for changes in draft.changes for pair in changes.items()):
            set_value(content, key, copy.deepcopy(value), source=key)
        return Study.model_validate(content)
    except ConfigError as error:
        return [str(error)]
    except ValidationError as error:
        return problems_of(error, Study)


def _runs(names: Sequence[str]) -> str:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{names[0]}{more}"


def _twice(drafts: Sequence[_Draft]) -> Iterator[str]:
    for name, number in Counter(draft.name for draft in drafts).items():
        if number > 1:
            yield (
                f"'{name}' is the name of {number} runs, which would have one folder: give each a "
                "name of its own, in 'runs' or by other names of axes and values"
            )


def _same(points: Sequence[Point]) -> Iterator[str]:
    first: dict[str, Point] = {}
    told: set[tuple[str, ...]] = set()
    for point in points:
        other = first.setdefault(_deciding(point.study), point)
        axes = tuple(a for a in point.values if point.values[a] != other.values.get(a))
        if other is point or axes in told:
            continue
        told.add(axes)
        yield (
            f"'{other.name}' and '{point.name}' are the same study: {' and '.join(axes)} changes "
            "nothing between them. It may set what no result depends on (engine, description, "
            "split.fold without split.kind 'folds'), or what another axis sets too"
        )


def _deciding(study: Study) -> str:
    """Hash of what two runs must differ in."""
    content = study.model_dump(mode="json", exclude={**NOT_DECIDING, "name": True})
    idle = ("folds", "fold") if study.split.kind == "fractions" else ("train", "test")
    for key in idle:
        del content["split"][key]
    return content_hash(content)
