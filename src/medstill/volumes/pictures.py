"""One slice of a scan with its labels, to look at: the slice with most foreground.

Pictures lie in the LPS frame, whatever the orientation of the scan: rows run from front to back,
columns from the patient's right to the left. Shape legend: Y rows, X columns.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from medstill.config import IGNORE
from medstill.errors import GeometryError
from medstill.volumes.geometry import (
    array_CZYX,
    canonical,
    geometry_of,
    spacing_zyx_mm,
)
from medstill.volumes.intensity import scale
from medstill.volumes.records import ORIENTATION, ChannelIntensity, Preparation

UNSCALED = "none"
"""The intensity that leaves values as they are; a picture still needs a range."""


def picture_of(
    image: sitk.Image, truth: sitk.Image, preparation: Preparation
) -> dict[str, NDArray[Any]]:
    """The slice with most foreground, as bytes.

    Args:
        image: 3-D scan; its components are the channels.
        truth: Class values on the same grid, 255 for ignore, which is no foreground.
        preparation: Its intensity decides what is black and white, as the network sees it.

    Returns:
        `image` uint8 `(Y, X)`, or `(Y, X, 3)` for colour; `truth` uint8 `(Y, X)`; `z` the index of
        the slice in the LPS frame; `spacing_yx_mm` of the pixels. The middle slice if there is no
        foreground; of several channels that are not colour the first.

    Raises:
        GeometryError: Image and truth differ in size.
        IntensityError: The image does not suit the preparation's intensity.
    """
    if image.GetSize() != truth.GetSize():
        raise GeometryError(
            f"Expected a truth of the size of its image, {image.GetSize()} (x, y, z); found "
            f"{truth.GetSize()}. Correct the pairing of images and labels."
        )
    oriented, label = canonical(image, ORIENTATION), canonical(truth, ORIENTATION)
    raw_CZYX, truth_ZYX = array_CZYX(oriented), array_CZYX(label)[0]
    z = fullest_slice(truth_ZYX)
    colour = len(raw_CZYX) == 3 and preparation.intensity[0].kind == "colour"
    shown = range(3) if colour else range(1)
    channels = [_bytes(raw_CZYX[c], preparation.intensity[c], z) for c in shown]
    _, y_mm, x_mm = spacing_zyx_mm(geometry_of(oriented))
    return {
        "image": np.stack(channels, axis=-1) if colour else channels[0],
        "truth": truth_ZYX[z].astype(np.uint8),
        "z": np.asarray(z),
        "spacing_yx_mm": np.asarray((y_mm, x_mm)),
    }


def fullest_slice(truth_ZYX: NDArray[Any]) -> int:
    """Index along Z of the slice with most foreground; the middle one if there is none."""
    foreground_Z = ((truth_ZYX != 0) & (truth_ZYX != IGNORE)).sum(axis=(1, 2))
    return int(foreground_Z.argmax()) if foreground_Z.any() else len(truth_ZYX) // 2


def _bytes(raw_ZYX: NDArray[Any], intensity: ChannelIntensity, z: int) -> NDArray[np.uint8]:
    """One slice between black and white; the whole volume decides the percentiles."""
    if intensity.kind == UNSCALED:
        intensity = ChannelIntensity(kind="percentiles", low=0.5, high=99.5)
    scaled_YX = scale(raw_ZYX, intensity)[z]
    return np.asarray(np.rint(scaled_YX * 255), dtype=np.uint8)
