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
from medstill.refs import GUIDED, ModelRef, student_arms
from medstill.training.assembly import (
    build_student,
    build_teacher,
    input_shape,
    student_task,
    tapped_layers,
)
from medstill.training.tasks import Place, Task, TeacherTask, segmentation_loss
from medstill.volumes.records import Preparation

TIMED_STEPS = 3


class Estimate(Record):
    """What the trainings of a study cost, from a few timed steps on noise of the right shape."""

    step_s: dict[str, float]
    """Training -> seconds a step on one thread."""
    training_s: float
    """Seconds of all trainings, shared by the worker processes."""
    memory_mb: float
    """Peak memory of this process while timing; each worker needs about as much."""
    workers: int


def check_networks(study: Study, preparation: Preparation) -> None:
    """Check names and sizes: networks, losses, tapped layers, patch size.

    Raises:
        UnknownNameError: A network, loss or layer that does not exist.
        ConfigError: A patch size that a network cannot take.
    """
    for network in (study.teacher.network, *study.students):
        check_name(network.name)
    for term in study.distillation.maps:
        if term.loss not in MAP_LOSSES:
            raise unknown_name("output-map loss", term.loss, MAP_LOSSES)
    for feature in study.distillation.features.values():
        if feature.loss not in FEATURE_LOSSES:
            raise unknown_name("feature loss", feature.loss, FEATURE_LOSSES)
    teacher = build_teacher(study, preparation)
    if study.teacher.training.head_prior:
        head_bias(teacher)
    _check_size(study.teacher.network, teacher, study.data.patch_size)
    for student in study.students:
        pupil = build_student(student, preparation, study.seeds[0])
        if study.training.head_prior:
            head_bias(pupil)
        _check_size(student, pupil, study.data.patch_size)
        for pair in tapped_layers(study, student).values():
            _check_layer(pupil, pair.student)
            _check_layer(teacher, pair.teacher)


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


def estimate(study: Study, preparation: Preparation, workers: int) -> Estimate:
    """Time a few steps of every kind of training of a study.

    Args:
        study: What will be trained.
        preparation: Shape of the network inputs.
        workers: Worker processes that will share the trainings.
    """
    teacher = build_teacher(study, preparation)
    task = TeacherTask(
        teacher,
        segmentation_loss(study.teacher.training, preparation),
        study.teacher.reconstruction,
        study.seeds[0],
    )
    recipe = study.teacher.training
    step_s = {"teacher": _step_s(task, preparation, recipe, recipe.batch_size)}
    total_s = step_s["teacher"] * study.teacher.training.steps
    for student in study.students:
        for arm in student_arms(study):
            ref = ModelRef(arm, student.called, study.seeds[0])
            guide = teacher if arm in GUIDED else None
            extra = study.distillation.unlabelled_batch if guide else 0
            task_s = _step_s(
                student_task(study, preparation, ref, guide),
                preparation,
                study.training,
                study.training.batch_size + extra,
            )
            step_s[f"{student.called} {arm}"] = task_s
            total_s += task_s * study.training.steps * len(study.seeds)
    return Estimate(
        step_s=step_s,
        training_s=total_s / workers,
        memory_mb=_peak_memory_mb(),
        workers=workers,
    )


def _step_s(
    task: nn.Module, preparation: Preparation, recipe: TrainingConfig, samples: int
) -> float:
    shape = input_shape(preparation, samples)
    generator = torch.Generator().manual_seed(0)
    mixed = torch.autocast("cpu", torch.bfloat16, enabled=recipe.precision == "bf16-mixed")
    image_BC = torch.rand(shape, generator=generator)
    label_B = (image_BC[:, 0] * len(preparation.classes)).long()
    trained: Task = task  # type: ignore[assignment]
    place = Place(torch.device("cpu"), preparation.spatial_dims)
    task.to(memory_format=place.memory_format)  # type: ignore[call-overload]
    trained.before_training(place, [image_BC])
    image_BC = place.put(image_BC)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with mixed:
            _step(trained, task, image_BC, label_B)
        begun = time.perf_counter()
        for _ in range(TIMED_STEPS):
            with mixed:
                _step(trained, task, image_BC, label_B)
        return (time.perf_counter() - begun) / TIMED_STEPS
    finally:
        torch.set_num_threads(threads)


def _step(trained: Task, task: nn.Module, image_BC: Tensor, label_B: Tensor) -> None:
    trained.compute(image_BC, label_B, 0).total.backward()  # type: ignore[no-untyped-call]
    task.zero_grad()


def _peak_memory_mb() -> float:
    if sys.platform == "win32":
        return float("nan")
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
