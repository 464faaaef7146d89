"""Where training samples are taken from prepared cases, and how they are read.

Axes: C channels, Z Y X space. In 2-D a patch is one slice (`patch_zyx[0] == 1`). Every draw depends
on the generator passed in and on nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medstill.config import IGNORE
from medstill.errors import DataError
from medstill.patches.grid import Float32Array, Index, centred_start, extract_padded, overlap_slices
from medstill.volumes.records import LabelArray, PreparedCase


@dataclass(frozen=True)
class PatchLocation:
    """A patch of one case. `start_zyx` may be negative: what lies outside the image is padded."""

    case_index: int
    """Position of the case in the sequence that was drawn from."""
    start_zyx: Index


def draw_location(
    cases: Sequence[PreparedCase],
    generator: np.random.Generator,
    *,
    patch_zyx: Index,
    foreground_share: float,
    classes: Sequence[int],
) -> PatchLocation:
    """Draw where the next training sample is taken.

    With probability `foreground_share`: a class uniformly among those that any case has, a case
    uniformly among those that have it, one of its `places`, and a patch uniformly among all
    patches of the image that contain the place. Rare and small classes so come as often as large
    ones. Otherwise, or where no case has a class: a case uniformly, then a position uniformly.

    Axes that are shorter than the patch are centred and padded, as they are at prediction.

    Args:
        cases: Prepared cases; those without labels take part in the uniform draw only.
        generator: The only source of randomness.
        patch_zyx: Size of a patch in voxels.
        foreground_share: Probability of a sample that contains a foreground class.
        classes: The class values that count as foreground.

    Raises:
        DataError: There is no case.
    """
    require_cases(cases)
    wants_foreground = generator.random() < foreground_share
    present = [value for value in classes if _having(cases, value)] if wants_foreground else []
    if not present:
        case_index = int(generator.integers(len(cases)))
        z, y, x = (
            _uniform_start(size, patch, generator)
            for size, patch in zip(_size_zyx(cases[case_index]), patch_zyx, strict=True)
        )
        return PatchLocation(case_index, (z, y, x))
    value = present[int(generator.integers(len(present)))]
    having = _having(cases, value)
    case_index = having[int(generator.integers(len(having)))]
    places = cases[case_index].places[value]
    place = places[int(generator.integers(len(places)))]
    z, y, x = (
        _start_around(int(voxel), size, patch, generator)
        for voxel, size, patch in zip(place, _size_zyx(cases[case_index]), patch_zyx, strict=True)
    )
    return PatchLocation(case_index, (z, y, x))


def require_cases(cases: Sequence[object]) -> None:
    """Refuse to draw from nothing.

    Raises:
        DataError: There is no case.
    """
    if not cases:
        raise DataError(
            "Expected at least one case to draw training samples from, but there is none. "
            "Check the split and the label fraction."
        )


def extract(
    case: PreparedCase, location: PatchLocation, patch_zyx: Index, pad_value: float
) -> tuple[Float32Array, LabelArray]:
    """Read one training sample; only the region needed is read from disk.

    Voxels outside the image are background (0) in the label, not ignored: the network has to say
    background outside the field of view, where it will be asked as well. A case without a label
    is 255 (ignore) everywhere.

    Returns:
        Image `(C, *patch_zyx)` float32 and label `patch_zyx` uint8, both new arrays.
    """
    start_zyx = location.start_zyx
    image_CZYX = extract_padded(case.image_CZYX, start_zyx, patch_zyx, pad_value)
    if case.label_ZYX is None:
        return image_CZYX, np.full(patch_zyx, IGNORE, dtype=np.uint8)
    label_ZYX = np.zeros(patch_zyx, dtype=np.uint8)
    inside, there = overlap_slices(case.label_ZYX.shape, start_zyx, patch_zyx)
    label_ZYX[inside] = case.label_ZYX[there]
    return image_CZYX, label_ZYX


def _having(cases: Sequence[PreparedCase], value: int) -> list[int]:
    return [i for i, case in enumerate(cases) if len(case.places.get(value, ())) > 0]


def _size_zyx(case: PreparedCase) -> tuple[int, ...]:
    return case.image_CZYX.shape[1:]


def _uniform_start(size: int, patch: int, generator: np.random.Generator) -> int:
    if size <= patch:
        return centred_start(size, patch)
    return int(generator.integers(0, size - patch + 1))


def _start_around(voxel: int, size: int, patch: int, generator: np.random.Generator) -> int:
    if size <= patch:
        return centred_start(size, patch)
    low = max(voxel - patch + 1, 0)
    high = min(voxel, size - patch)
    return int(generator.integers(low, high + 1))
