"""Only one process at a time computes into a folder; one that was killed frees it at once."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from medstill.config import EngineConfig
from medstill.errors import RunError, require
from medstill.links import PREPARED, link_file, prepared_folder
from medstill.processes import demand_guard
from medstill.runs import LOCK_FILE, read_study
from medstill.storage import storage_errors

try:
    import fcntl
except ModuleNotFoundError:  # Windows
    fcntl = None  # type: ignore[assignment]

_RANKS = ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")
"""Where those who start the processes of one training, Lightning among them, number them."""


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep a folder to this process while the block runs: two would train the same networks.

    Do not take it twice: the second time is refused, in the same process as well.

    Raises:
        RunError: Another process computes into it, or this one only reads a script again.
        MissingExtraError: filelock is not installed.
    """
    filelock = require("filelock", "train")
    demand_guard()
    lock = _taken(folder)
    try:
        if not isinstance(lock, filelock.SoftFileLock):
            _sign(folder)
        yield
    finally:
        lock.release()


@contextmanager
def in_turn(folder: Path) -> Iterator[None]:
    """Let whoever changes a folder's summary do so one after the other, each for a moment.

    It leaves no file and needs Python alone. Where a system or a file system has no locks for
    folders nobody waits, so the block must do little harm when two are in it at once.
    """
    with ExitStack() as stack:
        if fcntl is not None:
            with suppress(OSError):
                handle = os.open(folder, os.O_RDONLY)
                stack.callback(os.close, handle)  # which also ends the turn
                fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def demand_free(folder: Path) -> None:
    """Refuse at once a folder that `alone` would refuse; nothing is written.

    Raises:
        RunError: Another process computes into it.
    """
    if (folder / LOCK_FILE).is_file():
        _taken(folder).release()


def _taken(folder: Path) -> Any:
    filelock = require("filelock", "train")
    lock = filelock.FileLock(folder / LOCK_FILE)
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout as error:
            raise RunError(
                f"Expected '{folder}' to be free, but another process computes into it at "
                f"present{_holder(folder)}. Wait until that has ended, or stop it, and repeat the "
                "command."
            ) from error
    return lock


@contextmanager
def alone_in_run(run: Path) -> Iterator[None]:
    """Keep a run folder to this process, and what it shares with other runs.

    Raises:
        RunError: Another process computes into one of them.
    """
    shares = link_file(run / PREPARED).is_file()
    with alone(run), alone(prepared_folder(run).parent) if shares else nullcontext():
        yield


@contextmanager
def alone_in_training(run: Path) -> Iterator[None]:
    """As `alone_in_run`, for a training that several processes may share: the first one keeps it.

    Raises:
        RunError: There is no run, or another process computes into it.
    """
    with nullcontext() if _helps(read_study(run).engine) else alone_in_run(run):
        yield


def _helps(engine: EngineConfig) -> bool:
    """Whether this process shares a training with a first one that was started beside it."""
    several = engine.nodes > 1 or engine.devices != 1
    return several and any(os.environ.get(name, "0") != "0" for name in _RANKS)


def _sign(folder: Path) -> None:
    """Say in the lock's file who holds it, as the files of soft locks do."""
    # It is for others to read: the lock holds without it, also on a full disk.
    with suppress(OSError):
        text = f"{os.getpid()}\n{platform.node()}\n"
        (folder / LOCK_FILE).write_text(text, encoding="utf-8")


def _holder(folder: Path) -> str:
    """Number and machine of the process that holds a folder, as far as they are known."""
    try:
        number, _, rest = (folder / LOCK_FILE).read_text(encoding="utf-8").partition("\n")
    except (OSError, UnicodeDecodeError):
        return ""
    machine = rest.partition("\n")[0].partition("?")[0]
    if not number.isdigit():
        return ""
    return f" (process {number} on {machine})" if machine else f" (process {number})"
