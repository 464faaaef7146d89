"""Runs of a grid share what is the same in them: prepared cases, networks, slices for the report.

Each lies once below `shared/`, in a folder named by the hash of all that decides it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from medstill import pipeline, scoring
from medstill.config import content_hash
from medstill.links import GALLERY, PREPARED, link
from medstill.refs import TEACHER, student_refs
from medstill.runs import is_finished
from medstill.stages import Job, open_prepared
from medstill.study.folder import COMPARISON_FILE, run_folder, shared_folder
from medstill.study.points import Point


def share_prepared(root: Path, point: Point) -> Path:
    """Let a run use the prepared cases of all runs with the same `data`; returns their folder."""
    folder = shared_folder(root) / f"prepared-{content_hash(point.study.data)}"
    link(run_folder(root, point.name) / PREPARED, folder)
    return folder


def share_stages(root: Path, point: Point) -> None:
    """Let a prepared run use every network that is the same in others, test scores included.

    A network is the same when `stages.training_key`, the test cases and the way of scoring are.
    """
    run, shared = run_folder(root, point.name), shared_folder(root)
    opened = open_prepared(run)
    for ref in (TEACHER, *student_refs(opened.study)):
        key = content_hash(scoring.scoring_key(opened, ref))
        link(run / ref.name, shared / f"{ref.arm}-{key}")
    prepared = opened.prepared
    key = content_hash([prepared.data_hash, prepared.preparation, opened.split.test])
    link(run / GALLERY, shared / f"gallery-{key}")


@dataclass(frozen=True)
class Plan:
    """All that is left to do, in the order of the runs."""

    jobs: tuple[Job, ...]
    users: dict[str, tuple[str, ...]]
    """Name of a job -> names of the runs that need it."""


def plan(root: Path, points: Sequence[Point], data: Path, *, resume: bool = True) -> Plan:
    """The jobs of all runs, each once, without those that are finished.

    Args:
        root: Folder of the grid.
        points: Its prepared runs, with `share_stages` done.
        data: Folder of the data set.
        resume: Take interrupted trainings up again.
    """
    jobs: dict[Path, Job] = {}
    users: dict[str, list[str]] = {}
    for point in points:
        run = run_folder(root, point.name)
        names: dict[str, str] = {}
        for job in pipeline.jobs(point.study, data, run, resume=resume):
            assert job.folder is not None
            if is_finished(job.folder):
                continue
            needs = tuple(names[need] for need in job.needs if need in names)
            full = f"{point.name} {job.name}"
            mine = replace(job, name=full, needs=needs, run=point.name)
            name = jobs.setdefault(job.folder, mine).name
            names[job.name] = name
            users.setdefault(name, []).append(point.name)
        if names or not (run / COMPARISON_FILE).exists():
            name = f"{point.name} comparison"
            needs = tuple(names.values())
            compare = Job(name, scoring.compare, (run, data), needs, run=point.name)
            jobs[run / COMPARISON_FILE] = compare
            users[name] = [point.name]
    return Plan(tuple(jobs.values()), {name: tuple(found) for name, found in users.items()})
