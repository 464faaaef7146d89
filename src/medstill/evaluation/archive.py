"""Finished runs of a grid as small files to keep: scores, validations, costs; nothing else.

One file per run, so that runs of many days can be committed as they finish. Statistics are made
from these files alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator

from medstill.config import EvaluationConfig, Record, content_hash
from medstill.errors import RunError
from medstill.evaluation.arms import FILTERED, Arm
from medstill.evaluation.comparison import Entry
from medstill.evaluation.gridrecords import GridEntry
from medstill.evaluation.pooling import place_of
from medstill.evaluation.scores import METRICS, CaseScore, ModelScores
from medstill.evaluation.selection import Validation
from medstill.runs import atomic, read_json

GRID_FILE = "_grid.json"
"""No run's name begins with `_`."""
FIELDS = (*METRICS, "truth_ml", "predicted_ml")
Row = tuple[Any, ...]
"""A line of `KeptScores`."""


class GridFacts(BaseModel):
    """What a folder of kept runs says of their grid; `grid.json` of a grid's folder has it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str
    description: str = ""
    hash: str
    axes: tuple[tuple[str, tuple[str, ...]], ...]
    """Axis and its values, in the order of the grid file."""
    pooled: tuple[str, ...]
    against: dict[str, str] | None = None
    """Axis -> value of the row that all rows are compared with."""
    primary: dict[str, str] | None = None
    """Axis -> value of the rows that the study is about."""
    runs: tuple[GridRun, ...]

    @model_validator(mode="before")
    @classmethod
    def _from_the_grid_file(cls, content: Any) -> Any:
        """`grid.json` has `against` and `primary` where the grid file has them."""
        grid = content.get("grid") if isinstance(content, dict) else None
        if not isinstance(grid, dict):
            return content
        return {**{key: grid.get(key) for key in ("against", "primary")}, **content}


class GridRun(BaseModel):
    """A run of the grid, finished or not."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str
    values: tuple[tuple[str, str], ...]
    """Axis and value."""


class Kept(Record):
    """One trained network of a kept run."""

    student: str
    arm: Arm
    seed: int
    validation_dice: float
    step: int
    """Of the checkpoint with that score."""
    steps: int
    """Of the training, as far as it was validated."""
    minutes: float
    """Of its steps, without validations; a network that runs share counts in each of them."""
    collapsed: tuple[str, ...]
    weights: str
    """Hash."""


class KeptScores(Record):
    """The test scores of one network, filtered or not, as rows."""

    student: str
    arm: Arm
    seed: int
    cases: tuple[Row, ...]
    """Case, patient, and for each class its state and the `FIELDS` (None where empty)."""


class KeptRun(Record):
    """A finished run."""

    point: str
    values: dict[str, str]
    commit: str
    study_hash: str
    data_hash: str
    versions: dict[str, str]
    patients: dict[str, int]
    """Part of the split -> patients."""
    evaluation: EvaluationConfig
    class_names: tuple[str, ...]
    nsd_tolerance_mm: float
    facts: dict[str, dict[str, Any]]
    """Network -> parameters, macs and the input size that these are counted at."""
    networks: tuple[Kept, ...]
    scores: tuple[KeptScores, ...]

    def entries(self) -> tuple[GridEntry, ...]:
        """The networks for `summarise_grid`."""
        died: dict[tuple[str, str, int], tuple[str, ...]] = {
            (n.student, n.arm, n.seed): n.collapsed for n in self.networks
        }
        return tuple(
            GridEntry(
                point=self.point,
                values=self.values,
                entry=Entry(
                    student=kept.student,
                    arm=kept.arm,
                    seed=kept.seed,
                    scores=self._scores(kept),
                    collapsed=died[kept.student, _trained(kept.arm), kept.seed],
                ),
            )
            for kept in self.scores
        )

    def validations(self) -> tuple[Validation, ...]:
        """The networks for `select_rows`."""
        return tuple(
            Validation(
                point=self.point,
                values=self.values,
                student=kept.student,
                arm=kept.arm,
                seed=kept.seed,
                dice=kept.validation_dice,
            )
            for kept in self.networks
        )

    def _scores(self, kept: KeptScores) -> ModelScores:
        return ModelScores(
            model=f"{kept.student} {kept.arm}",
            cases=tuple(_case(row, self.class_names) for row in kept.cases),
            nsd_tolerance_mm=self.nsd_tolerance_mm,
        )


def save_run(run: KeptRun, path: Path) -> None:
    """Write a kept run: one line per network and per scored case, all or nothing."""
    _write(run, path, depth=4)


