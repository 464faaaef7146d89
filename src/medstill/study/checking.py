"""Check the runs of a grid before any work, and estimate what they will cost together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from medstill import training
from medstill.config import Study, content_hash
from medstill.errors import MedstillError
from medstill.refs import TEACHER, student_refs
from medstill.study.identity import draft_keys
from medstill.study.points import Point, axes_of
from medstill.volumes.layouts import find_dataset
from medstill.volumes.preparation import draft_preparation
from medstill.volumes.records import Dataset
from medstill.volumes.splits import check_division

BUILT = {"data", "teacher", "students", "training", "distillation", "engine"}
"""Keys of a study that decide what `check_networks` finds."""
VIEWED = {"views", "foreground_share", "augmentation", "precision"}
"""Keys of a recipe that decide the fixed views."""


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
    cache_mb: float = 0.0
    """Disk for what the teachers say of the fixed views; what runs share counts once."""


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
            check_division(dataset, study.split, study.label_fraction, study.teacher.folds)
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
    timed: training.Steps = {}
    cost_s: dict[str, float] = {}
    cache_mb: dict[str, float] = {}
    images: dict[str, float] = {}
    memory_mb = 0.0
    for point in points:
        study = point.study
        taught = _taught(study)
        if study.distillation.cache != "off" and taught not in images:
            images[taught] = training.taught_images(study, dataset)
        preparation = draft_preparation(dataset, study.data)
        found = training.estimate(study, preparation, workers, images.get(taught, 0.0), timed)
        memory_mb = max(memory_mb, found.memory_mb)
        cache_mb[_cache(study)] = found.cache_mb
        cost_s |= _trainings(study, found.step_s)
    return Checked(
        points=tuple(points),
        axes=axes_of(points),
        trainings=len(cost_s),
        training_s=sum(cost_s.values()) / workers,
        memory_mb=memory_mb,
        workers=workers,
        cache_mb=sum(cache_mb.values()),
    )


def _trainings(study: Study, step_s: Mapping[str, float]) -> dict[str, float]:
    """Hash of all that decides it -> seconds, of each training of a study."""
    keys, teacher = draft_keys(study), study.teacher
    before = {name: s for name, s in step_s.items() if name.startswith(f"{TEACHER.name} ")}
    once_s = step_s[TEACHER.name] * teacher.training.steps
    once_s += sum(before.values()) * teacher.pretraining.steps
    found = {keys[TEACHER.name]: once_s * max(1, teacher.folds)}
    for ref in student_refs(study):
        found[keys[ref.name]] = step_s[f"{ref.student} {ref.arm}"] * study.training.steps
    return found


def _taught(study: Study) -> str:
    """Hash of all that decides how many images a distilled student is taught."""
    bare = study.distillation.unlabelled_batch > 0
    return content_hash([_part(study, {"data", "split", "label_fraction"}), bare])


def _cache(study: Study) -> str:
    """Hash of all that decides what a teacher says of which views."""
    recipe = study.training.model_dump(mode="json", include=VIEWED)
    scales = [scale for scale, term in study.distillation.features.items() if term.weight]
    students = [student.name for student in study.students] if scales else []
    said = [study.distillation.cache, scales, students]
    return content_hash([_part(study, {"teacher"}), _taught(study), recipe, said])


def _part(study: Study, keys: set[str]) -> str:
    return content_hash(study.model_dump(mode="json", include=keys))
