"""What a grid can do without: all that can be computed again, and never a score."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from medstill.errors import RunError
from medstill.lock import alone
from medstill.runs import is_finished
from medstill.storage import storage_errors
from medstill.study.folder import (
    TEST,
    is_complete,
    is_mine,
    read_grid,
    run_folder,
    shared_by,
    shared_folder,
)
from medstill.study.status import is_alive

CHECKPOINTS = ("last.ckpt", "best.ckpt")
KEPT_KINDS = ("prepared", "gallery")
"""Kinds of shared folders that hold no network."""


@dataclass(frozen=True)
class Leftover:
    """Something that can be computed again."""

    path: Path
    what: str
    size_bytes: int


def leftovers(root: Path) -> tuple[Leftover, ...]:
    """What can be deleted in the folder of a grid.

    * Of a network that is trained and scored: its last checkpoint and its predicted masks; of a
      student its weights too, of a teacher what it said of the fixed views when all runs that use
      it are finished.
    * Prepared cases, when all runs that use them are finished.
    * What no run of the grid uses any more, but for scores.

    Of a folder that several grids share only last checkpoints and masks are taken: what the other
    grids need of it is not known here.

    Raises:
        RunError: The folder holds no grid, or it is being computed.
    """
    with _at_rest(root):
        return _listed(root)


def clean(root: Path, found: Iterable[Leftover]) -> None:
    """Delete what `leftovers` found, but for what a run has come to need since.

    Raises:
        RunError: The folder holds no grid, or it is being computed.
    """
    with _at_rest(root):
        still = {entry.path for entry in _listed(root)}
        for entry in found:
            if entry.path in still:
                _delete(entry.path)


@contextmanager
def _at_rest(root: Path) -> Iterator[None]:
    """Keep everybody from computing the grid of a folder, which nobody does at present."""
    # Asked first, since a lock leaves its file in any folder.
    read_grid(root)
    if is_alive(root):
        raise RunError(f"'{root}' is being computed at present. Clean it when that has ended.")
    shared = shared_folder(root)
    with alone(root), alone(shared) if shared.is_dir() else nullcontext():
        yield


def _delete(path: Path) -> None:
    with storage_errors(path):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _listed(root: Path) -> tuple[Leftover, ...]:
    users = _users(root)
    found: list[tuple[Path, str]] = []
    shared = shared_folder(root)
    mine = is_mine(root, shared)
    for folder in sorted(shared.glob("*-*")):
        runs = users.get(folder.resolve(), [])
        if mine:
            found += _of_folder(folder, used=bool(runs), over=all(map(is_complete, runs)))
        elif runs and is_finished(folder) and is_finished(folder / TEST):
            kind = folder.name.rsplit("-", 1)[0]
            found += _of_network(folder, kind, weights=True, over=False)
    sized = [Leftover(path, what, _size(path)) for path, what in found]
    return tuple(entry for entry in sized if entry.path.exists())


def _users(root: Path) -> dict[Path, list[Path]]:
    """Shared folder, its links followed -> folders of the runs that use it."""
    users: dict[Path, list[Path]] = {}
    for listed in read_grid(root).runs:
        run = run_folder(root, listed.name)
        for folder in shared_by(run):
            users.setdefault(folder.resolve(), []).append(run)
    return users


def _of_folder(folder: Path, *, used: bool, over: bool) -> Iterator[tuple[Path, str]]:
    kind = folder.name.rsplit("-", 1)[0]
    scored = is_finished(folder) and is_finished(folder / TEST)
    if not used and not scored:
        yield folder, f"{kind} that no run uses"
    elif kind == "prepared" and over:
        yield folder / "cases", "prepared cases of finished runs"
    elif kind not in KEPT_KINDS and scored:
        yield from _of_network(folder, kind, weights=kind == "teacher" and used, over=over)


def _of_network(
    folder: Path, kind: str, *, weights: bool, over: bool
) -> Iterator[tuple[Path, str]]:
    names = CHECKPOINTS[:1] if weights else CHECKPOINTS
    # One of several teachers has a folder of its own in the teacher's.
    for home in (folder, *sorted(folder.glob("fold-*"))):
        for name in names:
            yield home / name, f"checkpoint of a finished {kind}"
    yield folder / TEST / "predictions", f"masks predicted by a finished {kind}"
    if over:
        yield folder / "cache", "what a teacher said of the fixed views"


def _size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())
