"""The folder of a grid.

grid.json            the grid, its hash, its runs, versions
medstill.log         what the workers logged
runs/POINT/          a run folder each; what it shares stands there as a `.link` file
runs/POINT/failure.json   what went wrong in it at the last attempt
shared/KIND-HASH/    prepared cases, networks and slices, by the hash of all that decides them;
                     `shared.link` in its place leads to a folder that several grids share
shared/users.json    the folders of the other grids that keep here what their runs share
lock                 held by the process that computes into the folder
table.json, table.md, report.html
times.json           what networks take on the machine where `medstill study time` measured it
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from medstill.config import Record, content_hash, study_hash
from medstill.errors import RunError
from medstill.links import SUFFIX, follow, link, link_file
from medstill.refs import TEACHER, ModelRef, student_refs
from medstill.runs import (
    LOCK_FILE,
    check_run,
    is_finished,
    read_json,
    read_rows,
    read_study,
    versions,
    write_json,
)
from medstill.study.gridfile import Grid
from medstill.study.identity import draft_keys
from medstill.study.points import Point, axes_of

GRID_FILE = "grid.json"
RUNS = "runs"
SHARED = "shared"
USERS_FILE = "users.json"
FAILURE_FILE = "failure.json"
TEST = "test"
COMPARISON_FILE = "comparison.json"


class Failure(Record):
    """What went wrong in a run."""

    job: str
    message: str
    skipped: tuple[str, ...] = ()
    """What could not be done without that job."""


class Listed(Record):
    """A run as `grid.json` lists it."""

    name: str
    values: tuple[tuple[str, str], ...]
    """Axis and value."""
    networks: tuple[str, ...]
    """Names of the networks that it trains."""
    keys: tuple[str, ...] = ()
    """For each of them a hash that the same network of another run has too, and no other."""


class GridFolder(Record):
    """What `grid.json` says."""

    name: str
    description: str
    grid: dict[str, Any] = Field(default_factory=dict)
    """The grid file as it was read."""
    hash: str
    versions: dict[str, str]
    axes: tuple[tuple[str, tuple[str, ...]], ...]
    pooled: tuple[str, ...]
    runs: tuple[Listed, ...]


def run_folder(root: Path, name: str) -> Path:
    """The folder of one run of a grid."""
    return root / RUNS / name


def check_folder(root: Path, grid: Grid, points: Sequence[Point]) -> None:
    """Find whether a folder is a grid's, or may become it; runs may be added to it.

    Raises:
        RunError: It belongs to another grid or to something else, or one of its runs is another
            study now.
    """
    if (root / GRID_FILE).exists():
        found = read_grid(root)
        if found.name != grid.name:
            raise RunError(
                f"'{root}' holds the study '{found.name}', not '{grid.name}'. Choose another "
                "output folder."
            )
    elif root.exists() and (
        not root.is_dir() or {one.name for one in root.iterdir()} - {LOCK_FILE}
    ):
        raise RunError(
            f"'{root}' is not empty and holds no study of many runs. Choose a new output folder."
        )
    for point in points:
        check_run(run_folder(root, point.name), point.study)


def claim(root: Path, grid: Grid, points: Sequence[Point]) -> None:
    """Take a folder for a grid; call it alone in there.

    Raises:
        RunError: As `check_folder`.
    """
    check_folder(root, grid, points)
    listed = GridFolder(
        name=grid.name,
        description=grid.description,
        grid=grid.model_dump(mode="json"),
        hash=content_hash([[point.name, study_hash(point.study)] for point in points]),
        versions=versions(),
        axes=tuple(axes_of(points).items()),
        pooled=grid.pooled,
        runs=tuple(_listed(point) for point in points),
    )
    write_json(root / GRID_FILE, listed.model_dump(mode="json"))


def read_grid(root: Path) -> GridFolder:
    """What `grid.json` of a folder says.

    Raises:
        RunError: There is none, or it is damaged.
    """
    path = root / GRID_FILE
    if not path.exists():
        raise RunError(
            f"'{root}' holds no study of many runs: '{GRID_FILE}' is missing. Give the folder that "
            "'medstill study run' wrote."
        )
    try:
        return GridFolder.model_validate(read_json(path))
    except ValidationError as error:
        raise RunError(
            f"'{path}' is damaged ({error.error_count()} wrong entries). Repeat 'medstill study "
            "run', which writes it anew."
        ) from error


def shared_folder(root: Path) -> Path:
    """Where the runs of a grid keep what they share, perhaps with other grids."""
    return follow(root / SHARED)


def share_with(root: Path, shared: Path) -> None:
    """Let a grid keep what its runs share in a folder that other grids use too.

    Raises:
        RunError: The grid has a shared folder of its own already, or is asked to share its whole
            folder.
    """
    if shared.resolve() == root.resolve():
        raise RunError(
            f"--shared is '{shared}', the folder of the study itself. Leave --shared out: the "
            f"study keeps what its runs share in '{root / SHARED}', and other studies can share "
            "that."
        )
    if shared.resolve() != (root / SHARED).resolve():
        link(root / SHARED, shared.resolve())


def note_user(root: Path) -> None:
    """Say in a shared folder outside of a grid that the grid uses it; call it alone in there.

    Raises:
        RunError: The list of users is damaged.
    """
    shared = shared_folder(root)
    if link_file(root / SHARED).is_file() and root.resolve() not in _users_of(shared):
        found = [*_users_of(shared), root.resolve()]
        texts = [Path(os.path.relpath(user, shared.resolve())).as_posix() for user in found]
        write_json(shared / USERS_FILE, texts)


def is_mine(root: Path, shared: Path) -> bool:
    """Whether a shared folder lies in the folder of a grid, and no other grid says to use it.

    Raises:
        RunError: The list of users is damaged.
    """
    own = shared.resolve().parent == root.resolve()
    return own and not set(_users_of(shared)) - {root.resolve()}


def _users_of(shared: Path) -> tuple[Path, ...]:
    path = shared / USERS_FILE
    if not path.exists():
        return ()
    texts = read_json(path)
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise RunError(
            f"'{path}' is damaged: expected a list of the study folders that use '{shared}'. "
            "Delete it and repeat 'medstill study run' of each of them."
        )
    return tuple((shared / text).resolve() for text in texts)


def networks_of(run: Path) -> tuple[ModelRef, ...]:
    """Every network of a prepared run; none when it is not prepared."""
    if not (run / "manifest.json").exists():
        return ()
    return (TEACHER, *student_refs(read_study(run)))


def is_complete(run: Path) -> bool:
    """Whether every network of a run is trained and scored, and they are compared."""
    refs = networks_of(run)
    return bool(refs) and (run / COMPARISON_FILE).exists() and all(is_scored(run, r) for r in refs)


def is_scored(run: Path, ref: ModelRef) -> bool:
    """Whether a network of a run is trained and scored."""
    folder = ref.folder(run)
    return is_finished(folder) and is_finished(folder / TEST)


def failures_of(run: Path) -> tuple[Failure, ...]:
    """What went wrong in a run at the last attempt."""
    path = run / FAILURE_FILE
    if not path.exists():
        return ()
    try:
        return tuple(Failure.model_validate(entry) for entry in read_rows(path))
    except ValidationError as error:
        raise RunError(
            f"'{path}' is damaged ({error.error_count()} wrong entries). Delete it; the next "
            "'medstill study run' tries that run again."
        ) from error


def add_failure(run: Path, failure: Failure) -> None:
    """Keep what went wrong in a run."""
    kept = [one.model_dump(mode="json") for one in (*failures_of(run), failure)]
    write_json(run / FAILURE_FILE, kept)


def forget_failures(run: Path) -> None:
    """A new attempt begins."""
    (run / FAILURE_FILE).unlink(missing_ok=True)


def shared_by(run: Path) -> tuple[Path, ...]:
    """The shared folders that a run uses."""
    return tuple(follow(file.with_suffix("")) for file in sorted(run.rglob(f"*{SUFFIX}")))


def _listed(point: Point) -> Listed:
    keys = draft_keys(point.study)
    scored = content_hash(point.study.evaluation)
    return Listed(
        name=point.name,
        values=tuple(point.values.items()),
        networks=tuple(keys),
        keys=tuple(f"{key}-{scored}" for key in keys.values()),
    )
