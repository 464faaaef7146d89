"""Check a study's networks before any work, and estimate what the work will cost."""

from __future__ import annotations

import sys
import time

import torch
from torch import Tensor, nn

from medstill.config import NetworkConfig, Record, Study, TrainingConfig
from medstill.errors import ConfigError, unknown_name
from medstill.losses import FEATURE_LOSSES, MAP_LOSSES
from medstill.networks import check_name, head_bias, size_multiple
from medstill.networks.taps import layer_names
from medstill.refs import GUIDED, TEACHER, ModelRef, student_arms
from medstill.training.assembly import (
    build_student,
    build_teacher,
    input_shape,
    student_task,
)
from medstill.training.cache import rows_of
from medstill.training.cachefill import answer
from medstill.training.frozen import Said
from medstill.training.layers import tapped_layers
from medstill.training.loggers import check_loggers
from medstill.training.tasks import Place, Task
from medstill.training.teaching import (
    PRETRAINING,
    distance_layer,
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


def check_networks(study: Study, preparation: Preparation) -> None:
    """Check names and sizes: networks, losses, tapped layers, patch size.

    Raises:
        UnknownNameError: A network, loss or layer that does not exist.
        ConfigError: A patch size that a network cannot take.
        MissingExtraError: The package of a logger is not installed.
    """
    check_loggers(study.engine)
    _check_names(study)
    teacher = build_teacher(study, preparation)
    if study.teacher.training.head_prior:
        head_bias(teacher)
    _check_size(study.teacher.network, teacher, study.data.patch_size)
    if study.teacher.signed_distance.weight:
        _check_layer(teacher, distance_layer(study))
    for student in study.students:
        pupil = build_student(student, preparation, study.seeds[0])
        if study.training.head_prior:
            head_bias(pupil)
        _check_size(student, pupil, study.data.patch_size)
        for pair in tapped_layers(study, student).values():
            _check_layer(pupil, pair.student)
            _check_layer(teacher, pair.teacher)


def _check_names(study: Study) -> None:
    for network in (study.teacher.network, *study.students):
        check_name(network.name)
    for term in study.distillation.maps:
        if term.loss not in MAP_LOSSES:
            raise unknown_name("output-map loss", term.loss, MAP_LOSSES)
    for feature in study.distillation.features.values():
        if feature.loss not in FEATURE_LOSSES:
            raise unknown_name("feature loss", feature.loss, FEATURE_LOSSES)


def _check_size(config: NetworkConfig, network: nn.Module, patch_size: tuple[int, ...]) -> None:
    multiple = size_multiple(network)
    if any(size % multiple for size in patch_size):
        nearest = [max(multiple, round(size / multiple) * multiple) for size in patch_size]
        raise ConfigError(
            f"data.patch_size is {list(patch_size)}, but network '{config.name}' needs multiples "
            f"of {multiple}. Use {nearest}."
        )


def _check_layer(network: nn.Module, layer: str) -> None:
    names = layer_names(network)
    if layer not in names:
        raise unknown_name("layer", layer, names)


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


def estimate(study: Study, preparation: Preparation, workers: int, images: float = 0.0) -> Estimate:
    """Time a few steps of every kind of training of a study.

    Args:
        study: What will be trained.
        preparation: Shape of the network inputs.
        workers: Worker processes that will share the trainings.
        images: Slices or patches that are taught, for the size of the cache.
    """
    teacher = build_teacher(study, preparation)
    step_s, total_s = _teacher_steps(study, preparation)
    kept_mb = 0.0
    for student in study.students:
        for arm in student_arms(study):
            ref = ModelRef(arm, student.called, study.seeds[0])
            guide = teacher if arm in GUIDED else None
            samples = study.training.batch_size
            samples += study.distillation.unlabelled_batch if guide else 0
            said = None
            if guide and study.distillation.cache != "off":
                said = answer(study, student, guide, _noise(preparation, samples)[0])
                kept_mb = max(kept_mb, _row_bytes(preparation, samples, said) / 1e6)
            pupil = student_task(study, preparation, ref, guide)
            task_s = _step_s(pupil, preparation, study.training, samples, said)
            step_s[f"{student.called} {arm}"] = task_s
            total_s += task_s * study.training.steps * len(study.seeds)
    return Estimate(
        step_s=step_s,
        training_s=total_s / workers,
        memory_mb=_peak_memory_mb(),
        workers=workers,
        cache_mb=kept_mb * images * study.training.views,
    )


def _teacher_steps(study: Study, preparation: Preparation) -> tuple[dict[str, float], float]:
    """Seconds a step of the teacher's trainings, and of all their steps."""
    recipe, before = study.teacher.training, study.teacher.pretraining.steps
    task = teacher_task(study, preparation)
    step_s = {TEACHER.name: _step_s(task, preparation, recipe, recipe.batch_size)}
    total_s = step_s[TEACHER.name] * recipe.steps
    if before:
        first = pretraining_task(study, preparation)
        name = f"{TEACHER.name} {PRETRAINING}"
        step_s[name] = _step_s(first, preparation, recipe, recipe.batch_size)
        total_s += step_s[name] * before
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
