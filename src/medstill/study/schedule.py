"""In which order jobs run, and what a failure means for the others."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from medstill.errors import RunError
from medstill.stages import Job

Ended = tuple[Job, BaseException | None]
"""A job that is over, and why it failed."""
OnFailure = Callable[[Job, BaseException, Sequence[Job]], None]
"""Told of a job that failed, why, and of the jobs that cannot run without it."""

_logger = logging.getLogger(__name__)


class Crew(Protocol):
    """Who runs jobs."""

    def has_room(self) -> bool:
        """Whether another job can start now."""

    def start(self, job: Job) -> None:
        """Start a job."""

    def ended(self) -> Iterable[Ended]:
        """Wait until something happens; the jobs that are over, which may be none."""


class Performer(Protocol):
    """Runs jobs by their needs, such as `medstill.study.SideBySide`."""

    def __call__(self, jobs: Sequence[Job], on_failure: OnFailure | None = None) -> None:
        """Run all jobs; without `on_failure` the first failure is raised."""


def work_through(jobs: Sequence[Job], crew: Crew, on_failure: OnFailure | None = None) -> None:
    """Run jobs, each when those that it needs are done; of those that can start, the first does.

    Args:
        jobs: In order of importance.
        crew: Who runs them.
        on_failure: Told of each failure; the jobs that do not need that job go on. Without it the
            first failure is raised.

    Raises:
        RunError: Jobs need each other, or something that is no job.
    """
    waiting, running, done = list(jobs), set[str](), set[str]()
    while waiting or running:
        while crew.has_room() and (job := _first_ready(waiting, done)):
            waiting.remove(job)
            running.add(job.name)
            crew.start(job)
        if not running:
            raise RunError(f"Nothing can start of: {[job.name for job in waiting]}.")
        for job, error in crew.ended():
            running.discard(job.name)
            if error is None:
                done.add(job.name)
                continue
            if on_failure is None:
                _tell(job, error, running)
                raise error
            dropped = dependants(waiting, job)
            waiting = [other for other in waiting if other not in dropped]
            on_failure(job, error, dropped)


def dependants(jobs: Sequence[Job], failed: Job) -> tuple[Job, ...]:
    """The jobs that need `failed`, or need one that does."""
    lost = {failed.name}
    found: list[Job] = []
    while more := [job for job in jobs if job not in found and lost.intersection(job.needs)]:
        found += more
        lost.update(job.name for job in more)
    return tuple(found)


def _first_ready(waiting: Sequence[Job], done: set[str]) -> Job | None:
    return next((job for job in waiting if done.issuperset(job.needs)), None)


def _tell(job: Job, error: BaseException, running: set[str]) -> None:
    if running:
        _logger.error("'%s' failed: %s Running jobs are finished first.", job.name, error)
