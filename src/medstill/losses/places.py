"""Places: where features are compared, what is seen there, and which of them are drawn.

Shape legend: B batch, C classes or channels, N = all places of a batch, P = drawn places,
`...` space (H W or D H W). Places are numbered through the batch: `sample * places + place`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

from medstill.config import IGNORE
from medstill.errors import ShapeError
from medstill.losses.dist import present_classes
from medstill.losses.numerics import predicted_classes

LEAST_STRIDE = 4
"""Features finer than this stride are reduced to it before they are compared."""

UNSEEN = -1
"""Class of a place that is not drawn: it is of mixed or unknown class."""


@dataclass(frozen=True)
class Scene:
    """What a batch shows and what both networks make of it, without gradients.

    `labels_B` holds 255 where nothing is known. `bare_B` says which samples are of images without
    labels, which is more than to be ignored all over; None: none of them. The logits have at least
    two classes and lie on the grid of the labels.
    """

    labels_B: Tensor
    student_BC: Tensor
    teacher_BC: Tensor
    generator: torch.Generator
    bare_B: Tensor | None = None

    @property
    def space(self) -> tuple[int, ...]:
        """Size of the images, without batch and channels."""
        return tuple(self.labels_B.shape[1:])

    @property
    def classes(self) -> int:
        """Number of classes, background included."""
        return self.teacher_BC.shape[1]

    @cached_property
    def predicted_B(self) -> Tensor:
        """The teacher's class of each place."""
        return predicted_classes(self.teacher_BC)

    @cached_property
    def answered_B(self) -> Tensor:
        """The student's class of each place."""
        return predicted_classes(self.student_BC)

    @cached_property
    def regions_B(self) -> Tensor:
        """Class of each place: the label, and the teacher's class where there is none."""
        predicted_B = self.predicted_B.to(self.labels_B.dtype)
        return torch.where(self.labels_B == IGNORE, predicted_B, self.labels_B)

    @cached_property
    def present_BC(self) -> Tensor:
        """Which classes the teacher predicts somewhere in each sample."""
        return present_classes(self.teacher_BC)

    def trusted_B(self, confidence: float) -> Tensor:
        """Class of each place that can be relied on, 255 elsewhere.

        It is the label; on an image without labels it is the teacher's class where its probability
        reaches the confidence. Ignored places of labelled images remain unknown: they are often
        padding.
        """
        if self.bare_B is None or not bool(self.bare_B.any()):
            return self.labels_B
        sure_B = self.teacher_BC.float().softmax(dim=1).amax(dim=1) >= confidence
        stand_in_B = torch.where(sure_B, self.predicted_B, IGNORE).to(self.labels_B.dtype)
        return torch.where(self.bare_B.view(-1, *[1] * len(self.space)), stand_in_B, self.labels_B)

    def wrong_N(self, classes_B: Tensor, grid: Sequence[int]) -> Tensor:
        """Places of the grid where the student is wrong about at least half of what is known."""
        wrong_B = (self.answered_B != classes_B) & (classes_B != IGNORE)
        return area_pool(wrong_B.unsqueeze(1).float(), grid).flatten() >= 0.5


def area_pool(map_BC: Tensor, grid: Sequence[int]) -> Tensor:
    """Average a map over the area of each place of a coarser grid.

    Args:
        map_BC: `(B, C, ...)` with two or three spatial axes.
        grid: Size of the coarser grid; windows overlap by a place where sizes do not divide.

    Raises:
        ShapeError: The map has another number of spatial axes than the grid.
    """
    if tuple(map_BC.shape[2:]) == tuple(grid):
        return map_BC
    if len(grid) != map_BC.dim() - 2 or len(grid) not in (2, 3):
        raise ShapeError(
            f"A map of shape {tuple(map_BC.shape)} cannot be brought to the grid {tuple(grid)}: "
            "expected (B, C, H, W) or (B, C, D, H, W) and one size per spatial axis."
        )
    if len(grid) == 2:
        return F.adaptive_avg_pool2d(map_BC, (grid[0], grid[1]))
    return F.adaptive_avg_pool3d(map_BC, (grid[0], grid[1], grid[2]))


