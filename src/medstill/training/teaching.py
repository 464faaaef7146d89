"""Put the teacher together from a study and train it, after a pre-training where one is asked for.

Pre-training is reconstruction alone, on images whose labels are not read: the teacher's network
with an image for logits gives back the clean image from one with masked blocks. Encoder and
decoder then start the teacher: both of its decoders take what fits them, and the head of the
reconstruction with it.

Shape legend: B batch, C channels.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from medstill.config import SignedDistanceConfig, Study, TrainingConfig
from medstill.errors import ConfigError
from medstill.losses import SignedDistance
from medstill.networks import NETWORKS
from medstill.networks.taps import preset_layer, tap_channels
from medstill.refs import TEACHER
from medstill.training.assembly import (
    Material,
    build_network,
    build_teacher,
    input_shape,
    plan_of,
)
from medstill.training.boundary import FitResult
from medstill.training.data import SampleSource
from medstill.training.fit import fit
from medstill.training.prior import start_from_frequencies
from medstill.training.seeds import torch_generator, torch_seed
from medstill.training.tasks import PretrainingTask, TeacherTask, segmentation_loss
from medstill.volumes.records import Preparation

log = logging.getLogger(__name__)

PRETRAINING = "pretraining"
"""Folder of the pre-training in the teacher's, and a part of its name."""


def train_teacher(
    material: Material, folder: Path, key: Mapping[str, object], name: str = TEACHER.name
) -> FitResult:
    """Train a teacher on all training patients, pre-trained before if the study says so.

    `name` is its name in the log.
    """
    study = material.study
    task = teacher_task(study, material.preparation)
    if study.teacher.pretraining.steps:
        adopt(task.network, pretrain(material, folder / PRETRAINING, key, name))
    cases = material.split.train
    start_from_frequencies(task.network, study.teacher.training, material.prepared, cases)
    source = SampleSource(
        material.prepared.root,
        cases,
        study.teacher.training,
        study.seeds[0],
        material.preparation.spatial_dims,
    )
    return fit(task, plan_of(material, name, source, folder, key))


def teacher_task(study: Study, preparation: Preparation) -> TeacherTask:
    """The untrained teacher with its losses."""
    settings, seed = study.teacher, study.seeds[0]
    network = build_teacher(study, preparation)
    segmentation = segmentation_loss(settings.training, preparation)
    if not settings.signed_distance.weight:
        return TeacherTask(network, segmentation, settings.reconstruction, seed)
    layer = distance_layer(study)
    generator = torch_generator("distance", seed)
    head = _distance_head(settings.signed_distance, network, layer, preparation, generator)
    return TeacherTask(
        network,
        segmentation,
        settings.reconstruction,
        seed,
        distance=head,
        distance_weight=settings.signed_distance.weight,
        distance_layer=layer,
    )


def distance_layer(study: Study) -> str:
    """The teacher's layer that distances are read from.

    Raises:
        ConfigError: A network without preset layers, and no layer named.
    """
    network, named = study.teacher.network.name, study.teacher.signed_distance.layer
    if named is None and network not in NETWORKS:
        raise ConfigError(
            f"teacher.signed_distance needs the last layer of the decoder, which is known for "
            f"{', '.join(NETWORKS)}, but the teacher is '{network}'. Name the layer with "
            "teacher.signed_distance.layer."
        )
    return named or preset_layer(network, "D")


def _distance_head(
    settings: SignedDistanceConfig,
    network: nn.Module,
    layer: str,
    preparation: Preparation,
    generator: torch.Generator,
) -> SignedDistance:
    spacing_mm = preparation.spacing_zyx_mm[3 - preparation.spatial_dims :]
    return SignedDistance(
        tap_channels(network, {"D": layer}, input_shape(preparation))["D"],
        len(preparation.classes),
        # In 2-D the slice axis alone may have no spacing of its own, and it is left out.
        spacing_mm=[step for step in spacing_mm if step is not None],
        limit_mm=settings.limit_mm,
        generator=generator,
    )


def pretraining_recipe(study: Study) -> TrainingConfig:
    """The teacher's recipe with steps and learning rate of the pre-training, and no labels."""
    settings, recipe = study.teacher.pretraining, study.teacher.training
    changes = {
        "steps": settings.steps,
        "learning_rate": settings.learning_rate or recipe.learning_rate,
        # Patches around structures, and fixed views of them, would tell where they are.
        "foreground_share": 0.0,
        "views": 0,
    }
    return recipe.model_copy(update=changes)


def pretraining_task(study: Study, preparation: Preparation) -> PretrainingTask:
    """The teacher's network as one that gives images, with the loss of its pre-training."""
    network = build_network(
        study.teacher.network,
        preparation,
        seed=study.seeds[0],
        out_channels=preparation.channels,
    )
    return PretrainingTask(network, study.teacher.pretraining, study.seeds[0])


def pretrain(
    material: Material, folder: Path, key: Mapping[str, object], name: str = TEACHER.name
) -> dict[str, Tensor]:
    """Train the reconstruction alone; a finished pre-training is read from its folder.

    Returns:
        The weights after the last step, by name: no label takes part, in choosing neither.
    """
    study, split = material.study, material.split
    task = pretraining_task(study, material.preparation)
    recipe = pretraining_recipe(study)
    source = SampleSource(
        material.prepared.root,
        (),
        # All samples are of the kind without labels.
        recipe.model_copy(update={"batch_size": 0}),
        torch_seed("pretraining", study.seeds[0]),
        material.preparation.spatial_dims,
        unlabelled=tuple(sorted({*split.train, *split.unlabelled})),
        unlabelled_batch=recipe.batch_size,
    )
    key = {**key, "part": [key.get("part"), PRETRAINING] if "part" in key else PRETRAINING}
    fit(task, plan_of(material, f"{name} {PRETRAINING}", source, folder, key, scored=False))
    return dict(task.network.state_dict())


def adopt(network: nn.Module, pretrained: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Start a network from the pre-trained weights that fit it.

    The encoder takes the encoder's, both decoders take the decoder's, and the head of the
    reconstruction takes the head. Of a network that is not ours, whatever has the same name
    and shape is taken.

    Returns:
        Names of what was taken.
    """
    own = network.state_dict()
    taken = {
        home: value
        for name, value in pretrained.items()
        for home in _homes(name)
        if home in own and own[home].shape == value.shape
    }
    network.load_state_dict(taken, strict=False)
    log.info("%s: %d of %d tensors start pre-trained", TEACHER.name, len(taken), len(own))
    return tuple(taken)


def _homes(name: str) -> tuple[str, ...]:
    """Where a weight of the pre-trained network stands in the teacher."""
    if not name.startswith("segmentation."):
        return (name,)
    second = name.replace("segmentation.", "reconstruction.", 1)
    return (second,) if name.startswith("segmentation.head.") else (name, second)
