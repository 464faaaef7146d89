"""Files that survive a crash: written beside their place, brought to the disk, then renamed."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Final

FULL: Final = (errno.ENOSPC, errno.EDQUOT)
NAME_LENGTH: Final = 32


def name_of(uid: str) -> str:
    """A name for what has this UID that does not tell it: 32 hexadecimal digits."""
    return hashlib.sha256(uid.encode()).hexdigest()[:NAME_LENGTH]


def free_bytes(folder: Path) -> int:
    """Free space of the disk that holds a folder."""
    return shutil.disk_usage(folder).free


def is_full(error: BaseException | None) -> bool:
    """Whether an error, or one that led to it, says that the disk is full."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in FULL:
            return True
        error = error.__cause__ or error.__context__
    return False


def sync(path: Path) -> None:
    """Bring a file, or the entries of a folder, to the disk."""
    if os.name == "nt" and path.is_dir():  # Windows has no such call for folders
        return
    handle = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write(path: Path, parts: Iterable[bytes | memoryview]) -> None:
    """Write a file and bring it to the disk; one that could not be written whole is removed."""
    try:
        with path.open("wb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        path.unlink(missing_ok=True)
        raise


def note(path: Path, text: str = "") -> None:
    """Write a small text at once or not at all."""
    draft = path.with_name(f".{path.name}.draft")
    write(draft, [text.encode("utf-8", "backslashreplace")])
    draft.replace(path)
    sync(path.parent)


def move(source: Path, target: Path) -> None:
    """Rename a folder, and bring both places to the disk."""
    source.rename(target)
    sync(target.parent)
    sync(source.parent)


def entries(folder: Path) -> list[Path]:
    """What lies in a folder, sorted; nothing when it is not there."""
    try:
        return sorted(folder.iterdir())
    except FileNotFoundError:
        return []
