"""How a grid stands: which runs are finished, which trainings run, how long the rest will take."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from medstill.config import Record
from medstill.errors import RunError
from medstill.links import follow
from medstill.refs import TEACHER
from medstill.runs import MANIFEST_FILE, is_finished, read_rows, read_study
from medstill.storage import storage_errors
from medstill.study.folder import (
    GridFolder,
    Listed,
    failures_of,
    is_complete,
    read_grid,
    run_folder,
)
from medstill.study.live import PROGRESS_FILE, Headline, View, read_report
from medstill.study.repeating import repeated

ALIVE_FILE = "running"
FOLD, PRETRAINING = "fold-", "pretraining"
"""Folders inside a teacher's."""
BEAT_S = 5.0
SILENCE_S = 20.0

State = Literal["finished", "running", "failed", "waiting"]


class RunState(Record):
    """How one run stands."""

    name: str
    state: State
    trained: int
    networks: int
    message: str = ""


class Training(Record):
    """One network, however many runs share it."""

    name: str
    """The first run that uses it, and its name there."""
    kind: str
    """Trainings of one kind take about as long."""
    state: Literal["finished", "running", "waiting"]
    step: int = 0
    steps: int = 0
    steps_per_s: float = 0.0
    progress: Path | None = None
    """The file that tells how it goes while it runs."""

    @property
    def duration_s(self) -> float | None:
        """Seconds of all its steps, as far as it is known."""
        return self.steps / self.steps_per_s if self.steps_per_s > 0 else None


class GridState(Record):
    """How a grid stands."""

    name: str
    runs: tuple[RunState, ...]
    trainings: dict[Path, Training]
    left_s: float | None
    """Seconds until everything is trained; None while nothing is known or nothing runs."""

    def count(self, state: State) -> int:
        """Trainings in a state."""
        return sum(training.state == state for training in self.trainings.values())


@contextmanager
def alive(root: Path) -> Iterator[None]:
    """Let others see that the grid of a folder is being computed while the block runs."""
    path = root / ALIVE_FILE
    with storage_errors(path):
        path.touch()

    def beat() -> None:
        with suppress(OSError):
            path.touch()

    try:
        with repeated(beat, BEAT_S):
            yield
    finally:
        path.unlink(missing_ok=True)


def is_alive(root: Path) -> bool:
    """Whether some process computes the grid of a folder at present."""
    path = root / ALIVE_FILE
    try:
        return time.time() - path.stat().st_mtime < SILENCE_S
    except OSError:
        return False


def grid_status(root: Path) -> GridState:
    """How the grid of a folder stands.

    Raises:
        RunError: The folder holds no grid, or a file in it is damaged.
    """
    grid, running = read_grid(root), is_alive(root)
    trainings: dict[Path, Training] = {}
    places = _places(root, grid)
    for listed in grid.runs:
        run = run_folder(root, listed.name)
        for name in listed.networks:
            folder = places[run / name]
            if folder not in trainings:
                trainings[folder] = _training(run, folder, listed, name, running=running)
    return GridState(
        name=grid.name,
        runs=tuple(_run_state(root, listed, trainings, places) for listed in grid.runs),
        trainings=trainings,
        left_s=_left_s(list(trainings.values())) if running else None,
    )


def view(root: Path) -> View:
    """What the live view of a grid shows."""
    found = grid_status(root)
    running = {path: one for path, one in found.trainings.items() if one.state == "running"}
    finished = found.count("finished")
    return View(
        {one.progress: _place(one, path) for path, one in running.items() if one.progress},
        Headline("trainings", finished, len(found.trainings), len(running), found.left_s),
    )


def _place(training: Training, folder: Path) -> str:
    """Name of a training, and of the part of it that runs."""
    assert training.progress is not None
    return " ".join([training.name, *training.progress.parent.relative_to(folder).parts])


