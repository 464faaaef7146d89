"""Check a study's networks, losses, layers and sizes before any work."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from medstill.config import Study, TrainingConfig
from medstill.errors import ConfigError, unknown_name
from medstill.losses import FEATURE_LOSSES, MAP_LOSSES
from medstill.networks import check_name, head_bias, run, size_multiple
from medstill.networks.request import request_of
from medstill.networks.sizes import fixed_size
from medstill.networks.taps import tap_channels
from medstill.training.assembly import build_student, build_teacher, input_shape
from medstill.training.layers import tapped_layers
from medstill.training.loggers import check_loggers
from medstill.training.teaching import distance_layer
from medstill.volumes.records import Preparation


@dataclass(frozen=True)
class _Built:
    """A network of a study, by the name that the study gives it."""

    called: str
    network: nn.Module
    recipe: TrainingConfig


def check_networks(study: Study, preparation: Preparation) -> None:
    """Check names, sizes and layers: networks, losses, tapped layers, patch size.

    Raises:
        UnknownNameError: A network, loss or layer that does not exist.
        ConfigError: A patch size that a network cannot take or be trained with, or a tapped layer
            that gives no map.
        MissingExtraError: The package of a logger is not installed.
    """
    check_loggers(study.engine)
    _check_names(study)
    found = list(_built(study, preparation))
    for built in found:
        if built.recipe.head_prior:
            head_bias(built.network)
    _check_size(found, study.data.patch_size)
    for built in found:
        _check_norms(built, preparation)
    _check_layers(study, [built.network for built in found], input_shape(preparation))


def _built(study: Study, preparation: Preparation) -> Iterator[_Built]:
    """The teacher, and behind it the students in their order."""
    teacher = study.teacher
    yield _Built(teacher.network.name, build_teacher(study, preparation), teacher.training)
    for student in study.students:
        network = build_student(student, preparation, study.seeds[0])
        yield _Built(student.called, network, study.training)


def _check_layers(study: Study, networks: Sequence[nn.Module], shape: tuple[int, ...]) -> None:
    teacher, *pupils = networks
    taught = {distance_layer(study)} if study.teacher.signed_distance.weight else set()
    for student, pupil in zip(study.students, pupils, strict=True):
        pairs = tapped_layers(study, student).values()
        _demand_maps(pupil, {pair.student for pair in pairs}, shape)
        taught |= {pair.teacher for pair in pairs}
    _demand_maps(teacher, taught, shape)


def _demand_maps(network: nn.Module, layers: set[str], shape: tuple[int, ...]) -> None:
    if layers:
        tap_channels(network, {layer: layer for layer in sorted(layers)}, shape)


def _check_names(study: Study) -> None:
    for network in (study.teacher.network, *study.students):
        check_name(network.name)
    for term in study.distillation.maps:
        if term.loss not in MAP_LOSSES:
            raise unknown_name("output-map loss", term.loss, MAP_LOSSES)
    for feature in study.distillation.features.values():
        if feature.loss not in FEATURE_LOSSES:
            raise unknown_name("feature loss", feature.loss, FEATURE_LOSSES)


def _check_size(found: Sequence[_Built], patch_size: tuple[int, ...]) -> None:
    for built in found:
        fixed = fixed_size(request_of(built.network))
        if fixed is not None and fixed != patch_size:
            raise ConfigError(
                f"data.patch_size is {list(patch_size)}, but network '{built.called}' is built for "
                f"{list(fixed)} alone. Set its options.img_size to {list(patch_size)}."
            )
    multiples = [size_multiple(built.network) for built in found]
    # A size that one network takes may be wrong for the next: what is proposed suits them all.
    together = math.lcm(*multiples)
    for built, multiple in zip(found, multiples, strict=True):
        if any(size % multiple for size in patch_size):
            nearest = [max(together, round(size / together) * together) for size in patch_size]
            raise ConfigError(
                f"data.patch_size is {list(patch_size)}, but network '{built.called}' needs "
                f"multiples of {multiple}. Use {nearest}, which suits every network of the study."
            )


def _check_norms(built: _Built, preparation: Preparation) -> None:
    """Demand that no norm sees one value alone, as it may in small patches or of one sample."""
    samples = min(2, built.recipe.batch_size)
    shape = input_shape(preparation, samples)
    if samples > 1 and any(size > size_multiple(built.network) for size in shape[2:]):
        return
    twin = copy.deepcopy(built.network).train()
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            run(twin, torch.zeros(shape))
    except ValueError as error:
        raise ConfigError(
            f"Network '{built.called}' cannot be trained with data.patch_size {list(shape[2:])} "
            f"and training.batch_size {built.recipe.batch_size}: a norm would see one value alone "
            f"({error}). Use larger patches, or a larger batch_size if that is 1."
        ) from error
