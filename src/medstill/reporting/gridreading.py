"""The folder of a study of many runs as frozen records, read from files alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from medstill.config import Study
from medstill.errors import RunError
from medstill.refs import TEACHER, ModelRef, student_refs
from medstill.reporting.gridrecords import (
    Failure,
    GridManifest,
    GridRow,
    GridSummary,
    NetworkFacts,
    Times,
)
from medstill.reporting.reading import checked, validated
from medstill.reporting.records import ModelRow
from medstill.runs import MANIFEST_FILE, STAGE_FILE, is_finished, read_json, read_stage, read_study
from medstill.volumes.records import Split

GRID_FILE = "grid.json"
TABLE_FILE = "table.json"
TIMES_FILE = "times.json"
FAILURE_FILE = "failure.json"
RUNS = "runs"


@dataclass(frozen=True)
class GridStudy:
    """A study of many runs whose table is written."""

    folder: Path
    manifest: GridManifest
    summary: GridSummary
    facts: Mapping[str, NetworkFacts]
    """Name of a network -> what it costs, for networks whose folder is gone."""
    times: Times | None = None
    """What the networks take to answer, where that was measured."""

    def runs_of(self, row: GridRow) -> tuple[Path, ...]:
        """The run folders that a row of the table is made of, as far as they are there."""
        folders = [
            self.folder / RUNS / run.name
            for run in self.manifest.runs
            if row.values.items() <= dict(run.values).items()
        ]
        return tuple(folder for folder in folders if (folder / MANIFEST_FILE).exists())

    def study_of(self, row: GridRow) -> Study | None:
        """The study of the first run of a row; None when none is there."""
        runs = self.runs_of(row)
        return read_study(runs[0]) if runs else None

    def split_of(self, run: Path) -> Split:
        """Who did what in a run."""
        return checked(run / "split.json", Split)

    def trainings_of(self, row: GridRow) -> Iterator[tuple[str, Path]]:
        """Arm and folder of each finished training of a row, its teachers', as far as there."""
        for run in self.runs_of(row):
            for ref in (TEACHER, *student_refs(read_study(run))):
                folder = ref.folder(run)
                if ref.student in ("", row.student) and is_finished(folder):
                    yield ref.arm, folder

    def facts_of(self, row: GridRow, model: ModelRow) -> NetworkFacts | None:
        """What a network of a row costs; None when nothing says so."""
        found = self._kept_facts(row, model)
        milliseconds = self.times.of(row.name, model.student) if self.times else None
        if found is None or milliseconds is None:
            return found
        return found.model_copy(update={"milliseconds": milliseconds})

    def _kept_facts(self, row: GridRow, model: ModelRow) -> NetworkFacts | None:
        for run in self.runs_of(row):
            for ref in _networks(run, model):
                path = ref.folder(run) / STAGE_FILE
                found = read_stage(path.parent)["result"].get("facts") if path.exists() else None
                if found is not None:
                    return validated(path, NetworkFacts, found)
        # The table names the row too where rows differ in a network of one name.
        named = self.facts.get(f"{row.name}: {model.student}")
        return named or self.facts.get(model.student)

    @cached_property
    def failures(self) -> Mapping[str, str]:
        """Name of a run -> what went wrong in it at the last attempt."""
        found = {}
        for run in self.manifest.runs:
            path = self.folder / RUNS / run.name / FAILURE_FILE
            if path.exists():
                failures = checked(path, tuple[Failure, ...])
                found[run.name] = " ".join(f"{one.job}: {one.message}" for one in failures)
        return found


def _networks(run: Path, model: ModelRow) -> Iterator[ModelRef]:
    arm = model.arm.split("+")[0]
    for ref in (TEACHER, *student_refs(read_study(run))):
        if ref.arm == arm and (ref == TEACHER or ref.student == model.student):
            yield ref


def is_grid(folder: Path) -> bool:
    """Whether a folder is that of a study of many runs."""
    return (folder / GRID_FILE).is_file()


def read_grid(folder: Path) -> GridStudy:
    """Read the folder of a study of many runs.

    Raises:
        RunError: It is no such folder, its table is not written yet, or a file is damaged.
    """
    manifest = checked(folder / GRID_FILE, GridManifest)
    table = folder / TABLE_FILE
    if not table.exists():
        raise RunError(
            f"Expected the table of a study, but '{table}' is missing. Run 'medstill study table "
            f"{folder}' first; it takes the runs that are finished."
        )
    content = read_json(table)
    return GridStudy(
        folder=folder,
        manifest=manifest,
        summary=validated(table, GridSummary, content),
        facts=validated(table, dict[str, NetworkFacts], content.get("facts", {})),
        times=checked(times, Times) if (times := folder / TIMES_FILE).exists() else None,
    )
