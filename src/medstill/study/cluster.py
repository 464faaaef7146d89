"""Run jobs on a Ray cluster: one job a task, with the CPUs and GPUs that it declares.

All machines see the same data folder and the same output folder, and have medstill installed.
"""

from __future__ import annotations

import logging
import os
import platform
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medstill.errors import RunError, require
from medstill.runs import cores, log_to
from medstill.stages import Job, limit_threads
from medstill.study.runner import perform_job
from medstill.study.schedule import Ended, OnFailure, work_through

LOCAL = "local"
ANSWER_S = 10.0
"""How long a cluster may take to answer."""
RETRIES = 3
"""How often a job is started again whose worker died; trainings go on at their checkpoint."""


@dataclass(frozen=True)
class OnRay:
    """Runs jobs as Ray tasks; `medstill.study.SideBySide` is its like for one machine."""

    address: str
    """`local` starts a cluster of this machine alone, for this study; else `host:port`."""
    log_folder: Path
    cpus: float = 1.0
    """CPUs that a job declares."""
    gpus: float = 0.0
    """GPUs that a job declares; Ray shows each job its own alone."""
    threads: int = 1
    """Threads that a job computes with."""

    def __call__(self, jobs: Sequence[Job], on_failure: OnFailure | None = None) -> None:
        """Run all jobs, as `SideBySide` does.

        Raises:
            MissingExtraError: Ray is not installed.
            RunError: There is no such cluster, or it is too small for a single job.
            MedstillError: What the first failing job raised, without `on_failure`.
        """
        # Nothing is sent anywhere unless the user asks for it.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        ray = require("ray", "cluster")
        with _connected(ray, self.address):
            crew = _Tasks(ray, self)
            if not crew.most_at_once():
                raise RunError(
                    f"A run asks for {self.cpus:g} CPUs and {self.gpus:g} GPUs, but the cluster "
                    f"has {crew.total('CPU'):g} and {crew.total('GPU'):g}. Ask for less."
                )
            work_through(jobs, crew, on_failure)


class _Tasks:
    """Tasks of a cluster; a task whose worker dies is started again by Ray itself."""

    def __init__(self, ray: Any, settings: OnRay) -> None:
        self.ray, self.settings = ray, settings
        self.running: dict[Any, Job] = {}
        self.perform = ray.remote(
            num_cpus=settings.cpus, num_gpus=settings.gpus, max_retries=RETRIES
        )(_perform_logged)

    def total(self, resource: str) -> float:
        return float(self.ray.cluster_resources().get(resource, 0.0))

    def most_at_once(self) -> int:
        asked = {"CPU": self.settings.cpus, "GPU": self.settings.gpus}
        return min(int(self.total(name) / share) for name, share in asked.items() if share)

    def has_room(self) -> bool:
        return len(self.running) < self.most_at_once()

    def start(self, job: Job) -> None:
        settings = self.settings
        task = self.perform.options(name=job.name)
        self.running[task.remote(job, settings.log_folder, settings.threads)] = job

    def ended(self) -> list[Ended]:
        finished, _ = self.ray.wait(list(self.running))
        found = [(task, self.running.pop(task)) for task in finished]
        return [(job, self._error(task, job)) for task, job in found]

    def _error(self, task: Any, job: Job) -> BaseException | None:
        try:
            self.ray.get(task)
        except self.ray.exceptions.RayTaskError as error:
            return error.cause if isinstance(error.cause, BaseException) else error
        except self.ray.exceptions.RayError as error:
            return RunError(
                f"The worker of '{job.name}' died {RETRIES + 1} times ({type(error).__name__}), "
                "most likely because memory ran out. Finished work is kept: repeat the command "
                "with more --cpus-per-run, so that fewer runs share a machine."
            )
        return None


@contextmanager
def _connected(ray: Any, address: str) -> Iterator[None]:
    local = {"num_cpus": cores(), "include_dashboard": False} if address == LOCAL else {}
    try:
        _knock(address)
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **local)
    except (OSError, ValueError, RuntimeError) as error:
        raise RunError(
            f"No Ray cluster answers at '{address}': {error} Start one with 'ray start --head', "
            "or give --ray local."
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Find out whether anybody listens: Ray ends the whole process when nobody does."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdigit() and "//" not in host:
        with socket.create_connection((host, int(port)), timeout=ANSWER_S):
            pass


def _perform_logged(job: Job, log_folder: Path, threads: int) -> None:
    """Run a job in a Ray worker; every machine writes a log of its own."""
    limit_threads(threads)
    log_file = log_folder / f"medstill-{platform.node()}.log"
    handler = log_to(log_file)
    try:
        perform_job(job, log_file)
    finally:
        logging.getLogger("medstill").removeHandler(handler)
        handler.close()
