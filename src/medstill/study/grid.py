"""Run a study of many runs: what they share once, and one run's failure does not end the others."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medstill import pipeline
from medstill.errors import MedstillError
from medstill.lock import alone
from medstill.runs import cores
from medstill.stages import Job
from medstill.study.checking import Checked, check_points, estimate_points
from medstill.study.folder import (
    Failure,
    add_failure,
    check_folder,
    claim,
    failures_of,
    forget_failures,
    is_complete,
    note_user,
    run_folder,
    share_with,
    shared_folder,
)
from medstill.study.gridfile import Grid, load_grid
from medstill.study.points import Point, expand, select
from medstill.study.runner import LOG_FILE, SideBySide
from medstill.study.schedule import Performer
from medstill.study.sharing import Plan, plan, share_prepared, share_stages
from medstill.study.status import alive
from medstill.volumes.inspect import demand_sound
from medstill.volumes.layouts import find_dataset
from medstill.volumes.prepare import prepare as prepare_cases
from medstill.volumes.records import Dataset
from medstill.volumes.store import PreparedSet

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class GridOptions:
    """How a grid is run; nothing here decides a result."""

    workers: int | None = None
    """Processes that prepare and train side by side; None takes the base's, or one per core."""
    threads: int | None = None
    """Threads of each; None takes the base's, or shares the cores among the processes."""
    only: tuple[str, ...] = ()
    """`axis=value` texts that choose runs."""
    skip_bad: bool = False
    """Leave bad cases out and list them."""
    resume: bool = True
    """Take interrupted trainings up again at their last validation, or begin them anew."""
    shared: Path | None = None
    """Where prepared cases and networks are kept for other studies as well; None: in `out`."""


@dataclass(frozen=True)
class Outcome:
    """How a grid ended."""

    out: Path
    finished: tuple[str, ...]
    failures: dict[str, tuple[Failure, ...]]
    """Name of a run -> what went wrong in it."""


def run_grid(
    grid: Grid | Path | str,
    data: Path | str,
    out: Path | str,
    *,
    options: GridOptions | None = None,
    perform: Performer | None = None,
) -> Outcome:
    """Run every run of a grid; finished ones are skipped, failed ones tried again.

    Args:
        grid: A grid, or its file.
        data: Folder of a data set in any known layout.
        out: Folder of the grid; a new one, or one of the same grid, to which runs may be added.
        options: Which runs, and how.
        perform: Runs the jobs; None: side by side on this machine.

    Returns:
        Which runs are finished and what went wrong in the others.

    Raises:
        MedstillError: The grid, the data or the folder are wrong, or another process computes into
            the folder, so that no run can start.
    """
    data, out, options = Path(data), Path(out), options or GridOptions()
    grid = grid if isinstance(grid, Grid) else load_grid(grid)
    points = expand(grid)
    chosen = select(points, options.only)
    dataset = find_dataset(data, skip_bad=options.skip_bad)
    check_points(chosen, dataset)
    # Before anything is written: the folder may be somebody else's.
    check_folder(out, grid, points)
    source = Source(dataset, _workers(points, options), options.skip_bad)
    threads = options.threads or points[0].study.engine.threads
    on_this_machine = SideBySide(
        source.workers, threads or max(1, cores() // source.workers), out / LOG_FILE
    )
    with alone(out):
        claim(out, grid, points)
        if options.shared is not None:
            share_with(out, options.shared)
        # Commands on single runs keep the shared folder to themselves too.
        with alone(shared_folder(out)):
            note_user(out)
            todo = [point for point in chosen if not is_complete(run_folder(out, point.name))]
            ready = prepare_points(todo, source, out)
            work = plan(out, ready, data, resume=options.resume)
            if work.jobs:
                with alive(out):
                    (perform or on_this_machine)(work.jobs, Keeper(out, work))
    return outcome(out, chosen)


def check_grid(grid: Grid, data: Path, options: GridOptions) -> Checked:
    """Check the runs of a grid without computing any, and estimate what they cost.

    Raises:
        MedstillError: As `run_grid`.
    """
    points = select(expand(grid), options.only)
    check_points(points, find_dataset(data, skip_bad=options.skip_bad))
    demand_sound(data, skip_bad=options.skip_bad, workers=_workers(points, options))
    return estimate_points(points, data, _workers(points, options))


def _workers(points: Sequence[Point], options: GridOptions) -> int:
    return options.workers or points[0].study.engine.workers or cores()


@dataclass(frozen=True)
class Keeper:
    """Keeps a failure in the folder of every run that it concerns."""

    out: Path
    work: Plan

    def __call__(self, job: Job, error: BaseException, skipped: Sequence[Job]) -> None:
        """Note that a job failed, and what cannot be done without it."""
        _logger.error("'%s' failed: %s", job.name, error)
        lost = (job, *skipped)
        for name in dict.fromkeys(run for one in lost for run in self.work.users[one.name]):
            mine = tuple(one.name for one in skipped if name in self.work.users[one.name])
            _note_failure(self.out, name, job.name, error, mine)


@dataclass(frozen=True)
class Source:
    """Where the cases come from and how they are prepared."""

    dataset: Dataset
    workers: int
    skip_bad: bool


def prepare_points(points: Sequence[Point], source: Source, out: Path) -> tuple[Point, ...]:
    """Prepare the cases of runs, once for all that share them, and divide the patients.

    Returns:
        The runs that can go on; what went wrong in the others is kept in their folders.

    Raises:
        MedstillError: None of the runs can go on; what went wrong in the first.
    """
    sets: dict[Path, PreparedSet | MedstillError] = {}
    ready: list[Point] = []
    errors: list[MedstillError] = []
    for point in points:
        forget_failures(run_folder(out, point.name))
        try:
            target = share_prepared(out, point)
            if target not in sets:
                sets[target] = _prepared(point, source, target)
            prepared = sets[target]
            if isinstance(prepared, MedstillError):
                raise prepared
            pipeline.divide(point.study, source.dataset, prepared, run_folder(out, point.name))
            share_stages(out, point)
            ready.append(point)
        except MedstillError as error:
            errors.append(error)
            _note_failure(out, point.name, f"{point.name} preparation", error, ())
    if errors and not ready:
        raise errors[0]
    return tuple(ready)


def _prepared(point: Point, source: Source, target: Path) -> PreparedSet | MedstillError:
    """The prepared cases, or why there are none: no other run of the set is to try once more."""
    try:
        return prepare_cases(
            source.dataset,
            point.study.data,
            target,
            workers=source.workers,
            skip_bad=source.skip_bad,
        )
    except MedstillError as error:
        return error


def outcome(out: Path, points: Sequence[Point]) -> Outcome:
    """How runs stand."""
    places = {point.name: run_folder(out, point.name) for point in points}
    found = {name: failures_of(place) for name, place in places.items()}
    return Outcome(
        out,
        tuple(name for name, place in places.items() if is_complete(place)),
        {name: failures for name, failures in found.items() if failures},
    )


def _note_failure(
    out: Path, run: str, job: str, error: BaseException, skipped: tuple[str, ...]
) -> None:
    failure = Failure(job=job, message=str(error), skipped=skipped)
    add_failure(run_folder(out, run), failure)
