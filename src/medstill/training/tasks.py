"""What one training step computes: the teacher's task and the student's.

Shape legend: B batch, C channels or classes, `...` = Y X in 2-D, Z Y X in 3-D.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from medstill.config import PretrainingConfig, ReconstructionConfig, TrainingConfig
from medstill.losses import (
    Objective,
    SegmentationLoss,
    SignedDistance,
    mask_blocks,
    reconstruction_loss,
)
from medstill.losses.numerics import as_class_logits, predicted_classes
from medstill.networks import run
from medstill.networks.taps import Taps
from medstill.training.frozen import FrozenTeacher, KeptTeacher, Said, TeacherView
from medstill.training.seeds import torch_generator
from medstill.volumes.records import Preparation


@dataclass(frozen=True)
class StepResult:
    """Every loss term by name, unweighted, and their weighted sum."""

    total: Tensor
    terms: Mapping[str, Tensor]
    weights: Mapping[str, float] = field(default_factory=dict)
    """Term -> its weight at this step, where that is not 1."""


@dataclass(frozen=True)
class Place:
    """Where tensors are computed and in which memory format."""

    device: torch.device
    spatial_dims: int

    @property
    def memory_format(self) -> torch.memory_format:
        """Channels last: measured 1.1 to 2.7 times as fast as channels first on a CPU."""
        return torch.channels_last if self.spatial_dims == 2 else torch.channels_last_3d

    def put(self, image_BC: Tensor) -> Tensor:
        """An image batch `(B, C, ...)` on the device and in the memory format."""
        return image_BC.to(device=self.device, memory_format=self.memory_format)


class Task(Protocol):
    """What the Lightning module trains."""

    network: nn.Module

    def compute(
        self,
        image_BC: Tensor,
        label_B: Tensor,
        step: int,
        said: Said | None = None,
        *,
        bare_B: Tensor | None = None,
    ) -> StepResult:
        """The loss of one batch; every random choice is a function of the seed and `step`.

        `said` is what a teacher said of the batch, if that is kept. `bare_B` says which samples
        are of images whose labels are not looked at; None: of none.
        """
        ...

    def before_training(self, place: Place, batches: Iterable[Tensor | Said] | None) -> None:
        """Move what is no module to its place; compute what is needed once.

        `batches` are images `(B, C, ...)` to compute it from, or what a teacher said of them; None
        when training is taken up again, since the checkpoint holds the result.
        """
        ...


class TeacherTask(nn.Module):
    """All tasks in one forward pass: `L_T = L_seg + w MSE + v (error of the signed distances)`.

    The head of the distances is no part of the network, so that it leaves with the task.
    """

    def __init__(
        self,
        network: nn.Module,
        segmentation: SegmentationLoss,
        reconstruction: ReconstructionConfig,
        seed: int,
        *,
        distance: SignedDistance | None = None,
        distance_weight: float = 0.0,
        distance_layer: str = "",
    ) -> None:
        super().__init__()
        self.network = network
        self.segmentation = segmentation
        self.reconstruction = reconstruction
        self.seed = seed
        self.distance = distance
        self.distance_weight = distance_weight
        self.layers = {"D": distance_layer} if distance else {}

    def compute(
        self,
        image_BC: Tensor,
        label_B: Tensor,
        step: int,
        said: Said | None = None,
        *,
        bare_B: Tensor | None = None,
    ) -> StepResult:
        """See `Task.compute`."""
        del said, bare_B
        settings = self.reconstruction
        seen_BC = image_BC
        if settings.weight and settings.mask_ratio:
            generator = torch_generator("loss", self.seed, step)
            seen_BC = mask_blocks(image_BC, settings.mask_ratio, settings.mask_block, generator)
        with Taps(self.network, self.layers) as taps:
            output = run(self.network, seen_BC)
            features = dict(taps.features)
        terms = dict(self.segmentation(output.logits, label_B))
        total = torch.stack(list(terms.values())).sum()
        if settings.weight and output.reconstruction is not None:
            terms["reconstruction"] = reconstruction_loss(output.reconstruction, image_BC)
            total = total + settings.weight * terms["reconstruction"]
        weights = {"reconstruction": settings.weight}
        if self.distance is not None:
            terms["signed_distance"] = self.distance(features["D"], label_B)
            total = total + self.distance_weight * terms["signed_distance"]
            weights["signed_distance"] = self.distance_weight
        return StepResult(total, terms, weights)

    def before_training(self, place: Place, batches: Iterable[Tensor | Said] | None) -> None:
        """Nothing is needed."""


class PretrainingTask(nn.Module):
    """Give the clean image back from one with masked blocks; labels are not looked at.

    `network` answers with as many channels as the image has.
    """

    def __init__(self, network: nn.Module, settings: PretrainingConfig, seed: int) -> None:
        super().__init__()
        self.network = network
        self.settings = settings
        self.seed = seed

    def compute(
        self,
        image_BC: Tensor,
        label_B: Tensor,
        step: int,
        said: Said | None = None,
        *,
        bare_B: Tensor | None = None,
    ) -> StepResult:
        """See `Task.compute`."""
        del label_B, said, bare_B
        generator = torch_generator("pretraining", self.seed, step)
        settings = self.settings
        seen_BC = mask_blocks(image_BC, settings.mask_ratio, settings.mask_block, generator)
        error = reconstruction_loss(run(self.network, seen_BC).logits, image_BC)
        return StepResult(error, {"reconstruction": error})

    def before_training(self, place: Place, batches: Iterable[Tensor | Said] | None) -> None:
        """Nothing is needed."""


class StudentTask(nn.Module):
    """A student's step. The arms differ in `objective`, `teacher` and `pseudo_labels` alone."""

    def __init__(
        self,
        network: nn.Module,
        objective: Objective,
        seed: int,
        layers: Mapping[str, str],
        teacher: FrozenTeacher | KeptTeacher | None,
        reconstruction_weight: float = 0.0,
        pseudo_labels: bool = False,
    ) -> None:
        super().__init__()
        self.network = network
        self.objective = objective
        self.pseudo_labels = pseudo_labels
        self.seed = seed
        self.layers = dict(layers)
        self.reconstruction_weight = reconstruction_weight
        self._kept = teacher if isinstance(teacher, KeptTeacher) else None
        online = teacher if isinstance(teacher, FrozenTeacher) else None
        self._teacher: Callable[[Tensor], TeacherView] | None = online
        self._move_teacher = online.to if online else None

    def compute(
        self,
        image_BC: Tensor,
        label_B: Tensor,
        step: int,
        said: Said | None = None,
        *,
        bare_B: Tensor | None = None,
    ) -> StepResult:
        """See `Task.compute`."""
        with Taps(self.network, self.layers) as taps:
            output = run(self.network, image_BC)
            features = dict(taps.features)
        view = self._view(image_BC, said)
        if bare_B is None:
            bare_B = torch.zeros(len(label_B), dtype=torch.bool, device=label_B.device)
        if view and self.pseudo_labels:
            label_B = with_answers(label_B, view.logits_BC, bare_B)
        terms = self.objective(
            output.logits,
            label_B,
            student_features=features,
            teacher_logits_BC=view.logits_BC if view else None,
            teacher_features=view.features if view else {},
            generator=torch_generator("loss", self.seed, step),
            bare_B=bare_B,
        )
        total = self.objective.total(terms, step)
        weights = self.objective.weights_at(step)
        if self.reconstruction_weight and output.reconstruction is not None:
            # Images that only a distilled student sees must not give it more of this task.
            seen_B = ~bare_B.to(image_BC.device)
            terms["reconstruction"] = _mean_error(output.reconstruction[seen_B], image_BC[seen_B])
            total = total + self.reconstruction_weight * terms["reconstruction"]
            weights["reconstruction"] = self.reconstruction_weight
        return StepResult(total, terms, weights)

    def before_training(self, place: Place, batches: Iterable[Tensor | Said] | None) -> None:
        """Move the teacher to the device and fit its embeddings where a loss needs them."""
        if self._move_teacher:
            self._move_teacher(place.device, place.memory_format)
        if batches is not None and self.objective.needs_embeddings:
            self.objective.fit_embeddings(self._features(place, batch) for batch in batches)

    def _view(self, image_BC: Tensor, said: Said | None) -> TeacherView | None:
        if self._kept and said is not None:
            return self._kept(said)
        return self._teacher(image_BC) if self._teacher else None

    def _features(self, place: Place, batch: Tensor | Said) -> Mapping[str, Tensor]:
        if isinstance(batch, Tensor):
            view = self._view(place.put(batch), None)
        else:
            said = {name: value.to(place.device) for name, value in batch.items()}
            view = self._kept(said) if self._kept else None
        return view.features if view else {}


def with_answers(label_B: Tensor, teacher_BC: Tensor, bare_B: Tensor) -> Tensor:
    """Labels in which the images that have none carry the teacher's classes.

    Ignored places of labelled images stay ignored, be it a whole patch.

    Args:
        label_B: `(B, ...)`.
        teacher_BC: The teacher's logits `(B, C, ...)` of the same images; one channel z counts as
            (0, z).
        bare_B: Which of them are of images without labels.
    """
    answer_B = predicted_classes(as_class_logits(teacher_BC)).to(label_B.dtype)
    return torch.where(bare_B.view(-1, *[1] * (label_B.dim() - 1)), answer_B, label_B)


def _mean_error(reconstruction_BC: Tensor, image_BC: Tensor) -> Tensor:
    """The reconstruction's error; 0, with a gradient of 0, over no sample at all."""
    if not len(image_BC):
        return reconstruction_BC.float().sum()
    return reconstruction_loss(reconstruction_BC, image_BC)


def segmentation_loss(recipe: TrainingConfig, preparation: Preparation) -> SegmentationLoss:
    """The terms against the labels, as a recipe wants them."""
    return SegmentationLoss.of(
        recipe, classes=len(preparation.classes), spatial_dims=preparation.spatial_dims
    )
