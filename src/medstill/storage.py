"""What the disk refuses, and what must not be written over: errors that name the way out."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from medstill.errors import DataError, StorageError

_FULL = (errno.ENOSPC, errno.EDQUOT)
_NOT_WRITABLE = (
    *(errno.EACCES, errno.EPERM, errno.EROFS),
    # A file stands where a folder should be, or the other way round.
    *(errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENOTEMPTY),
    # A name that the file system does not take, a share that is gone, a disk that fails.
    *(errno.ENAMETOOLONG, errno.ELOOP, errno.EFBIG, errno.EIO, errno.ENODEV, errno.ENXIO),
    *(errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN),
)


@contextlib.contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn a full or read-only disk into a `StorageError` that names the place.

    Raises:
        StorageError: No space or no quota left at `path`, or it may or can not be written.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        found = _told_by_the_system(error)
        if found is None:
            raise
        if found.errno in _FULL:
            raise StorageError(
                f"No space left while writing '{path}'. Free some space on that disk or choose "
                "another output folder; finished parts are kept and skipped on a repeat."
            ) from error
        if found.errno in _NOT_WRITABLE:
            raise StorageError(
                f"Cannot write '{path}': {found.strerror}. Choose a folder that you may write to."
            ) from error
        raise


def check_no_input(outputs: Iterable[Path], inputs: Iterable[Path]) -> None:
    """Demand that no output is an input, under whichever name.

    Raises:
        DataError: One is.
    """
    taken = {_place(path) for path in inputs}
    for output in outputs:
        if _place(output) in taken:
            raise DataError(
                f"The output '{output}' would overwrite an input. "
                "Choose another folder or name for the output."
            )


def demand_writable(path: Path, *, folder: bool = False) -> None:
    """Find out before a long work whether its file, or its folder, can be written at the end.

    Nothing is left behind, and nothing that exists is touched.

    Raises:
        StorageError: It can not.
    """
    with storage_errors(path):
        if path.is_dir() and not folder:
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        place = next(parent for parent in path.absolute().parents if parent.exists())
        with tempfile.TemporaryFile(dir=place):
            pass


def _told_by_the_system(error: BaseException) -> OSError | None:
    """The first error with a number of the system's, of an error and all that it arose from.

    PyTorch raises a RuntimeError of its own on top of it, and pydicom an OSError without a number.
    """
    found: BaseException | None = error
    seen: list[BaseException] = []
    while found is not None and found not in seen:
        if isinstance(found, OSError) and found.errno is not None:
            return found
        seen.append(found)
        found = found.__cause__ or found.__context__
    return None


def _place(path: Path) -> object:
    """What two names of one file share: a link, hard or soft, is the file that it leads to."""
    try:
        found = path.stat()
    except OSError:
        return path.resolve()
    return found.st_dev, found.st_ino