def _places(root: Path, grid: GridFolder) -> dict[Path, Path]:
    """Network of a run -> where it lies, or will: of a run not begun, where the same one does."""
    keys: dict[Path, str] = {}
    for listed in grid.runs:
        paths = [run_folder(root, listed.name) / name for name in listed.networks]
        # A grid of an older version lists no keys: each network stands for itself.
        keys |= dict(zip(paths, listed.keys or map(str, paths), strict=True))
    folders = {path: follow(path) for path in keys}
    place = {keys[path]: folder for path, folder in folders.items() if folder != path}
    for path, key in keys.items():
        if folders[path] == path:
            folders[path] = place.setdefault(key, path)
    return folders


def _run_state(
    root: Path,
    listed: Listed,
    trainings: Mapping[Path, Training],
    places: Mapping[Path, Path],
) -> RunState:
    run = run_folder(root, listed.name)
    mine = [trainings[places[run / name]] for name in listed.networks]
    failures = failures_of(run)
    state: State = "waiting"
    if is_complete(run):
        state = "finished"
    elif failures:
        state = "failed"
    elif any(training.state == "running" for training in mine):
        state = "running"
    return RunState(
        name=listed.name,
        state=state,
        trained=sum(training.state == "finished" for training in mine),
        networks=len(mine),
        message=" ".join(f"{one.job}: {one.message}" for one in failures),
    )


def _training(run: Path, folder: Path, listed: Listed, name: str, *, running: bool) -> Training:
    full, kind = f"{listed.name} {name}", name.rsplit("/seed-", 1)[0]
    parts = _Parts(1, 0, 0)
    if name == TEACHER.name and (run / MANIFEST_FILE).exists():
        teacher = read_study(run).teacher
        before, steps = teacher.pretraining.steps, teacher.training.steps
        parts = _Parts(max(1, teacher.folds), before, steps)
    if is_finished(folder):
        return Training(name=full, kind=kind, state="finished", **_pace(folder, parts))
    report = _progress(folder, parts) if running else {}
    return Training(name=full, kind=kind, state="running" if report else "waiting", **report)


@dataclass(frozen=True)
class _Parts:
    """What a training is made of, one after the other."""

    members: int
    """Networks of one kind, each in a folder `fold-N`."""
    before: int
    """Steps of the pre-training of each, in a folder inside the member's."""
    steps: int
    """Steps of the training of each; 0 where only its report tells."""


def _progress(folder: Path, parts: _Parts) -> dict[str, Any]:
    # A pre-training, or one of several teachers, reports from a folder inside the teacher's.
    places = (folder, *folder.glob("*/"), *folder.glob("fold-*/*/"))
    path = next((p for place in places if (p := place / PROGRESS_FILE).exists()), None)
    if path is None:
        return {}
    try:
        report = read_report(path)
    except RunError:
        # It ended between the two looks.
        return {}
    names = path.parent.relative_to(folder).parts
    member = next((int(name[len(FOLD) :]) for name in names if name.startswith(FOLD)), 0)
    first = PRETRAINING in names
    one = parts.before + (parts.steps or report["steps"])
    done = member * one + report["step"] + (0 if first else parts.before)
    return {**report, "step": done, "steps": parts.members * one, "progress": path}


def _pace(folder: Path, parts: _Parts) -> dict[str, Any]:
    try:
        history = read_rows(folder / "history.json")
        rates = [float(entry["steps_per_s"]) for entry in history]
        steps = parts.members * (parts.before + int(history[-1]["step"]))
    except (RunError, LookupError, TypeError, ValueError):
        # It is missing or damaged: how fast it went is not known.
        return {}
    return {"step": steps, "steps": steps, "steps_per_s": sum(rates) / len(rates)}


def _left_s(trainings: list[Training]) -> float | None:
    """What is left of every training at the pace of its kind, shared by those that run."""
    known: dict[str, list[float]] = {}
    for training in trainings:
        if training.duration_s is not None:
            known.setdefault(training.kind, []).append(training.duration_s)
    every = [duration for durations in known.values() for duration in durations]
    if not every:
        return None
    left = 0.0
    for training in trainings:
        durations = known.get(training.kind, every)
        share = 1 - training.step / training.steps if training.steps else 1.0
        if training.state != "finished":
            left += share * sum(durations) / len(durations)
    side_by_side = sum(training.state == "running" for training in trainings)
    return left / max(1, side_by_side)
