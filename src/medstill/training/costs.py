"""What the trainings of a study will cost, estimated before any work."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from medstill.config import (
    Record,
    StudentConfig,
    Study,
    TrainingConfig,
    content_hash,
)
from medstill.refs import GUIDED, TEACHER, ModelRef, student_arms
from medstill.training.assembly import (
    build_teacher,
    input_shape,
    student_task,
)
from medstill.training.cache import rows_of
from medstill.training.cachefill import answer
from medstill.training.frozen import Said
from medstill.training.memory import kept_memory
from medstill.training.tasks import Place, Task
from medstill.training.teaching import (
    PRETRAINING,
    pretraining_task,
    teacher_task,
)
from medstill.training.views import count_images
from medstill.volumes.geometry import canonical_spacing_zyx_mm, frame_of, geometry_of, shape_zyx
from medstill.volumes.io import read_channels
from medstill.volumes.preparation import resolve_preparation
from medstill.volumes.records import Dataset, Preparation
from medstill.volumes.splits import check_division, without_labels

TIMED_STEPS = 3
SURVEYED_CASES = 3
"""Cases that are read to estimate how many slices or patches there are."""


RECIPE = {"batch_size", "precision", "dice_over", "class_balance"}
"""Keys of a recipe that a step's cost depends on."""


@dataclass(frozen=True)
class Step:
    """What a step of one kind of training costs."""

    seconds: float
    """On one thread."""
    row_mb: float = 0.0
    """What is kept of one view where the teacher's answers are."""


Steps = dict[str, Step]
"""Hash of all that a step's cost depends on -> what it costs."""


class Estimate(Record):
    """What the trainings of a study cost, from a few timed steps on noise of the right shape."""

    step_s: dict[str, float]
    """Training -> seconds a step on one thread."""
    training_s: float
    """Seconds of all trainings, shared by the worker processes."""
    memory_mb: float
    """Peak memory of this process while timing; each worker needs about as much."""
    workers: int
    cache_mb: float = 0.0
    """Disk for what the teacher says of the fixed views, estimated from a few cases."""


def taught_images(study: Study, dataset: Dataset) -> float:
    """Slices (patches in 3-D) that a distilled student is taught, estimated from a few cases.

    Raises:
        DataError: A case cannot be read, or the patients cannot be divided as asked.
    """
    split = check_division(dataset, study.split, study.label_fraction)
    taught = {
        *split.student,
        *(without_labels(split) if study.distillation.unlabelled_batch else ()),
    }
    cases = [case for case in dataset.cases if case.id in taught][:SURVEYED_CASES]
    geometries = [geometry_of(read_channels(case.images)) for case in cases]
    spacings = [canonical_spacing_zyx_mm(geometry) for geometry in geometries]
    preparation = resolve_preparation(dataset, study.data, spacings)
    frames = [frame_of(geometry, preparation.spacing_zyx_mm) for geometry in geometries]
    found = [count_images(shape_zyx(frame.grid), preparation) for frame in frames]
    return len(taught) * sum(found) / len(found)


@kept_memory()
def estimate(
    study: Study,
    preparation: Preparation,
    workers: int,
    images: float = 0.0,
    timed: Steps | None = None,
) -> Estimate:
    """Time a few steps of every kind of training of a study.

    Args:
        study: What will be trained.
        preparation: Shape of the network inputs.
        workers: Worker processes that will share the trainings.
        images: Slices or patches that are taught, for the size of the cache.
        timed: What was timed for other studies, which is not timed again; what is timed now is
            added to it.
    """
    timed = {} if timed is None else timed
    step_s, total_s = _teacher_steps(study, preparation, timed)
    kept_mb = 0.0
    for student in study.students:
        for arm in student_arms(study):
            kind = _kind(study, preparation, student, arm)
            if kind not in timed:
                timed[kind] = _student_step(study, preparation, student, arm)
            found = timed[kind]
            kept_mb = max(kept_mb, found.row_mb)
            step_s[f"{student.called} {arm}"] = found.seconds
            total_s += found.seconds * study.training.steps * len(study.seeds)
    return Estimate(
        step_s=step_s,
        training_s=total_s / workers,
        memory_mb=_peak_memory_mb(),
        workers=workers,
        cache_mb=kept_mb * images * study.training.views,
    )


