"""Grid files: a base study and axes of changes to it; every mistake is named at once.

name: losses
base: {...}                                    # a study without name, or a file beside this one
axes:                                          # or the name of a grid file whose axes are taken
  fold: {key: split.fold, values: [0, 1, 2]}
  loss:
    points:
      none: {distillation.maps: []}
      kl: {distillation.maps: [{loss: kl, weight: 0.2}]}
runs:                                          # further runs, or instead of axes
  - {name: all-labels, set: {label_fraction: 1.0}}
pool: [fold]
against: {loss: none}                          # every row is compared with this one as well
primary: {loss: kl}                            # the rows that the study is about
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, ValidationError, model_validator

from medstill.config import NAME as STUDY_NAME
from medstill.config import Record, Study
from medstill.errors import ConfigError, unknown_name
from medstill.studyfile import override, problems_error, problems_of, read_yaml

NAME = r"^[a-z0-9][a-z0-9.-]*$"
RUN_AXIS = "run"
"""The axis on which the runs by themselves lie."""
POOLED = ("fold", "seed")
"""Axes of these names are pooled unless the file says otherwise."""

Name = Annotated[str, Field(pattern=NAME)]
Changes = dict[str, Any]
"""Dotted key of a study -> its value."""


class Axis(Record):
    """One axis of a grid: the values of one key, or named points that may set several keys."""

    key: str | None = None
    """A dotted key of the base, such as `split.fold` or `students.0.width`; with `values`."""
    values: tuple[Any, ...] = ()
    """What the key is set to; each makes a name, so they are numbers, short texts or lists."""
    points: dict[Name, Changes] = Field(default_factory=dict)
    """Name -> dotted keys and their values, instead of `key` and `values`."""

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        if bool(self.points) == bool(self.key) or bool(self.key) != bool(self.values):
            raise ValueError("an axis has either 'key' and 'values', or 'points'")
        names = [name_of(value) for value in self.values]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"values has twice: {', '.join(twice)}")
        return self

    def changes(self) -> dict[str, Changes]:
        """Name of each of the axis's points -> what it sets, in the order of the file."""
        if self.key is None:
            return self.points
        return {name_of(value): {self.key: value} for value in self.values}


class NamedRun(Record):
    """A run by itself."""

    name: Name
    """Of its folder and in the tables."""
    set: Changes = Field(default_factory=dict)
    """Dotted key -> value."""


class Grid(Record):
    """A base and the changes that make its runs; `expand` gives the runs."""

    name: str = Field(pattern=STUDY_NAME)
    """Small letters, digits and hyphens."""
    description: str = ""
    """Free text."""
    base: dict[str, Any]
    """A study without a name, or in a file the name of a study file beside it."""
    axes: dict[Name, Axis] = Field(default_factory=dict)
    """Every combination of their points is one run; in a file also the name of a file beside it
    that asks the same of another base, whose axes are taken."""
    runs: tuple[NamedRun, ...] = ()
    """Further runs, each by itself."""
    pool: tuple[str, ...] | None = None
    """Axes whose runs are one row of the tables; without it `fold` and `seed`."""
    against: dict[Name, str] | None = None
    """Axis -> name of the value of a row that all rows are compared with, beside their controls."""
    primary: dict[Name, str] | None = None
    """Axis -> name of the value of the rows that the study is about: tests of the other rows do not
    weaken theirs. Name them before there are test scores."""

    @model_validator(mode="after")
    def _holds_together(self) -> Self:
        if not self.axes and not self.runs:
            raise ValueError("a grid needs 'axes' or 'runs', else it is a single study")
        names = [run.name for run in self.runs]
        if len(set(names)) != len(names):
            raise ValueError(f"runs has a name twice: {names}")
        for name in self.pool or ():
            if name not in self.axes:
                raise ValueError(f"pool: {unknown_name('axis', name, self.axes)}")
        self._check_rows("against", self.against or {})
        self._check_rows("primary", self.primary or {})
        return self

    def _check_rows(self, key: str, named: Mapping[str, str]) -> None:
        """Demand that the rows exist which a key names."""
        values = {name: tuple(axis.changes()) for name, axis in self.axes.items()}
        rows = {name: found for name, found in values.items() if name not in self.pooled}
        if self.runs and not self.axes:
            rows[RUN_AXIS] = tuple(run.name for run in self.runs)
        for axis, value in named.items():
            if axis not in rows:
                raise ValueError(f"{key}: {unknown_name('axis of the rows', axis, rows)}")
            if value not in rows[axis]:
                raise ValueError(f"{key}: {unknown_name('value of it', value, rows[axis])}")

    @property
    def pooled(self) -> tuple[str, ...]:
        """Axes whose runs are one row of the tables."""
        if self.pool is not None:
            return self.pool
        return tuple(name for name in self.axes if name in POOLED)


