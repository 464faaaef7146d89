"""Check a study's networks, losses, layers and sizes before any work."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import nn

from medstill.config import Study
from medstill.errors import ConfigError, unknown_name
from medstill.losses import FEATURE_LOSSES, MAP_LOSSES
from medstill.networks import check_name, head_bias, size_multiple
from medstill.networks.taps import layer_names
from medstill.training.assembly import build_student, build_teacher
from medstill.training.layers import tapped_layers
from medstill.training.loggers import check_loggers
from medstill.training.teaching import distance_layer
from medstill.volumes.records import Preparation


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
    multiples = {study.teacher.network.name: size_multiple(teacher)}
    if study.teacher.signed_distance.weight:
        _check_layer(teacher, distance_layer(study))
    for student in study.students:
        pupil = build_student(student, preparation, study.seeds[0])
        if study.training.head_prior:
            head_bias(pupil)
        multiples[student.name] = size_multiple(pupil)
        for pair in tapped_layers(study, student).values():
            _check_layer(pupil, pair.student)
            _check_layer(teacher, pair.teacher)
    _check_size(multiples, study.data.patch_size)


def _check_names(study: Study) -> None:
    for network in (study.teacher.network, *study.students):
        check_name(network.name)
    for term in study.distillation.maps:
        if term.loss not in MAP_LOSSES:
            raise unknown_name("output-map loss", term.loss, MAP_LOSSES)
    for feature in study.distillation.features.values():
        if feature.loss not in FEATURE_LOSSES:
            raise unknown_name("feature loss", feature.loss, FEATURE_LOSSES)


def _check_size(multiples: Mapping[str, int], patch_size: tuple[int, ...]) -> None:
    # A size that one network takes may be wrong for the next: what is proposed suits them all.
    together = math.lcm(*multiples.values())
    for name, multiple in multiples.items():
        if any(size % multiple for size in patch_size):
            nearest = [max(together, round(size / together) * together) for size in patch_size]
            raise ConfigError(
                f"data.patch_size is {list(patch_size)}, but network '{name}' needs multiples "
                f"of {multiple}. Use {nearest}, which suits every network of the study."
            )


def _check_layer(network: nn.Module, layer: str) -> None:
    names = layer_names(network)
    if layer not in names:
        raise unknown_name("layer", layer, names)
