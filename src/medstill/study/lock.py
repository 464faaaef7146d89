"""Only one process at a time computes into a folder; one that was killed frees it at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from medstill.errors import RunError, require
from medstill.storage import storage_errors

LOCK_FILE = "lock"
"""It stays; the operating system knows whether a process holds it."""


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep a folder to this process while the block runs: two would train the same networks.

    Raises:
        RunError: Another process computes into it.
        MissingExtraError: filelock is not installed.
    """
    filelock = require("filelock", "train")
    lock = filelock.FileLock(folder / LOCK_FILE)
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout as error:
            raise RunError(
                f"Expected '{folder}' to be free, but another process computes into it at "
                "present. Wait until that has ended, or stop it, and repeat the command."
            ) from error
    try:
        yield
    finally:
        lock.release()