def load_grid(path: Path | str, overrides: Sequence[str] = ()) -> Grid:
    """Read a grid file; `a.b=c` overrides reach its base.

    Args:
        path: A YAML file with `base`, and `axes` or `runs`.
        overrides: Texts such as `training.steps=200`.

    Raises:
        ConfigError: Keys or values are wrong, of the grid or of its base; all are named.
    """
    path = Path(path)
    content = read_yaml(path)
    if "base" not in content:
        raise ConfigError(
            f"'{path}' has no 'base', so it is a single study: run it with 'medstill run', or "
            "write a file with the keys name, base and axes."
        )
    base = _read_base(content["base"], path)
    for text in overrides:
        override(base, text)
    content = {**content, "base": base, "axes": _read_axes(content.get("axes", {}), path)}
    grid = parse_grid(content, source=str(path))
    _refuse_idle(overrides, grid)
    return grid


def parse_grid(content: Mapping[str, Any], *, source: str = "the grid") -> Grid:
    """Validate plain data as a grid, with its base.

    Raises:
        ConfigError: Lists every wrong key and value at once.
    """
    problems: list[str] = []
    base = content.get("base", {})
    try:
        grid = Grid.model_validate(content)
    except ValidationError as error:
        problems += problems_of(error, Grid)
    if isinstance(base, Mapping):
        try:
            Study.model_validate({**base, "name": "base"})
        except ValidationError as error:
            problems += [f"base.{problem}" for problem in problems_of(error, Study)]
    if problems:
        raise problems_error(problems, source)
    return grid


def name_of(value: Any) -> str:
    """The name of an axis's value: a number or a short text as it is, the entries of a list joined.

    Raises:
        ValueError: The value makes no name that can be a folder's.
    """
    if isinstance(value, (list, tuple)) and value:
        return "-".join(name_of(one) for one in value)
    text = "none" if value is None else str(value).lower()
    if isinstance(value, Mapping) or not re.match(NAME, text):
        raise ValueError(
            f"the value {value!r} makes no name of letters, digits, '.' and '-'; name it: "
            "'points: {some-name: {the.key: value}}' instead of 'key' and 'values'"
        )
    return text


def _read_base(base: Any, path: Path) -> dict[str, Any]:
    if isinstance(base, str):
        return {k: v for k, v in read_yaml(path.parent / base).items() if k != "name"}
    if not isinstance(base, dict):
        raise ConfigError(
            f"base in '{path}' must hold the keys of a study or name a study file, but is {base!r}."
        )
    if "name" in base:
        raise ConfigError(
            f"base in '{path}' has a name, but the grid names its runs. Take 'name' out of 'base'."
        )
    return base


def _read_axes(axes: Any, path: Path) -> Any:
    """The axes of a grid file, which may be those of another one."""
    if not isinstance(axes, str):
        return axes
    found = read_yaml(path.parent / axes).get("axes")
    if not isinstance(found, dict):
        raise ConfigError(
            f"axes in '{path}' names '{axes}', which holds no axes of its own. Name the grid file "
            "in which they are written, or write them here."
        )
    return found


def _refuse_idle(overrides: Iterable[str], grid: Grid) -> None:
    """An override that every run of an axis sets once more would change nothing."""
    for text in overrides:
        key = text.partition("=")[0]
        for name, axis in grid.axes.items():
            if all(_reaches(changes, key) for changes in axis.changes().values()):
                raise ConfigError(
                    f"--set {text}: the axis '{name}' sets '{key}' in every run. Change the axis, "
                    f"or choose runs with --only {name}=VALUE."
                )


def _reaches(changes: Changes, key: str) -> bool:
    return any(key == changed or key.startswith(f"{changed}.") for changed in changes)
