"""Headers of DICOM images: what decides where a slice lies, and nothing about a person."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import SimpleITK as sitk

from medstill.errors import GeometryError
from medstill.volumes.checks import is_dicom, quiet, truncated

TAGS = {
    "class": "0008|0016",
    "uid": "0020|000e",
    "description": "0008|103e",
    "modality": "0008|0060",
    "position": "0020|0032",
    "orientation": "0020|0037",
    "spacing": "0028|0030",
    "thickness": "0018|0050",
    "slope": "0028|1053",
    "intercept": "0028|1052",
    "signed": "0028|0103",
    "bits_stored": "0028|0101",
    "bits_allocated": "0028|0100",
}
PIXEL_TAGS = ("slope", "intercept", "signed", "bits_stored", "bits_allocated")
"""What decides which pixel type GDCM gives a file; a slice that lacks one is another kind."""

_META_CLASS = re.compile(rb"\x02\x00\x02\x00UI..1\.2\.840\.10008\.5\.1\.4\.1\.1\.(\d+)", re.DOTALL)
_DECIMAL = re.compile(r"[0-9+\-Ee. ]+")
"""The characters of a DS. Python takes more for a number, such as `nan` and `1_0`."""
# Storage classes without a pixel matrix: waveforms, presentation states, reports, radiotherapy.
_OTHER_CLASSES = frozenset({b"9", b"11", b"66", b"67", b"68", b"88", b"104", b"481"})
_ENHANCED = re.compile(r"1\.2\.840\.10008\.5\.1\.4\.1\.1\.(2\.[12]|4\.[134]|128\.1|130)")
"""Enhanced and legacy converted CT, MR and PET: geometry and rescale stand by frame."""


@dataclass(frozen=True)
class Slice:
    """The header of one slice: a file, or a frame of a file of many.

    Attributes:
        path: The file.
        tags: Texts of `TAGS`, where they are there.
        size: Columns, rows and frames of the file.
        frame: Number of the frame from 0; None for a whole file.
    """

    path: Path
    tags: dict[str, str]
    size: tuple[int, ...]
    frame: int | None = None

    @property
    def name(self) -> str:
        """What messages call it."""
        return self.path.name + ("" if self.frame is None else f" frame {self.frame + 1}")

    @property
    def is_multiframe(self) -> bool:
        """Whether the file holds frames with a place of their own each."""
        return self.size[2] > 1 or bool(_ENHANCED.fullmatch(self.tags.get("class", "")))

    @property
    def thickness_mm(self) -> float:
        """Thickness of the slice where it stands, else 1."""
        found = _decimal(self.tags.get("thickness", ""))
        return found if found is not None and found > 0 else 1.0

    def numbers(self, name: str, count: int) -> tuple[float, ...]:
        """A tag of several numbers.

        Raises:
            GeometryError: It is missing, holds another count, or what is no finite number.
        """
        found = [_decimal(part) for part in self.tags.get(name, "").split("\\")]
        values = tuple(value for value in found if value is not None)
        if not len(values) == len(found) == count:
            place = "" if self.frame is None else f" of frame {self.frame + 1}"
            raise GeometryError(
                f"'{self.path}': expected {count} numbers in the DICOM tag ({TAGS[name]}, "
                f"{name}){place}, found '{self.tags.get(name, '')}'. Without them slices have no "
                "place in space; export the series anew, or convert it to PNG if it is a picture."
            )
        return values


def read_header(path: Path) -> Slice | None:
    """The header of a DICOM image, or None for any other file.

    Raises:
        UnreadableFileError: A DICOM image is truncated or damaged.
    """
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(path))
    with quiet():
        try:
            reader.ReadImageInformation()
        except RuntimeError as error:
            if _should_be_image(path):
                raise truncated(path, "a whole DICOM image", "a damaged header") from error
            return None
    tags = {
        name: reader.GetMetaData(tag).strip(" \0")
        for name, tag in TAGS.items()
        if reader.HasMetaDataKey(tag)
    }
    size = (*reader.GetSize(), 1, 1)
    return Slice(path, tags, tuple(int(length) for length in size[:3]))


def text_of(values: Sequence[object]) -> str:
    """Values as DICOM writes several of them."""
    return "\\".join(str(value) for value in values)


def _decimal(text: str) -> float | None:
    """A number as DICOM writes it (DS); None for whatever is no finite one."""
    try:
        value = float(text) if _DECIMAL.fullmatch(text) else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _should_be_image(path: Path) -> bool:
    if not is_dicom(path):
        return False
    with path.open("rb") as file:
        found = _META_CLASS.search(file.read(4096))
    return found is not None and found[1] not in _OTHER_CLASSES
