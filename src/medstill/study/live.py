"""A live view of every training that runs below a folder, in whichever process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from medstill.errors import RunError
from medstill.runs import DRAFT_PREFIX, is_log_shown, read_json
from medstill.study.repeating import repeated

INTERVAL_S = 1.0
LINES_S = 60.0
"""Time between two reports where there is no terminal to draw on."""
PROGRESS_FILE = "progress.json"
_REPORTED = ("step", "steps", "steps_per_s")
_ALL = Path()
"""Stands for the bar of all trainings."""


@dataclass(frozen=True)
class View:
    """What is shown at one moment."""

    bars: Mapping[Path, str]
    """Progress file of a training -> its name."""
    headline: Headline | None = None


@dataclass(frozen=True)
class Headline:
    """All trainings together."""

    name: str
    done: int
    total: int
    running: int
    left_s: float | None
    """None while nothing is known of how long a training takes."""


Look = Callable[[], View]


def look_below(folder: Path) -> View:
    """Every training below a folder."""
    seen = [path for path in folder.rglob(PROGRESS_FILE) if not _is_draft(path)]
    return View({path: path.parent.relative_to(folder).as_posix() for path in sorted(seen)})


@contextmanager
def watch(folder: Path, console: Console, look: Look | None = None) -> Iterator[None]:
    """Show a bar with rate and time left for each training while the block runs.

    Args:
        folder: Whose trainings are shown.
        console: Where; one that is no terminal gets a line for each now and then, and where the log
            is shown there is nothing.
        look: What is shown instead of the trainings below `folder`.
    """
    if is_log_shown():
        yield
        return
    found = look or partial(look_below, folder)
    if not console.is_terminal:
        with repeated(partial(_tell, found, console), LINES_S):
            yield
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TextColumn("{task.fields[left]} left"),
        TimeElapsedColumn(),
    )
    view = Progress(*columns, console=console, transient=True)
    bars: dict[Path, TaskID] = {}
    with view, repeated(partial(_follow, found, view, bars), INTERVAL_S):
        yield


def _tell(look: Look, console: Console) -> None:
    for line in _lines(look):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _lines(look: Look) -> Iterator[str]:
    try:
        seen = look()
    except (OSError, RunError):
        return
    if seen.headline is not None:
        found = seen.headline
        left = "?" if found.left_s is None else _clock(found.left_s)
        yield f"{found.name}: {found.done} of {found.total} trainings, {left} left"
    for path, name in seen.bars.items():
        try:
            report = read_report(path)
        except (OSError, RunError):
            continue
        rate = max(float(report["steps_per_s"]), 1e-6)
        left = _clock((report["steps"] - report["step"]) / rate)
        yield f"{name}: step {report['step']} of {report['steps']}, {rate:.2f} steps/s, {left} left"


def _follow(look: Look, view: Progress, bars: dict[Path, TaskID]) -> None:
    try:
        seen = look()
    except (OSError, RunError):
        # Folders of drafts come and go while the tree is walked.
        return
    for path in set(bars) - set(seen.bars) - {_ALL}:
        view.remove_task(bars.pop(path))
    if seen.headline is not None:
        _show_headline(seen.headline, view, bars)
    for path, name in seen.bars.items():
        _show(path, name, view, bars)


def _is_draft(path: Path) -> bool:
    return path.parent.name.startswith(DRAFT_PREFIX)


def _show_headline(found: Headline, view: Progress, bars: dict[Path, TaskID]) -> None:
    left = "?" if found.left_s is None else _clock(found.left_s)
    rate = f"{found.running} running"
    if _ALL not in bars:
        bars[_ALL] = view.add_task(found.name, total=found.total, rate=rate, left=left)
    view.update(bars[_ALL], completed=found.done, rate=rate, left=left)


def _show(path: Path, name: str, view: Progress, bars: dict[Path, TaskID]) -> None:
    try:
        report = read_report(path)
    except RunError:
        return
    rate = max(float(report["steps_per_s"]), 1e-6)
    left = _clock((report["steps"] - report["step"]) / rate)
    text = f"{rate:.2f} steps/s"
    if path not in bars:
        bars[path] = view.add_task(name, total=report["steps"], rate=text, left=left)
    view.update(bars[path], completed=report["step"], rate=text, left=left)


def read_report(path: Path) -> dict[str, Any]:
    """What a training says of itself: `step`, `steps` and `steps_per_s`.

    Raises:
        RunError: It has ended, or its report is damaged.
    """
    report = read_json(path)
    numbers = report if isinstance(report, dict) else {}
    if not all(isinstance(numbers.get(key), int | float) for key in _REPORTED):
        raise RunError(
            f"'{path}' is damaged: expected {', '.join(_REPORTED)}. Delete it; its training writes "
            "it anew."
        )
    return numbers


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
