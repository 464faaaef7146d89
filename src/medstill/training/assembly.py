"""Put the students together from a study and train them; build and load every network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from medstill.config import NetworkConfig, StudentConfig, Study, content_hash
from medstill.losses import Objective
from medstill.networks import Ensemble, build, without_reconstruction
from medstill.networks.taps import tap_channels
from medstill.refs import GUIDED, ModelRef
from medstill.training import checkpoint
from medstill.training.boundary import FitPlan, FitResult
from medstill.training.cachefill import filled_cache
from medstill.training.data import SampleSource
from medstill.training.fit import fit
from medstill.training.frozen import FrozenTeacher, KeptTeacher
from medstill.training.layers import LayerPair, kept_names, tapped_layers
from medstill.training.learner import Validate
from medstill.training.prior import start_from_frequencies
from medstill.training.seeds import torch_seed
from medstill.training.tasks import StudentTask
from medstill.volumes.records import Preparation, Split
from medstill.volumes.splits import out_of_fold, without_labels
from medstill.volumes.store import PreparedSet


@dataclass(frozen=True)
class Material:
    """What every training of a study shares."""

    study: Study
    prepared: PreparedSet
    split: Split
    validate: Validate
    resume: bool = True
    caches: Path | None = None
    """Folder of the caches of what the teacher says; None keeps one in each student's folder."""

    @property
    def preparation(self) -> Preparation:
        """How the images were prepared."""
        return self.prepared.preparation


def output_channels(preparation: Preparation) -> int:
    """1 for a single foreground class (sigmoid), else the number of classes (softmax)."""
    return 1 if len(preparation.classes) == 2 else len(preparation.classes)


def build_network(
    config: NetworkConfig,
    preparation: Preparation,
    *,
    seed: int = 0,
    reconstruction: bool = False,
    out_channels: int | None = None,
) -> nn.Module:
    """A network for prepared images; its weights are a function of `seed`.

    `out_channels` is for one that answers with something else than the classes of the data.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch_seed("initialisation", seed))
        return build(
            config,
            spatial_dims=preparation.spatial_dims,
            in_channels=preparation.channels,
            out_channels=out_channels or output_channels(preparation),
            reconstruction=reconstruction,
        )


def build_teacher(study: Study, preparation: Preparation) -> nn.Module:
    """The untrained teacher of a study."""
    return build_network(
        study.teacher.network,
        preparation,
        seed=study.seeds[0],
        reconstruction=study.teacher.reconstruction.weight > 0,
    )


def build_student(student: StudentConfig, preparation: Preparation, seed: int) -> nn.Module:
    """An untrained student, with a second decoder where it has a second task."""
    second = student.reconstruction_weight > 0
    return build_network(student, preparation, seed=seed, reconstruction=second)


def load_student(study: Study, ref: ModelRef, preparation: Preparation, folder: Path) -> nn.Module:
    """A trained student in eval mode, without the decoder of its second task.

    Raises:
        RunError: The checkpoint is missing or damaged.
    """
    network = build_student(student_config(study, ref), preparation, ref.seed)
    return without_reconstruction(load_weights(network, folder))


def load_teacher(study: Study, preparation: Preparation, folder: Path) -> nn.Module:
    """The trained teacher in eval mode; the mean of several where the study has folds.

    Raises:
        RunError: A checkpoint is missing or damaged.
    """
    homes = [folder / fold_name(number) for number in range(study.teacher.folds)]
    found = [load_weights(build_teacher(study, preparation), home) for home in homes or [folder]]
    return Ensemble(found).eval() if homes else found[0]


def fold_name(number: int) -> str:
    """Folder of one of several teachers in the teacher's, and a part of its name."""
    return f"fold-{number}"


def load_weights(network: nn.Module, folder: Path) -> nn.Module:
    """Load the chosen weights of a finished training into `network` and set it to eval mode.

    Raises:
        RunError: The checkpoint is missing or damaged.
    """
    network.load_state_dict(checkpoint.load(folder / checkpoint.BEST)["network"])
    return network.eval()


def labelled_cases(split: Split, ref: ModelRef) -> tuple[str, ...]:
    """The training cases whose labels a student sees."""
    return split.train if ref.arm == "all-labels" else split.student


