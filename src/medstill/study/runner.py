"""Who runs the jobs of a study: worker processes side by side on this machine."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing import active_children, get_context
from pathlib import Path

from medstill.config import Study
from medstill.errors import MedstillError, RunError
from medstill.runs import cores, log_to, storage_errors
from medstill.stages import Job, limit_threads

LOG_FILE = "medstill.log"
WATCH_PARENT_S = 1.0

_logger = logging.getLogger(__name__)


def perform_for(study: Study, out: Path) -> SideBySide:
    """Side by side on this machine, as the study's engine asks for.

    Without a wish there is one worker per core with one thread each.
    """
    workers = study.engine.workers or cores()
    threads = study.engine.threads or max(1, cores() // workers)
    return SideBySide(workers, threads, out / LOG_FILE)


@dataclass(frozen=True)
class SideBySide:
    """Runs jobs in spawned worker processes, each job as soon as those that it needs are done.

    Two single-threaded trainings side by side use two cores better than one with two threads.
    """

    workers: int
    threads: int
    log_file: Path

    def __call__(self, jobs: Sequence[Job]) -> None:
        """Run all jobs.

        Raises:
            MedstillError: What the first failing job raised; running ones are finished first.
            RunError: A worker process died, for example for lack of memory, or a job failed in an
                unforeseen way; its traceback is in the log file.
        """
        schedule = _Schedule(list(jobs), self.log_file)
        others = set(active_children())
        with ProcessPoolExecutor(
            max_workers=self.workers,
            mp_context=get_context("spawn"),
            initializer=_begin_worker,
            initargs=(self.threads, self.log_file, os.getpid()),
        ) as pool:
            try:
                schedule.work_through(pool)
            except BrokenProcessPool as error:
                raise RunError(
                    "A worker process died, most likely because memory ran out. Finished work is "
                    "kept: repeat the command with --set engine.workers=1."
                ) from error
            except KeyboardInterrupt:
                # Not `terminate`, which Lightning answers only after a batch or a whole validation.
                # A repeat of the command takes the trainings up again.
                pool.shutdown(wait=False, cancel_futures=True)
                for worker in set(active_children()) - others:
                    worker.kill()
                raise
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise


@dataclass
class _Schedule:
    waiting: list[Job]
    log_file: Path
    done: set[str] = field(default_factory=set)
    running: dict[Future[object], str] = field(default_factory=dict)

    def work_through(self, pool: ProcessPoolExecutor) -> None:
        while self.waiting or self.running:
            self._submit(pool)
            if not self.running:
                raise RunError(f"Nothing can start of: {[job.name for job in self.waiting]}.")
            finished, _ = wait(self.running, return_when=FIRST_COMPLETED)
            for future in finished:
                name = self.running.pop(future)
                self._note(name, future)

    def _note(self, name: str, future: Future[object]) -> None:
        try:
            future.result()
        except MedstillError as error:
            if self.running:
                _logger.error("'%s' failed: %s Running jobs are finished first.", name, error)
            raise
        self.done.add(name)

    def _submit(self, pool: ProcessPoolExecutor) -> None:
        ready = [job for job in self.waiting if self.done.issuperset(job.needs)]
        for job in ready:
            self.waiting.remove(job)
            self.running[pool.submit(_perform, job, self.log_file)] = job.name


def _perform(job: Job, log_file: Path) -> None:
    """Run a job in a worker; whatever goes wrong becomes an error that a person can act on."""
    try:
        with storage_errors(log_file.parent):
            job.function(*job.arguments)
    except MedstillError:
        raise
    except MemoryError as error:
        raise RunError(
            f"Memory ran out in '{job.name}'. Finished work is kept: repeat the command with "
            "--set engine.workers=1, or with a smaller batch."
        ) from error
    except Exception as error:
        _logger.exception("'%s' failed", job.name)
        raise RunError(
            f"'{job.name}' ended with an unexpected {type(error).__name__}: {error}. The traceback "
            f"is in '{log_file}'. Finished work is kept: correct the cause and repeat the command, "
            "or report it with that file."
        ) from error


def _begin_worker(threads: int, log_file: Path, parent: int) -> None:
    # Ctrl-C reaches every process of a terminal; the parent alone answers it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    limit_threads(threads)
    log_to(log_file)
    logging.captureWarnings(True)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    # A killed parent would leave its workers training into folders that a repeat writes as well.
    while os.getppid() == parent:
        time.sleep(WATCH_PARENT_S)
    os._exit(1)
