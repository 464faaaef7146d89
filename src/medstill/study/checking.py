"""Check the runs of a grid before any work, and estimate what they will cost together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from medstill import training
from medstill.config import Study, content_hash
from medstill.errors import MedstillError
from medstill.refs import TEACHER, student_refs
from medstill.study.points import Point, axes_of
from medstill.volumes.layouts import find_dataset
from medstill.volumes.preparation import draft_preparation
from medstill.volumes.records import Dataset, Split
from medstill.volumes.splits import check_division

BUILT = {"data", "teacher", "students", "distillation"}
"""Keys of a study that decide which networks and losses are built."""


@dataclass(frozen=True)
class Checked:
    """The runs of a grid, and what they cost together."""

    points: tuple[Point, ...]
    axes: dict[str, tuple[str, ...]]
    trainings: int
    """Different ones: what runs share is trained once."""
    training_s: float
    """Seconds of all of them, shared by the worker processes."""
    memory_mb: float
    """Of each worker."""
    workers: int


def check_points(points: Sequence[Point], dataset: Dataset) -> None:
    """Check names, sizes, labels and the split of every run.

    Raises:
        ConfigError: A name or a size of a run is wrong.
        DataError: The patients cannot be divided as a run asks.
    """
    known: set[str] = set()
    for point in points:
        study, key = point.study, _part(point.study, BUILT)
        with named(point):
            check_division(dataset, study.split, study.label_fraction)
            if key not in known:
                training.check_networks(study, draft_preparation(dataset, study.data))
        known.add(key)


@contextmanager
def named(point: Point) -> Iterator[None]:
    """Say in an error of which run it speaks."""
    try:
        yield
    except MedstillError as error:
        raise type(error)(f"Run '{point.name}': {error}") from error


def estimate_points(points: Sequence[Point], data: Path, workers: int) -> Checked:
    """What runs cost together, from a few timed steps of every kind of training."""
    dataset = find_dataset(data, skip_bad=True)
    timed: dict[str, training.Estimate] = {}
    cost_s: dict[str, float] = {}
    for point in points:
        study, kind = point.study, _part(point.study, {*BUILT, "training"})
        if kind not in timed:
            timed[kind] = training.estimate(study, draft_preparation(dataset, study.data), workers)
        for key, name, steps in _trainings(study):
            cost_s[key] = timed[kind].step_s[name] * steps
    return Checked(
        points=tuple(points),
        axes=axes_of(points),
        trainings=len(cost_s),
        training_s=sum(cost_s.values()) / workers,
        memory_mb=max(found.memory_mb for found in timed.values()),
        workers=workers,
    )


def _trainings(study: Study) -> Iterator[tuple[str, str, int]]:
    """Hash of all that decides it, name in an estimate and steps of each training of a study.

    Nothing is prepared yet: what decides the division of the patients stands for the patients.
    """
    prepared = content_hash(study.data)
    parts, seen = content_hash(study.split), content_hash([study.split, study.label_fraction])
    split = Split(
        train=(parts,),
        validation=(parts,),
        test=(parts,),
        student=(seen,),
        patients={},
        data_hash=prepared,
    )
    key = content_hash(training.teacher_key(study, prepared, split))
    yield key, TEACHER.name, study.teacher.training.steps
    for ref in student_refs(study):
        key = content_hash(training.student_key(study, ref, prepared, split))
        yield key, f"{ref.student} {ref.arm}", study.training.steps


def _part(study: Study, keys: set[str]) -> str:
    return content_hash(study.model_dump(mode="json", include=keys))