def train_student(
    material: Material,
    ref: ModelRef,
    teacher: nn.Module | None,
    folder: Path,
    key: Mapping[str, object],
) -> FitResult:
    """Train a student: one recipe for every arm; those in `GUIDED` with a teacher, else None."""
    guide = checkpoint.weights_hash(teacher) if teacher else None
    study, split = material.study, material.split
    task = student_task(study, material.preparation, ref, teacher)
    start_from_frequencies(task.network, study.training, material.prepared, split.student)
    source = student_source(material, ref)
    if teacher and study.distillation.cache != "off":
        caches = material.caches or folder / "cache"
        folds, seed = study.teacher.folds, study.split.seed
        who = out_of_fold(split, folds, seed) if folds else None
        cache = filled_cache(study, student_config(study, ref), teacher, source, caches, who)
        source = replace(source, cache=cache)
    plan = plan_of(material, ref.name, source, folder, key)
    return fit(task, replace(plan, teacher=guide))


def student_config(study: Study, ref: ModelRef) -> StudentConfig:
    """The configuration of one student of a study."""
    return next(student for student in study.students if student.called == ref.student)


def student_task(
    study: Study, preparation: Preparation, ref: ModelRef, teacher: nn.Module | None
) -> StudentTask:
    """An untrained student with its objective; the arms in `GUIDED` take a teacher."""
    student = student_config(study, ref)
    network = build_student(student, preparation, ref.seed)
    distilled = teacher if ref.arm == "distilled" else None
    layers = tapped_layers(study, student) if distilled else {}
    return StudentTask(
        network,
        _objective(study, preparation, network, distilled, layers, ref.seed),
        ref.seed,
        {scale: pair.student for scale, pair in layers.items()},
        _guide(study, teacher, student, layers) if teacher else None,
        student.reconstruction_weight,
        pseudo_labels=ref.arm == "pseudo-labels",
    )


def _guide(
    study: Study, teacher: nn.Module, student: StudentConfig, layers: Mapping[str, LayerPair]
) -> FrozenTeacher | KeptTeacher:
    if study.distillation.cache != "off":
        names = kept_names(study, student)
        return KeptTeacher({scale: names[scale] for scale in layers})
    taps = {scale: pair.teacher for scale, pair in layers.items()}
    return FrozenTeacher(teacher, taps, reduced=study.training.views > 0)


def _objective(
    study: Study,
    preparation: Preparation,
    network: nn.Module,
    teacher: nn.Module | None,
    layers: Mapping[str, LayerPair],
    seed: int,
) -> Objective:
    labels: dict[str, Any] = {
        "classes": len(preparation.classes),
        "spatial_dims": preparation.spatial_dims,
        "recipe": study.training,
    }
    if teacher is None:
        return Objective.control(study.distillation, **labels)
    shape = input_shape(preparation)
    return Objective(
        study.distillation,
        student_channels=tap_channels(network, {s: p.student for s, p in layers.items()}, shape),
        teacher_channels=tap_channels(teacher, {s: p.teacher for s, p in layers.items()}, shape),
        seed=torch_seed("projectors", seed),
        **labels,
    )


def input_shape(preparation: Preparation, batch: int = 1) -> tuple[int, ...]:
    """Shape `(B, C, ...)` of a network input."""
    return (batch, preparation.channels, *preparation.patch_zyx[3 - preparation.spatial_dims :])


def student_source(material: Material, ref: ModelRef) -> SampleSource:
    """Where the samples of a student come from."""
    study, split = material.study, material.split
    extra = study.distillation.unlabelled_batch if ref.arm in GUIDED else 0
    others = without_labels(split)
    return SampleSource(
        material.prepared.root,
        labelled_cases(split, ref),
        study.training,
        ref.seed,
        material.preparation.spatial_dims,
        unlabelled=others if extra else (),
        unlabelled_batch=extra if others else 0,
    )


def plan_of(
    material: Material,
    name: str,
    source: SampleSource,
    folder: Path,
    key: Mapping[str, object],
    *,
    scored: bool = True,
) -> FitPlan:
    """What `fit` needs for one training of a study; without a score the last weights are kept."""
    return FitPlan(
        name=name,
        source=source,
        folder=folder,
        key=content_hash(dict(key)),
        validate=material.validate if scored else None,
        engine=material.study.engine,
        resume=material.resume,
    )
