"""Losses against the labels: soft Dice over the foreground classes and cross-entropy.

Shape legend: B batch, C classes (background included), N places, `...` space (H W or D H W).
"""

from __future__ import annotations

from typing import Self

from torch import Tensor, nn

from medstill.config import IGNORE, TrainingConfig
from medstill.errors import LabelError, ShapeError, unknown_name
from medstill.losses.classsums import ClassSums, class_sums
from medstill.losses.numerics import as_class_logits, in_full_precision

DICE = "segmentation/dice"
CROSS_ENTROPY = "segmentation/cross_entropy"
DICE_OVER = ("batch", "sample")
"""The sums that the Dice loss divides: over the whole batch, or over each sample."""


@in_full_precision
def soft_dice(
    logits_BC: Tensor, labels_B: Tensor, *, over: str = "batch", smooth: float = 1.0
) -> Tensor:
    """One minus the soft Dice coefficient, mean over the foreground classes.

    Per class `1 - (2 sum p t + smooth) / (sum p + sum t + smooth)`, p the probability and t the
    truth. A class that is absent from the truth keeps its place in the mean: its value is
    `1 - smooth / (sum p + smooth)`, so false positives are punished and nothing else is.

    Args:
        logits_BC: Logits `(B, C, ...)`; one channel z counts as (0, z).
        labels_B: Class of each place `(B, ...)`; places of value 255 are left out of every sum.
        over: `batch` sums over all samples before the division, `sample` divides per sample and
            takes the mean over the samples that have any label.
        smooth: Added to numerator and denominator.

    Returns:
        Scalar in [0, 1]; 0 with gradient 0 when every place is ignored.

    Raises:
        ShapeError: The labels do not lie on the grid of the logits.
        LabelError: A label names no class.
        UnknownNameError: `over` is neither `batch` nor `sample`.

    References:
        Milletari et al., V-Net, arXiv:1606.04797; here with plain instead of squared sums below.
    """
    if over not in DICE_OVER:
        raise unknown_name("way to sum the Dice loss", over, DICE_OVER)
    logits_BC = as_class_logits(logits_BC)
    _require_labels(logits_BC, labels_B)
    return _dice(class_sums(logits_BC, labels_B), over, smooth)


@in_full_precision
def cross_entropy(logits_BC: Tensor, labels_B: Tensor, *, balance: float = 0.0) -> Tensor:
    """Mean cross-entropy of the places that have a label.

    With a balance b it is `(1 - b)` times the mean over places plus b times the mean over classes
    of each class's own mean; the classes are those that the batch has, background included. A class
    of few places then weighs as much as a large one.

    Args:
        logits_BC: Logits `(B, C, ...)`; one channel z counts as (0, z).
        labels_B: Class of each place `(B, ...)`; 255 is left out.
        balance: From 0 (places weigh alike) to 1 (classes weigh alike).

    Returns:
        Scalar in nats, >= 0; log C for a uniform guess; 0 with gradient 0 when every place is
        ignored.

    Raises:
        ShapeError: The labels do not lie on the grid of the logits.
        LabelError: A label names no class.
    """
    logits_BC = as_class_logits(logits_BC)
    _require_labels(logits_BC, labels_B)
    return _surprise(class_sums(logits_BC, labels_B), balance)


class SegmentationLoss(nn.Module):
    """Both terms against the labels, by name; `L_seg` is their sum.

    Args:
        classes: Number of classes C, background included.
        dice_over: `batch` or `sample`; see `soft_dice`.
        class_balance: See `cross_entropy`.

    Raises:
        UnknownNameError: `dice_over` is neither of the two.
    """

    def __init__(
        self, *, classes: int, dice_over: str = "batch", class_balance: float = 0.0
    ) -> None:
        super().__init__()
        if dice_over not in DICE_OVER:
            raise unknown_name("way to sum the Dice loss", dice_over, DICE_OVER)
        self.classes = classes
        self.dice_over = dice_over
        self.class_balance = class_balance

    @classmethod
    def of(cls, recipe: TrainingConfig, *, classes: int, spatial_dims: int) -> Self:
        """The terms as a recipe wants them; `auto` sums Dice over the batch in 2-D only."""
        over: str = recipe.dice_over
        if over == "auto":
            over = "batch" if spatial_dims == 2 else "sample"
        return cls(classes=classes, dice_over=over, class_balance=recipe.class_balance)

    def forward(self, logits_BC: Tensor, labels_B: Tensor) -> dict[str, Tensor]:
        """The terms `segmentation/dice` and `segmentation/cross_entropy`, unweighted.

        Args:
            logits_BC: Logits `(B, C, ...)`, or one channel for two classes.
            labels_B: Class of each place `(B, ...)`, 255 where ignored.

        Raises:
            ShapeError: Logits for another number of classes, or labels on another grid.
            LabelError: A label names no class.
        """
        logits_BC = as_class_logits(logits_BC)
        if logits_BC.shape[1] != self.classes:
            raise ShapeError(
                f"Expected logits for {self.classes} classes, but their shape is "
                f"{tuple(logits_BC.shape)}. Build the network for the classes of the data."
            )
        _require_labels(logits_BC, labels_B)
        sums = class_sums(logits_BC, labels_B)
        return {
            DICE: _dice(sums, self.dice_over, smooth=1.0),
            CROSS_ENTROPY: _surprise(sums, self.class_balance),
        }


def _dice(sums: ClassSums, over: str, smooth: float) -> Tensor:
    both_BC, either_BC = sums.both[:, 1:], (sums.mass + sums.count)[:, 1:]
    if over == "batch":
        return _one_minus_dice(both_BC.sum(dim=0), either_BC.sum(dim=0), smooth).mean()
    loss_B = _one_minus_dice(both_BC, either_BC, smooth).mean(dim=1)
    labelled_B = sums.count.sum(dim=1) > 0
    return (loss_B * labelled_B).sum() / labelled_B.sum().clamp_min(1)


def _one_minus_dice(both: Tensor, either: Tensor, smooth: float) -> Tensor:
    return 1 - (2 * both + smooth) / (either + smooth)


def _surprise(sums: ClassSums, balance: float) -> Tensor:
    """Cross-entropy; the weights of all places of a batch add up to 1."""
    count_C, surprise_C = sums.count.sum(dim=0), sums.surprise.sum(dim=0)
    mean = surprise_C.sum() / count_C.sum().clamp_min(1)
    if not balance:
        return mean
    by_class = (surprise_C / count_C.clamp_min(1)).sum() / (count_C > 0).sum().clamp_min(1)
    return (1 - balance) * mean + balance * by_class


def _require_labels(logits_BC: Tensor, labels_B: Tensor) -> None:
    expected = (logits_BC.shape[0], *logits_BC.shape[2:])
    if tuple(labels_B.shape) != expected:
        raise ShapeError(
            f"Logits of shape {tuple(logits_BC.shape)} need labels of shape {expected}, but the "
            f"labels' shape is {tuple(labels_B.shape)}. Leave out the channel axis of the labels."
        )
    classes = logits_BC.shape[1]
    strange = (labels_B >= classes) & (labels_B != IGNORE) | (labels_B < 0)
    if bool(strange.any()):
        raise LabelError(
            f"Labels must be 0 to {classes - 1}, or {IGNORE} for ignored places, but there is a "
            f"{int(labels_B[strange][0])}. Prepare the data with the classes of this network."
        )
