"""Fill a cache: show the frozen teacher every view that a training can draw."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from medstill.config import StudentConfig, Study, content_hash
from medstill.losses.places import LEAST_STRIDE
from medstill.networks import Ensemble
from medstill.training.cache import CaseName, Rows, ViewCache, rows_of
from medstill.training.checkpoint import weights_hash
from medstill.training.data import PatchSamples, SampleSource
from medstill.training.frozen import LOGITS, FrozenTeacher, Said, TeacherView
from medstill.training.layers import kept_names, tapped_layers
from medstill.training.memory import kept_memory
from medstill.training.tasks import Place
from medstill.training.views import make_view
from medstill.volumes.store import open_set

log = logging.getLogger(__name__)

FORMAT = 1
"""Counts up when files of the same key would hold something else."""


Answering = Mapping[str, tuple[int, ...]]
"""Case -> which members of an ensemble answer for it."""


@kept_memory()
def filled_cache(
    study: Study,
    student: StudentConfig,
    teacher: nn.Module,
    source: SampleSource,
    folder: Path,
    answering: Answering | None = None,
) -> ViewCache:
    """The cache of all views of a source below `folder`; what is missing is computed now.

    The teacher sees batches of `training.batch_size` as it would during training: a network's
    last bits may depend on the size of the batch.

    Args:
        study: Gives what is kept, in which precision, and the device.
        student: Its layers decide which of the teacher's are kept.
        teacher: A trained teacher.
        source: The cases and the recipe.
        folder: Folder of caches; each has a folder of its own in it.
        answering: Members of the teacher, an `Ensemble`, that answer for each case of the source
            and for no other; None lets the teacher as a whole answer.

    Raises:
        StorageError: The disk is full or not writable.
    """
    layers = _layers(study, student)
    cache = ViewCache(folder / _key(study, layers, teacher, source, answering))
    filler = _Filler(study, _Teachers(teacher, layers, answering), source)
    cache.fill(filler.wanted(), filler.rows)
    return cache


def kept_views(
    study: Study,
    student: StudentConfig,
    teacher: nn.Module,
    source: SampleSource,
    folder: Path,
    answering: Answering | None = None,
) -> ViewCache | None:
    """The cache that `filled_cache` filled, with the same arguments; None if any of it is missing.

    Nothing is written.
    """
    layers = _layers(study, student)
    cache = ViewCache(folder / _key(study, layers, teacher, source, answering))
    wanted = {name: len(kinds) for name, (_, kinds) in PatchSamples(source).series().items()}
    return cache if cache.holds(wanted) else None


def answer(study: Study, student: StudentConfig, teacher: nn.Module, image_BC: Tensor) -> Said:
    """What a cache would keep of some images, `(B, ..., C)` by name; computed on the CPU."""
    place = Place(image_BC.device, image_BC.dim() - 2)
    frozen = FrozenTeacher(teacher, _layers(study, student), reduced=True)
    frozen.to(place.device, place.memory_format)
    return _kept(frozen(place.put(image_BC)), study.distillation.cache)


def _layers(study: Study, student: StudentConfig) -> dict[str, str]:
    names, pairs = kept_names(study, student), tapped_layers(study, student)
    return {names[scale]: pair.teacher for scale, pair in pairs.items()}


def _kept(view: TeacherView, numbers: str) -> dict[str, Tensor]:
    dtype = torch.float16 if numbers == "float16" else torch.float32
    most = torch.finfo(dtype).max
    return {
        name: map_BC.clamp(-most, most).to(dtype).movedim(1, -1)
        for name, map_BC in {LOGITS: view.logits_BC, **view.features}.items()
    }


def _key(
    study: Study,
    layers: Mapping[str, str],
    teacher: nn.Module,
    source: SampleSource,
    answering: Answering | None,
) -> str:
    prepared = open_set(source.root)
    recipe = source.recipe
    return content_hash(
        {
            "format": FORMAT,
            "teacher": weights_hash(teacher),
            "layers": dict(layers),
            "stride": LEAST_STRIDE,
            "numbers": study.distillation.cache,
            "precision": recipe.precision,
            "prepared": [prepared.data_hash, prepared.preparation.model_dump(mode="json")],
            "views": [recipe.views, recipe.foreground_share],
            "augmentation": recipe.augmentation.model_dump(mode="json"),
            **({"answering": dict(answering)} if answering else {}),
        }
    )


class _Teachers:
    """The teacher, or of an ensemble those of its members that answer for a case."""

    def __init__(
        self, teacher: nn.Module, layers: Mapping[str, str], answering: Answering | None
    ) -> None:
        self._teacher = teacher
        self._layers = layers
        self._answering = answering

    def answering_for(self, case: str) -> FrozenTeacher:
        """Who answers for a case."""
        network = self._teacher
        if self._answering is not None:
            assert isinstance(network, Ensemble)
            network = Ensemble([network.members[n] for n in self._answering[case]])
        return FrozenTeacher(network, self._layers, reduced=True)


class _Filler:
    """Computes the rows of a case."""

    def __init__(self, study: Study, teachers: _Teachers, source: SampleSource) -> None:
        self.numbers = study.distillation.cache
        self.teachers = teachers
        self.recipe = source.recipe
        self.samples = PatchSamples(source)
        self.series = self.samples.series()
        self.fabric = Fabric(
            accelerator=study.engine.accelerator,
            devices=1,
            precision=source.recipe.precision,
        )
        self.place = Place(self.fabric.device, source.spatial_dims)

    def wanted(self) -> dict[CaseName, int]:
        """Views of every case."""
        return {name: len(kinds) for name, (_, kinds) in self.series.items()}

    def rows(self, name: CaseName) -> Iterator[Rows]:
        """The rows of a case, batch by batch."""
        case, kinds = self.series[name]
        size, views = self.recipe.batch_size, len(kinds)
        teacher = self.teachers.answering_for(name.case)
        teacher.to(self.place.device, self.place.memory_format)
        log.info("the teacher looks at %d views of case %s", views, name.case)
        for start in range(0, views, size):
            # The last batch is filled up from the beginning: every batch has the same size.
            numbers = np.arange(start, start + size) % views
            pairs = [
                make_view(case, int(n), int(kinds[n]), self.samples.preparation, self.recipe)
                for n in numbers
            ]
            image_BC, label_B = (torch.stack(parts) for parts in zip(*pairs, strict=True))
            with self.fabric.autocast():
                view = teacher(self.place.put(image_BC))
            said = {name: part.cpu() for name, part in _kept(view, self.numbers).items()}
            yield rows_of(image_BC, label_B, said)[: views - start]
