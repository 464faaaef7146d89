"""Overlap of two label volumes, class by class, from counts of voxels.

Shape legend: Z Y X space, C classes with the background first. All metrics are shares in [0, 1],
greater is better. Voxels whose truth is `IGNORE` (255) leave every count.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medstill.config import IGNORE
from medstill.errors import LabelError, ShapeError

Counts = NDArray[np.int64]
Labels = NDArray[np.integer[Any]]


@dataclass(frozen=True)
class VoxelCounts:
    """Voxels of each class: in the truth, in the prediction, and in both at the same place."""

    truth_C: Counts
    predicted_C: Counts
    both_C: Counts

    def dice(self) -> NDArray[np.float64]:
        """`2 |A and B| / (|A| + |B|)`; NaN where both masks are empty."""
        return _share(2 * self.both_C, self.truth_C + self.predicted_C)

    def iou(self) -> NDArray[np.float64]:
        """`|A and B| / |A or B|`; NaN where both masks are empty."""
        return _share(self.both_C, self.truth_C + self.predicted_C - self.both_C)

    def recall(self) -> NDArray[np.float64]:
        """`|A and B| / |A|` with A the truth; NaN where the truth is empty."""
        return _share(self.both_C, self.truth_C)

    def precision(self) -> NDArray[np.float64]:
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


def dice_by_class(truth_ZYX: Labels, prediction_ZYX: Labels, n_classes: int) -> NDArray[np.float64]:
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


def _share(part: Counts, whole: Counts) -> NDArray[np.float64]:
    found = np.full(part.shape, np.nan)
    np.divide(part, whole, out=found, where=whole > 0)
    return found