def meet(student_BC: Tensor, teacher_BC: Tensor, space: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Bring two feature maps to the coarser grid of the two, at stride 4 or more of the image.

    Both are reduced by area pooling, axis by axis; neither is ever enlarged.

    Args:
        student_BC: `(B, C, ...)`.
        teacher_BC: `(B, C', ...)` of the same images; it is detached.
        space: Size of the images.

    Raises:
        ShapeError: The batches or the numbers of spatial axes differ.
    """
    same_batch = student_BC.shape[0] == teacher_BC.shape[0]
    if not same_batch or not student_BC.dim() == teacher_BC.dim() == len(space) + 2:
        raise ShapeError(
            f"Features of images of size {tuple(space)} must be (B, C, ...) with one B, but the "
            f"student's shape is {tuple(student_BC.shape)} and the teacher's "
            f"{tuple(teacher_BC.shape)}. Tap layers that give maps, on the same batch."
        )
    sizes = zip(student_BC.shape[2:], teacher_BC.shape[2:], space, strict=True)
    grid = tuple(min(s, t, math.ceil(image / LEAST_STRIDE)) for s, t, image in sizes)
    return area_pool(student_BC, grid), area_pool(teacher_BC.detach(), grid)


def rows(map_BC: Tensor, places_P: Tensor) -> Tensor:
    """Vectors `(P, C)` of a map `(B, C, ...)` at numbered places."""
    # Of a map in channels-last format this is a view, and the gradient keeps the format: measured
    # five times as fast, with the backward pass, as to index (B, C, N).
    return map_BC.movedim(1, -1).reshape(-1, map_BC.shape[1])[places_P]


def class_shares(classes_B: Tensor, classes: int, grid: Sequence[int]) -> Tensor:
    """Share of each class in the area of each place of a grid, `(B, C, *grid)`.

    Args:
        classes_B: Class of each place of the image; 255 belongs to no class and lowers the sum.
        classes: Number of classes.
        grid: Size of the coarser grid.
    """
    numbers_C = torch.arange(classes, dtype=classes_B.dtype, device=classes_B.device)
    mine_BC = classes_B.unsqueeze(1) == numbers_C.view(1, -1, *[1] * len(grid))
    return area_pool(mine_BC.float(), grid)


def pure_classes(shares_BC: Tensor, purity: float) -> Tensor:
    """Majority class of each place `(N,)`, or `UNSEEN` where its share is below the purity.

    Args:
        shares_BC: Class shares `(B, C, ...)`.
        purity: Least share in [0, 1]; an area with nothing known is never pure.
    """
    share, majority = shares_BC.max(dim=1)
    # A mean of ones may round to just below one.
    pure = (share >= purity - 1e-6) & (share > 0)
    return torch.where(pure, majority, UNSEEN).flatten()


def draw_places(map_BC: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """Numbers of at most `most` places of a batch, without repetition; all when there are fewer.

    Args:
        map_BC: A map `(B, C, ...)` of which only the size matters.
        most: Places of a batch.
        generator: The only source of randomness, on the CPU.
    """
    places = map_BC.shape[0] * math.prod(map_BC.shape[2:])
    return torch.randperm(places, generator=generator)[:most].to(map_BC.device)


def draw_balanced(
    classes_N: Tensor, hard_N: Tensor, *, most: int, hard_share: float, generator: torch.Generator
) -> Tensor:
    """Numbers of places, equally many of each class, a share of them hard, in random order.

    Each class that is there gets `most // classes there` places, or all it has. Of these the given
    share is hard as far as there are hard ones; what one kind lacks the other fills up.

    Args:
        classes_N: Class of each place; `UNSEEN` is never drawn.
        hard_N: Whether a place is hard.
        most: Upper bound of the number drawn.
        hard_share: In [0, 1].
        generator: The only source of randomness, on the CPU.

    Returns:
        Distinct numbers `(P,)`, P <= most; empty when no place has a class.
    """
    there = [number for number in torch.unique(classes_N).tolist() if number != UNSEEN]
    if not there:
        return torch.zeros(0, dtype=torch.long, device=classes_N.device)
    # Fewer places than classes would leave a quota of none.
    quota = max(most // len(there), 1)
    drawn = [
        _draw_class(classes_N == number, hard_N, quota, hard_share, generator) for number in there
    ]
    return _shuffled(torch.cat(drawn), generator)[:most]


def _draw_class(
    mine_N: Tensor, hard_N: Tensor, quota: int, hard_share: float, generator: torch.Generator
) -> Tensor:
    hard = _shuffled((mine_N & hard_N).nonzero().flatten(), generator)
    easy = _shuffled((mine_N & ~hard_N).nonzero().flatten(), generator)
    wanted = min(round(hard_share * quota), len(hard))
    n_easy = min(quota - wanted, len(easy))
    return torch.cat((hard[: quota - n_easy], easy[:n_easy]))


def _shuffled(values: Tensor, generator: torch.Generator) -> Tensor:
    order = torch.randperm(len(values), generator=generator)
    return values[order.to(values.device)]