def _kind(study: Study, preparation: Preparation, student: StudentConfig, arm: str) -> str:
    """Hash of all that a student's step depends on."""
    parts: list[Any] = [
        preparation.model_dump(mode="json"),
        student.model_dump(mode="json", exclude={"alias"}),
        study.training.model_dump(mode="json", include=RECIPE),
        study.distillation.segmentation_weight > 0,
    ]
    if arm in GUIDED:
        # The teacher's recipe is over when it teaches.
        parts += [arm, study.teacher.model_dump(mode="json", exclude={"training", "pretraining"})]
        parts += [study.distillation.model_dump(mode="json")]
    return content_hash(parts)


def _student_step(study: Study, preparation: Preparation, student: StudentConfig, arm: Any) -> Step:
    guide = build_teacher(study, preparation) if arm in GUIDED else None
    samples = study.training.batch_size
    samples += study.distillation.unlabelled_batch if guide else 0
    said, row_mb = None, 0.0
    if guide and study.distillation.cache != "off":
        said = answer(study, student, guide, _noise(preparation, samples)[0])
        row_mb = _row_bytes(preparation, samples, said) / 1e6
    ref = ModelRef(arm, student.called, study.seeds[0])
    pupil = student_task(study, preparation, ref, guide)
    return Step(_step_s(pupil, preparation, study.training, samples, said), row_mb)


def _teacher_steps(
    study: Study, preparation: Preparation, timed: Steps
) -> tuple[dict[str, float], float]:
    """Seconds a step of the teacher's trainings, and of all their steps."""
    recipe, before = study.teacher.training, study.teacher.pretraining.steps
    tasks: dict[str, tuple[Callable[[Study, Preparation], nn.Module], int]] = {
        TEACHER.name: (teacher_task, recipe.steps)
    }
    if before:
        tasks[f"{TEACHER.name} {PRETRAINING}"] = (pretraining_task, before)
    step_s, total_s = {}, 0.0
    config = study.teacher.model_dump(mode="json", exclude={"training", "folds"})
    for name, (task, steps) in tasks.items():
        used = recipe.model_dump(mode="json", include=RECIPE)
        kind = content_hash([name, preparation.model_dump(mode="json"), config, used])
        if kind not in timed:
            built = task(study, preparation)
            timed[kind] = Step(_step_s(built, preparation, recipe, recipe.batch_size))
        step_s[name] = timed[kind].seconds
        total_s += step_s[name] * steps
    return step_s, total_s * max(1, study.teacher.folds)


def _noise(preparation: Preparation, samples: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    image_BC = torch.rand(input_shape(preparation, samples), generator=generator)
    return image_BC, (image_BC[:, 0] * len(preparation.classes)).long()


def _row_bytes(preparation: Preparation, samples: int, said: Said) -> int:
    image_BC, label_B = _noise(preparation, samples)
    return rows_of(image_BC, label_B.to(torch.uint8), said).itemsize


def _step_s(
    task: nn.Module,
    preparation: Preparation,
    recipe: TrainingConfig,
    samples: int,
    said: Said | None = None,
) -> float:
    mixed = torch.autocast("cpu", torch.bfloat16, enabled=recipe.precision == "bf16-mixed")
    image_BC, label_B = _noise(preparation, samples)
    trained: Task = task  # type: ignore[assignment]
    place = Place(torch.device("cpu"), preparation.spatial_dims)
    task.to(memory_format=place.memory_format)  # type: ignore[call-overload]
    trained.before_training(place, [said or image_BC])
    image_BC = place.put(image_BC)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with mixed:
            _step(trained, task, image_BC, label_B, said)
        begun = time.perf_counter()
        for _ in range(TIMED_STEPS):
            with mixed:
                _step(trained, task, image_BC, label_B, said)
        return (time.perf_counter() - begun) / TIMED_STEPS
    finally:
        torch.set_num_threads(threads)


def _step(
    trained: Task, task: nn.Module, image_BC: Tensor, label_B: Tensor, said: Said | None
) -> None:
    kept = () if said is None else (said,)
    trained.compute(image_BC, label_B, 0, *kept).total.backward()  # type: ignore[no-untyped-call]
    task.zero_grad()


def _peak_memory_mb() -> float:
    if sys.platform == "win32":
        return float("nan")
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
