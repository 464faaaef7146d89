"""Which modality a channel is: by its name, else by its file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from medstill.volumes.dicom import find_series
from medstill.volumes.formats import is_flat
from medstill.volumes.io import read_image

CT_BELOW_HU = -500.0
"""An image that reaches below it is taken for a CT: air is at -1000 HU, and MR has no such."""

_BY_NAME = {
    "ct": "ct",
    "mr": "mr",
    "mri": "mr",
    "t1": "mr",
    "t1w": "mr",
    "t1c": "mr",
    "t1ce": "mr",
    "t1gd": "mr",
    "t2": "mr",
    "t2w": "mr",
    "flair": "mr",
    "adc": "mr",
    "dwi": "mr",
    "pd": "mr",
    "rgb": "colour",
    "color": "colour",
    "colour": "colour",
    "gray": "gray",
    "grey": "gray",
    "grayscale": "gray",
}


@dataclass(frozen=True)
class Guess:
    """A modality and how it was found."""

    modality: str
    reason: str


def modalities_of_names(names: Sequence[str]) -> tuple[str, ...] | None:
    """The modality of each channel by its name in `dataset.json`, or None if one is unknown."""
    found = [_BY_NAME.get(_word(name)) for name in names]
    known = tuple(name for name in found if name is not None)
    return known if known and len(known) == len(names) else None


def guess_modality(path: Path) -> Guess:
    """The modality of a file or DICOM folder.

    Raises:
        DataError: It cannot be read.
    """
    if path.is_dir():
        by_tag = _BY_NAME.get(_word(next((s.modality for s in find_series(path)), "")))
        if by_tag:
            return Guess(by_tag, f"'{by_tag}' by the DICOM tag Modality")
    image = read_image(path)
    if image.GetNumberOfComponentsPerPixel() == 3:
        return Guess("colour", "'colour' guessed: the file has three components")
    if is_flat(path):
        return Guess("gray", "'gray' guessed: the file is a picture")
    least = float(np.min(sitk.GetArrayViewFromImage(image)))
    modality = "ct" if least < CT_BELOW_HU else "mr"
    sign = "<" if modality == "ct" else ">="
    return Guess(
        modality,
        f"'{modality}' guessed: the least intensity of '{path.name}' is {least:g} {sign} "
        f"{CT_BELOW_HU:g}; set data.modality if that is wrong",
    )


def _word(name: str) -> str:
    word = name.strip().lower()
    return word if word in _BY_NAME else word.replace("-", " ").replace("_", " ").split(" ")[0]
