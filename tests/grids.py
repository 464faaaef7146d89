"""Grids of tiny runs, and a crew that does their jobs in this process."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medstill.config import Study
from medstill.stages import Job
from medstill.study import Grid, GridOptions, Outcome, run_grid
from medstill.study.gridfile import parse_grid
from medstill.study.schedule import Ended, OnFailure, work_through

AXES: dict[str, Any] = {
    "fold": {"key": "split.fold", "values": [0, 1]},
    "loss": {
        "points": {
            "none": {"distillation.features": {}, "distillation.maps": []},
            "kl": {"distillation.maps": [{"loss": "kl"}]},
        }
    },
}


class Inline:
    """A crew of one, in this process; remembers what it did."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.now: list[Job] = []

    def has_room(self) -> bool:
        """One at a time."""
        return not self.now

    def start(self, job: Job) -> None:
        """It is done when somebody waits for it."""
        self.now.append(job)

    def ended(self) -> list[Ended]:
        """Do the job."""
        (job,), self.now = self.now, []
        self.done.append(job.name)
        try:
            job.function(*job.arguments)
        except Exception as error:
            return [(job, error)]
        return [(job, None)]

    def __call__(self, jobs: Sequence[Job], on_failure: OnFailure | None = None) -> None:
        """All jobs."""
        work_through(jobs, self, on_failure)


def tiny_grid(study: Study, axes: dict[str, Any] | None = None, **more: Any) -> Grid:
    """A grid over a tiny study, in two folds."""
    base = study.model_dump(mode="json", exclude={"name"})
    base["split"] = {"kind": "folds", "folds": 2, "validation": 1}
    content = {"name": "tiny-grid", "base": base, "axes": AXES if axes is None else axes}
    return parse_grid(copy.deepcopy({**content, **more}))


def run_all(grid: Grid, data: Path, out: Path, **options: Any) -> tuple[Outcome, list[str]]:
    """Run a grid with one thread; also the names of the jobs that were done."""
    import torch

    crew, threads = Inline(), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        outcome = run_grid(grid, data, out, options=GridOptions(workers=1, **options), perform=crew)
    finally:
        torch.set_num_threads(threads)
    return outcome, crew.done
