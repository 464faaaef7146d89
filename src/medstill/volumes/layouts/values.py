"""Class names for label files whose layout names no classes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from medstill.errors import DataError, LabelError
from medstill.volumes.io import read_label

MOST_VALUES = 255
_WIDEST_RANGE = 1 << 20


def names_of_values(values: Iterable[int]) -> dict[str, int]:
    """Names for the values found: `foreground` if there is one, else `label-1`, `label-2`, ..."""
    foreground = sorted(set(values) - {0})
    if len(foreground) == 1:
        return {"background": 0, "foreground": foreground[0]}
    return {"background": 0, **{f"label-{value}": value for value in foreground}}


def values_in(paths: Sequence[Path]) -> dict[Path, frozenset[int] | DataError]:
    """The values of each label file, or why it cannot be read."""
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        return dict(zip(paths, pool.map(_values, paths), strict=True))


def count_values(label: sitk.Image) -> dict[int, int]:
    """The voxels of each value of an integer label volume."""
    # The view does not keep the image's memory alive: `label` must outlive it.
    view_ZYX = sitk.GetArrayViewFromImage(label)
    least, most = int(view_ZYX.min()), int(view_ZYX.max())
    if most - least > _WIDEST_RANGE:
        values, counts = np.unique(view_ZYX, return_counts=True)
        return {int(value): int(count) for value, count in zip(values, counts, strict=True)}
    voxels = np.zeros(most - least + 1, dtype=np.int64)
    # Slice by slice: as indices, a whole volume would take eight bytes a voxel.
    for plane in view_ZYX:
        voxels += np.bincount((plane.astype(np.int64) - least).ravel(), minlength=len(voxels))
    return {int(index) + least: int(voxels[index]) for index in np.flatnonzero(voxels)}


def _values(path: Path) -> frozenset[int] | DataError:
    try:
        label = read_label(path)
    except DataError as error:
        return error
    found = count_values(label)
    if len(found) > MOST_VALUES:
        return LabelError(
            f"The label '{path}' holds {len(found)} different values: expected one per class, at "
            f"most {MOST_VALUES}. Is this an image, or a label saved with lossy compression?"
        )
    return frozenset(found)
