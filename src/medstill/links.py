"""Folders of a run that several runs share: a small text file stands in the run for each.

`teacher.link` in a run folder holds the relative path of the folder that is meant by `teacher`.
Symbolic links would do the same, but Windows lets few users make them.
"""

from __future__ import annotations

import os
from pathlib import Path

from medstill.errors import RunError
from medstill.runs import atomic
from medstill.storage import storage_errors

SUFFIX = ".link"
PREPARED = "prepared"
GALLERY = "gallery"


def follow(path: Path) -> Path:
    """The folder that is meant by `path`: where `path.link` leads, or `path` itself without one.

    Raises:
        RunError: The link cannot be read or is empty.
    """
    link = link_file(path)
    if not link.is_file():
        return path
    try:
        target = link.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(
            f"'{link}' cannot be read ({error}). Delete it and repeat the command."
        ) from error
    if not target:
        raise RunError(f"'{link}' is empty. Delete it and repeat the command that wrote it.")
    return Path(os.path.normpath(_plain(path.parent) / target))


def link_file(path: Path) -> Path:
    """The file that stands for a shared folder."""
    return path.with_name(path.name + SUFFIX)


def link(path: Path, target: Path) -> None:
    """Let `path` mean the folder `target`, which need not exist yet.

    Raises:
        RunError: There is a folder at `path` already.
    """
    if path.exists():
        raise RunError(
            f"Expected no folder '{path}', since this run shares '{target.name}' with others. "
            "Choose another output folder, or delete this one."
        )
    text = Path(os.path.relpath(_plain(target), _plain(path.parent))).as_posix() + "\n"
    file = link_file(path)
    with storage_errors(file):
        if not file.is_file() or file.read_text(encoding="utf-8") != text:
            with atomic(file) as draft:
                draft.write_text(text, encoding="utf-8")


def prepared_folder(run: Path) -> Path:
    """Where the prepared cases of a run are."""
    return follow(run / PREPARED)


def gallery_folder(run: Path) -> Path:
    """Where the slices that the report shows of a run's test patients are."""
    return follow(run / GALLERY)


def _plain(path: Path) -> Path:
    """The path without `..`, which behind a symbolic link does not lead where its text says."""
    return path.resolve() if ".." in path.parts else path