def save_grid(grid: GridFacts, path: Path) -> None:
    """Write what is kept of a grid: one line per run, all or nothing."""
    _write(grid, path, depth=2)


def load_run(path: Path) -> KeptRun:
    """Read what `save_run` wrote.

    Raises:
        RunError: The file is missing, damaged or holds no kept run.
    """
    content = read_json(path)
    try:
        return KeptRun.model_validate(content)
    except ValueError as error:
        raise RunError(
            f"'{path}' does not hold a kept run ({error}). Delete it and collect the run again."
        ) from error


def load_runs(folder: Path) -> tuple[GridFacts, tuple[KeptRun, ...]]:
    """The grid of a folder of kept runs, and these in the grid's order.

    Raises:
        RunError: A file is missing or damaged.
    """
    grid = read_grid(folder / GRID_FILE)
    found = {path.stem: path for path in folder.glob("[!_]*.json")}
    names = [run.name for run in grid.runs if run.name in found]
    strange = sorted(found.keys() - set(names))
    if strange:
        raise RunError(
            f"'{folder}' holds runs that its grid '{grid.name}' does not have: "
            f"{', '.join(strange)}. Collect the grid again, or delete these files."
        )
    return grid, tuple(_in_order(load_run(found[name]), grid) for name in names)


def _in_order(run: KeptRun, grid: GridFacts) -> KeptRun:
    """A kept run with its axes in the grid's order: JSON keeps none."""
    axes = [axis for axis, _ in grid.axes if axis in run.values]
    return run.model_copy(update={"values": {axis: run.values[axis] for axis in axes}})


def read_grid(path: Path) -> GridFacts:
    """What `grid.json`, or the `GRID_FILE` of kept runs, says of a grid.

    Raises:
        RunError: The file is missing or damaged.
    """
    content = read_json(path)
    try:
        return GridFacts.model_validate(content)
    except ValueError as error:
        raise RunError(f"'{path}' does not describe a grid ({error}).") from error


def facts_of(runs: Iterable[KeptRun], pooled: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Network -> facts, for `table_markdown`; where rows differ in one, `ROW: NETWORK` for each."""
    found: dict[str, dict[str, Any]] = {}
    by_row: dict[str, dict[str, Any]] = {}
    for run in runs:
        students = {kept.student for kept in run.networks if kept.arm != "teacher"}
        for name, facts in run.facts.items():
            found.setdefault(name, facts)
            for student in students:
                row, _ = place_of(run.values, student, 0, pooled)
                by_row[f"{row.name}: {name}"] = facts
    unlike = {n for key, f in by_row.items() if found[n := key.rpartition(": ")[2]] != f}
    return found | {key: f for key, f in by_row.items() if key.rpartition(": ")[2] in unlike}


def runs_hash(grid: GridFacts, runs: Sequence[KeptRun]) -> str:
    """Hash of all that decides the tables of kept runs."""
    kept = [run.model_dump(mode="json") for run in runs]
    # As it was before grids could name primary rows, so that tables of then are still known.
    without = None if grid.primary else {"primary"}
    return content_hash([grid.model_dump(mode="json", exclude=without), kept])


def _write(record: BaseModel, path: Path, depth: int) -> None:
    with atomic(path) as draft:
        text = _lines(record.model_dump(mode="json"), depth)
        draft.write_text(text + "\n", encoding="utf-8")


def _case(row: Row, class_names: Sequence[str]) -> CaseScore:
    case, patient, *classes = row
    scores = [
        {"class_name": name, "state": state, **dict(zip(FIELDS, values, strict=True))}
        for name, (state, *values) in zip(class_names, classes, strict=True)
    ]
    return CaseScore.model_validate({"case": case, "patient": patient, "classes": scores})


def _trained(arm: Arm) -> str:
    """The arm whose networks it has."""
    return next((own for own, filtered in FILTERED.items() if filtered == arm), arm)


def _lines(node: Any, depth: int, indent: int = 0) -> str:
    """JSON whose outer levels stand on lines of their own, and the inner ones on one."""
    if not depth or not node or not isinstance(node, (dict, list)):
        return json.dumps(node, sort_keys=True, ensure_ascii=False)
    inner = " " * (indent + 1)
    if isinstance(node, dict):
        parts = [f"{json.dumps(k)}: {_lines(node[k], depth - 1, indent + 1)}" for k in sorted(node)]
    else:
        parts = [_lines(one, depth - 1, indent + 1) for one in node]
    body = f",\n{inner}".join(parts)
    left, right = "{}" if isinstance(node, dict) else "[]"
    return f"{left}\n{inner}{body}\n{' ' * indent}{right}"
