"""Overlap of two label volumes, class by class, from counts of voxels.

Shape legend: Z Y X space, C classes with the background first. All metrics are shares in [0, 1],
greater is better. Voxels whose truth is `IGNORE` (255) leave every count.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medstill.config import IGNORE
from medstill.errors import LabelError, ShapeError

Counts = NDArray[np.int64]
Labels = NDArray[np.integer[Any]]
Values = NDArray[np.float64]


@dataclass(frozen=True)
class VoxelCounts:
    """Voxels of each class: in the truth, in the prediction, and in both at the same place."""

    truth_C: Counts
    predicted_C: Counts
    both_C: Counts

    def dice(self) -> Values:
        """`2 |A and B| / (|A| + |B|)`; NaN where both masks are empty."""
        return _share(2 * self.both_C, self.truth_C + self.predicted_C)

    def iou(self) -> Values:
        """`|A and B| / |A or B|`; NaN where both masks are empty."""
        return _share(self.both_C, self.truth_C + self.predicted_C - self.both_C)

    def recall(self) -> Values:
        """`|A and B| / |A|` with A the truth; NaN where the truth is empty."""
        return _share(self.both_C, self.truth_C)

    def precision(self) -> Values:
        """`|A and B| / |B|` with B the prediction; NaN where the prediction is empty."""
        return _share(self.both_C, self.predicted_C)


def count_voxels(truth_ZYX: Labels, prediction_ZYX: Labels, n_classes: int) -> VoxelCounts:
    """Count the voxels of each class.

    Args:
        truth_ZYX: Class values `0 .. n_classes - 1`, or 255 for voxels that are not counted.
        prediction_ZYX: Class values of the same shape.
        n_classes: Number of classes, background included.

    Raises:
        ShapeError: The two shapes differ.
        LabelError: A value lies outside the classes.
    """
    check_shapes(truth_ZYX, prediction_ZYX)
    # Most voxels are background in both; only the others are counted one by one.
    seen = (truth_ZYX != 0) | (prediction_ZYX != 0)
    truth, prediction = truth_ZYX[seen], prediction_ZYX[seen]
    known = truth != IGNORE
    truth, prediction = truth[known], prediction[known]
    for name, values in (("truth", truth), ("prediction", prediction)):
        if values.size and (values.max() >= n_classes or values.min() < 0):
            wrong = sorted({int(v) for v in np.unique(values) if not 0 <= v < n_classes})
            raise LabelError(
                f"The {name} holds the values {wrong}, but there are only the classes "
                f"0 to {n_classes - 1}. Map its labels to these classes first."
            )
    pairs = truth.astype(np.intp) * n_classes + prediction
    table = np.bincount(pairs, minlength=n_classes**2).reshape(n_classes, n_classes)
    table[0, 0] = truth_ZYX.size - np.count_nonzero(seen)
    return VoxelCounts(table.sum(axis=1), table.sum(axis=0), np.diag(table).copy())


def dice_by_class(truth_ZYX: Labels, prediction_ZYX: Labels, n_classes: int) -> Values:
    """Dice of each class `(n_classes,)`, background first.

    Returns:
        Shares in [0, 1]; 0 where a class is in one of the two only, NaN where it is in neither.

    Raises:
        ShapeError: The two shapes differ.
        LabelError: A value lies outside the classes.

    >>> truth = np.array([[[0, 1, 1, 2]]], np.uint8)
    >>> dice_by_class(truth, np.array([[[0, 1, 0, 0]]], np.uint8), 4).round(3).tolist()
    [0.5, 0.667, 0.0, nan]
    """
    return count_voxels(truth_ZYX, prediction_ZYX, n_classes).dice()


def mean_by_class(dice_of_cases: Sequence[Values], classes: Sequence[str]) -> dict[str, float]:
    """Mean over cases of the Dice of each foreground class.

    Args:
        dice_of_cases: What `dice_by_class` gave for each case, `(len(classes),)`.
        classes: Class names in the order of their values, background first.

    Returns:
        Class name -> mean over the cases that have the class in truth or prediction; a class
        that no case has is left out.

    Raises:
        LabelError: No case has any foreground class.

    >>> mean_by_class([np.array([1, 0.5, np.nan]), np.array([1, 0, np.nan])], ("bg", "a", "b"))
    {'a': 0.25}
    """
    found = {}
    for value, name in enumerate(classes[1:], start=1):
        scored = [float(dice[value]) for dice in dice_of_cases if not np.isnan(dice[value])]
        if scored:
            found[name] = math.fsum(scored) / len(scored)
    if not found:
        raise LabelError(
            f"None of the classes {list(classes[1:])} is in any of the {len(dice_of_cases)} cases "
            "to score, so nothing can be chosen by them. Use other validation patients."
        )
    return found


def check_shapes(truth_ZYX: NDArray[Any], prediction_ZYX: NDArray[Any]) -> None:
    """Refuse two label volumes of different shapes.

    Raises:
        ShapeError: The two shapes differ.
    """
    if truth_ZYX.shape != prediction_ZYX.shape:
        raise ShapeError(
            f"Truth and prediction must have one shape (z, y, x), but the truth is "
            f"{truth_ZYX.shape} and the prediction {prediction_ZYX.shape}. "
            "Resample the prediction to the grid of the truth."
        )


def _share(part: Counts, whole: Counts) -> Values:
    found = np.full(part.shape, np.nan)
    np.divide(part, whole, out=found, where=whole > 0)
    return found
