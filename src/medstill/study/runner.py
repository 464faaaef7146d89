"""Who runs the jobs of a study: worker processes side by side on this machine."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import active_children
from pathlib import Path

from medstill.config import Study
from medstill.errors import MedstillError, RunError
from medstill.processes import worker_pool
from medstill.refs import most_at_once
from medstill.runs import LOG_FORMAT, cores, is_log_shown, log_to
from medstill.stages import Job, limit_threads
from medstill.storage import storage_errors
from medstill.study.schedule import Ended, OnFailure, work_through

LOG_FILE = "medstill.log"
WATCH_PARENT_S = 1.0

_logger = logging.getLogger(__name__)


def perform_for(study: Study, out: Path) -> SideBySide:
    """Side by side on this machine, as the study's engine asks for.

    Without a wish there is one worker per core, and the cores are shared among the trainings that
    can run at the same time: a study of few trainings gives each of them several threads.
    """
    workers = study.engine.workers or cores()
    threads = study.engine.threads or max(1, cores() // min(workers, most_at_once(study)))
    return SideBySide(workers, threads, out / LOG_FILE)


@dataclass(frozen=True)
class SideBySide:
    """Runs jobs in spawned worker processes, each job as soon as those that it needs are done.

    Two single-threaded trainings side by side use two cores better than one with two threads.
    """

    workers: int
    threads: int
    log_file: Path

    def __call__(self, jobs: Sequence[Job], on_failure: OnFailure | None = None) -> None:
        """Run all jobs.

        Args:
            jobs: In order of importance: of those that can start, the first one does.
            on_failure: Told of each job that fails, with the jobs that cannot run without it; the
                others go on. Without it the first failure ends everything.

        Raises:
            MedstillError: What the first failing job raised; running ones are finished first.
            RunError: A worker process died, for example for lack of memory, or a job failed in an
                unforeseen way; its traceback is in the log file.
        """
        others = set(active_children())
        crew = _Processes(self)
        try:
            work_through(jobs, crew, on_failure)
        except KeyboardInterrupt:
            # Not `terminate`, which Lightning answers only after a batch or a whole validation.
            # A repeat of the command takes the trainings up again.
            crew.pool.shutdown(wait=False, cancel_futures=True)
            for worker in set(active_children()) - others:
                worker.kill()
            raise
        finally:
            crew.pool.shutdown(cancel_futures=True)


class _Processes:
    """Worker processes of this machine.

    When one of them dies, nobody can say whose it was of the jobs that ran: each is tried again
    alone, with all the memory for itself, and fails when its worker dies again.
    """

    def __init__(self, settings: SideBySide) -> None:
        self.settings = settings
        self.running: dict[Future[object], Job] = {}
        self.suspects: list[Job] = []
        self.alone = False
        self.pool = self._new_pool()

    def has_room(self) -> bool:
        return not self.alone and len(self.running) < self.settings.workers

    def start(self, job: Job) -> None:
        self.running[self.pool.submit(perform_job, job, self.settings.log_file)] = job

    def ended(self) -> list[Ended]:
        finished, _ = wait(self.running, return_when=FIRST_COMPLETED)
        if any(isinstance(future.exception(), BrokenProcessPool) for future in finished):
            # A broken pool breaks all its jobs, in whichever order.
            finished, _ = wait(self.running)
        found = [(self.running.pop(future), future.exception()) for future in finished]
        dead = [job for job, error in found if isinstance(error, BrokenProcessPool)]
        over = [(job, error) for job, error in found if job not in dead]
        if dead:
            self.pool.shutdown()
            self.pool = self._new_pool()
        if len(dead) == 1 and len(found) == 1:
            over.append((dead[0], _death(dead[0])))
        else:
            self.suspects += dead
        self.alone = bool(self.suspects)
        if self.alone and not self.running:
            self.start(self.suspects.pop(0))
        return over

    def _new_pool(self) -> ProcessPoolExecutor:
        settings = self.settings
        begin = partial(
            _begin_worker, settings.threads, settings.log_file, is_log_shown(), os.getpid()
        )
        return worker_pool(settings.workers, begin)


def _death(job: Job) -> RunError:
    return RunError(
        f"A worker process died in '{job.name}', most likely because memory ran out. Finished "
        "work is kept: repeat the command with --set engine.workers=1."
    )


def perform_job(job: Job, log_file: Path) -> None:
    """Run a job in a worker; whatever goes wrong becomes an error that a person can act on."""
    try:
        with storage_errors(log_file.parent), _naming(job.run):
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


@contextmanager
def _naming(run: str) -> Iterator[None]:
    """Put the name of a run before all that is logged meanwhile."""

    def name(record: logging.LogRecord) -> bool:
        if run and not hasattr(record, "run"):
            # A record passes once a handler.
            record.run = run
            record.msg = f"{run} {record.msg}"
        return True

    handlers = list(logging.getLogger("medstill").handlers)
    for handler in handlers:
        handler.addFilter(name)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(name)


def _begin_worker(threads: int, log_file: Path, shown: bool, parent: int) -> None:
    # Ctrl-C reaches every process of a terminal; the parent alone answers it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    limit_threads(threads)
    log_to(log_file)
    if shown:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter(LOG_FORMAT))
        logging.getLogger("medstill").addHandler(handler)
    logging.captureWarnings(True)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    # A killed parent would leave its workers training into folders that a repeat writes as well.
    while os.getppid() == parent:
        time.sleep(WATCH_PARENT_S)
    os._exit(1)
