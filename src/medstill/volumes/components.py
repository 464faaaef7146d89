"""Connected components of label volumes."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from medstill.config import IGNORE
from medstill.volumes.records import LabelArray


def largest_components(label_ZYX: LabelArray) -> LabelArray:
    """Keep the largest connected component of each class; the rest becomes background.

    Voxels that share a face, an edge or a corner are connected. Of components of one size the
    first in memory order stays.

    Args:
        label_ZYX: Class values `(z, y, x)`, 0 for background.

    Returns:
        A new label volume of the same shape and type.
    """
    kept = np.where(label_ZYX == IGNORE, label_ZYX, np.zeros_like(label_ZYX))
    for value in np.unique(label_ZYX):
        if value in (0, IGNORE):
            continue
        mask = label_ZYX == value
        box = _box_around(mask)
        image = sitk.GetImageFromArray(mask[box].astype(np.uint8))
        components = sitk.GetArrayFromImage(sitk.ConnectedComponent(image, True))
        sizes = np.bincount(components.ravel())
        kept[box][components == int(np.argmax(sizes[1:])) + 1] = value
    return kept


def _box_around(mask_ZYX: NDArray[np.bool_]) -> tuple[slice, ...]:
    sides = []
    for axis in range(mask_ZYX.ndim):
        others = tuple(other for other in range(mask_ZYX.ndim) if other != axis)
        places = np.flatnonzero(mask_ZYX.any(axis=others))
        sides.append(slice(int(places[0]), int(places[-1]) + 1))
    return tuple(sides)
