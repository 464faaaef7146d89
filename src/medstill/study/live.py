"""A live view of every training that runs below a folder, in whichever process."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
from medstill.runs import DRAFT_PREFIX, read_json

INTERVAL_S = 1.0
PROGRESS_FILE = "progress.json"


@contextmanager
def watch(folder: Path, console: Console) -> Iterator[None]:
    """Show a bar with rate and time left for each training below `folder` while the block runs."""
    if not console.is_terminal:
        yield
        return
    stop = threading.Event()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]:.2f} steps/s"),
        TextColumn("{task.fields[left]} left"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as view:
        thread = threading.Thread(target=_follow, args=(folder, view, stop), daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


def _follow(folder: Path, view: Progress, stop: threading.Event) -> None:
    bars: dict[Path, TaskID] = {}
    while not stop.wait(INTERVAL_S):
        try:
            seen = {path for path in folder.rglob(PROGRESS_FILE) if not _is_draft(path)}
        except OSError:
            # Folders of drafts come and go while the tree is walked.
            continue
        for path in set(bars) - seen:
            view.remove_task(bars.pop(path))
        for path in sorted(seen):
            _show(path, folder, view, bars)


def _is_draft(path: Path) -> bool:
    return path.parent.name.startswith(DRAFT_PREFIX)


def _show(path: Path, folder: Path, view: Progress, bars: dict[Path, TaskID]) -> None:
    try:
        report = read_json(path)
    except RunError:
        return
    rate = max(float(report["steps_per_s"]), 1e-6)
    left = int((report["steps"] - report["step"]) / rate)
    text = f"{left // 60}:{left % 60:02d}"
    if path not in bars:
        name = path.parent.relative_to(folder).as_posix()
        bars[path] = view.add_task(name, total=report["steps"], rate=rate, left=text)
    view.update(bars[path], completed=report["step"], rate=rate, left=text)
