"""Training samples: a patch is a function of (seed, step, sample), whoever loads it and when.

With `training.views` (seed, step, sample) decide which of the fixed views of the cases is taken.

Shape legend: C channels; `...` = Y X in 2-D, Z Y X in 3-D.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate, get_worker_info

from medstill.config import IGNORE, TrainingConfig
from medstill.patches.sampling import draw_location
from medstill.training.cache import CaseName, ViewCache, name_of
from medstill.training.frozen import Said
from medstill.training.seeds import Stream, array_generator
from medstill.training.views import (
    Kinds,
    ViewDraw,
    ViewMemory,
    augmented,
    make_view,
    view_kinds,
)
from medstill.volumes.records import Preparation, PreparedCase
from medstill.volumes.store import PreparedSet, open_set


@dataclass(frozen=True)
class SampleSource:
    """Where samples come from and how they are drawn.

    `unlabelled` cases add `unlabelled_batch` samples with every label set to ignore to each batch.
    """

    root: Path
    labelled: tuple[str, ...]
    recipe: TrainingConfig
    seed: int
    spatial_dims: int
    unlabelled: tuple[str, ...] = ()
    unlabelled_batch: int = 0
    cache: ViewCache | None = None
    """Views with what the teacher says of them; needs `recipe.views`."""

    @property
    def samples_per_step(self) -> int:
        """Labelled and unlabelled samples of one batch."""
        return self.recipe.batch_size + self.unlabelled_batch

    def bare(self, rank: int = 0, ranks: int = 1) -> Tensor:
        """Which samples of one rank's share of a batch are of images without labels, `(B,)`."""
        return torch.arange(rank, self.samples_per_step, ranks) >= self.recipe.batch_size


Sample = tuple[Tensor, Tensor, *tuple[Said, ...]]


class PatchSamples(Dataset[Sample]):
    """Maps a running number `step * samples_per_step + sample` to an augmented patch.

    An item is an image `(C, ...)` float32 and a label `(...)` int64, and with a cache what the
    teacher says of them.
    """

    def __init__(self, source: SampleSource) -> None:
        self.source = source

    def __len__(self) -> int:
        return self.source.recipe.steps * self.source.samples_per_step

    def __getitem__(self, number: int) -> Sample:
        step, sample = divmod(number, self.source.samples_per_step)
        if sample < self.source.recipe.batch_size:
            image, label, *said = self._draw("data", step, sample, self._labelled)
            return image, label.long(), *said
        image, label, *said = self._draw("unlabelled", step, sample, self._unlabelled)
        return image, torch.full_like(label, IGNORE, dtype=torch.long), *said

    def __getstate__(self) -> dict[str, SampleSource]:
        # Memory maps would be copied into a spawned loader process; it opens its own.
        return {"source": self.source}

    @property
    def preparation(self) -> Preparation:
        """How the images were prepared."""
        return self._set.preparation

    def series(self) -> dict[CaseName, tuple[PreparedCase, Kinds]]:
        """The fixed views of every case: the case and the kind of each view."""
        pools = ((self._labelled, "data"), (self._unlabelled, "unlabelled"))
        return {
            name_of(case): (case, kinds)
            for cases, stream in pools
            for case, kinds in zip(cases, self._views[stream].kinds, strict=True)
        }

    @cached_property
    def _set(self) -> PreparedSet:
        return open_set(self.source.root)

    @cached_property
    def _labelled(self) -> tuple[PreparedCase, ...]:
        return tuple(self._set.open(name) for name in self.source.labelled)

    @cached_property
    def _unlabelled(self) -> tuple[PreparedCase, ...]:
        cases = (self._set.open(name) for name in self.source.unlabelled)
        return tuple(replace(case, label_ZYX=None, places={}) for case in cases)

    @cached_property
    def _views(self) -> Mapping[str, ViewDraw]:
        """How fixed views are drawn, by stream."""
        preparation, recipe = self._set.preparation, self.source.recipe
        pools = {"data": self._labelled, "unlabelled": self._unlabelled}
        return {
            stream: ViewDraw(tuple(view_kinds(case, preparation, recipe) for case in cases))
            for stream, cases in pools.items()
        }

    @cached_property
    def _made(self) -> ViewMemory:
        """The views made before; loader processes, which may be many, keep none."""
        return ViewMemory() if get_worker_info() is None else ViewMemory(limit_bytes=0)

    def _draw(
        self, stream: Stream, step: int, sample: int, cases: tuple[PreparedCase, ...]
    ) -> Sample:
        recipe, preparation = self.source.recipe, self._set.preparation
        generator = array_generator(stream, self.source.seed, step, sample)
        if recipe.views:
            draw = self._views[stream]
            index, number = draw(generator, recipe.foreground_share)
            case, kind = cases[index], int(draw.kinds[index][number])
            if self.source.cache:
                return self.source.cache.row(name_of(case), number)
            return self._made(
                (name_of(case), number), lambda: make_view(case, number, kind, preparation, recipe)
            )
        location = draw_location(
            cases,
            generator,
            patch_zyx=preparation.patch_zyx,
            foreground_share=recipe.foreground_share,
            classes=range(1, len(preparation.classes)),
        )
        case = cases[location.case_index]
        return augmented(case, location, generator, preparation, recipe)


class StepBatches(Sampler[list[int]]):
    """The running numbers of each batch from one step to another, one rank's share of them.

    Nothing is drawn here: a run that starts at a later step sees what it would have seen.
    """

    def __init__(self, source: SampleSource, start: int, rank: int = 0, ranks: int = 1) -> None:
        super().__init__()
        self.source, self.start, self.rank, self.ranks = source, start, rank, ranks

    def __len__(self) -> int:
        return max(0, self.source.recipe.steps - self.start)

    def __iter__(self) -> Iterator[list[int]]:
        size = self.source.samples_per_step
        for step in range(self.start, self.source.recipe.steps):
            yield [step * size + sample for sample in range(self.rank, size, self.ranks)]


def plain_batches(source: SampleSource, batches: int = 16) -> Iterator[Tensor | Said]:
    """The images `(B, C, ...)` of the first batches, to compute something from before training.

    With a cache it is what the teacher says of them.
    """
    samples = PatchSamples(source)
    size = source.samples_per_step
    for step in range(min(batches, source.recipe.steps)):
        found = [samples[step * size + sample] for sample in range(size)]
        yield default_collate([sample[-1] if source.cache else sample[0] for sample in found])


def loader(
    source: SampleSource, start: int, *, workers: int, rank: int = 0, ranks: int = 1
) -> DataLoader[Sample]:
    """Batches `(B, C, ...)` and `(B, ...)` from step `start` to the recipe's last."""
    return DataLoader(
        PatchSamples(source),
        batch_sampler=StepBatches(source, start, rank, ranks),
        num_workers=workers,
        multiprocessing_context="spawn" if workers else None,
        prefetch_factor=4 if workers else None,
    )
