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
    "charset": "0008|0005",
    "frame_of_reference": "0020|0052",
    "class": "0008|0016",
    "image_type": "0008|0008",
    "uid": "0020|000e",
    "description": "0008|103e",
    "modality": "0008|0060",
    "position": "0020|0032",
    "orientation": "0020|0037",
    "spacing": "0028|0030",
    "thickness": "0018|0050",
    "slope": "0028|1053",
    "intercept": "0028|1052",
    "photometric": "0028|0004",
    "signed": "0028|0103",
    "bits_stored": "0028|0101",
    "bits_allocated": "0028|0100",
}
RESCALE = {"slope": "RescaleSlope", "intercept": "RescaleIntercept"}
"""Names in `TAGS` -> keywords of the standard."""
PIXEL_TAGS = ("slope", "intercept", "signed", "bits_stored", "bits_allocated")
"""What decides which pixel type GDCM gives a file; a slice that lacks one is another kind."""

_META_CLASS = re.compile(
    rb"\x02\x00\x02\x00UI..1\.2\.840\.10008\.5\.1\.4\.1\.1\.([\d.]+)", re.DOTALL
)
_CODECS = {
    "ISO_IR 100": "iso8859-1",
    "ISO_IR 101": "iso8859-2",
    "ISO_IR 109": "iso8859-3",
    "ISO_IR 110": "iso8859-4",
    "ISO_IR 144": "iso8859-5",
    "ISO_IR 127": "iso8859-6",
    "ISO_IR 126": "iso8859-7",
    "ISO_IR 138": "iso8859-8",
    "ISO_IR 148": "iso8859-9",
    "ISO_IR 203": "iso8859-15",
    "ISO_IR 166": "iso8859-11",
    "ISO_IR 13": "shift_jis",
    "GB18030": "gb18030",
    "GBK": "gbk",
}
"""Python's names of the single character sets of PS3.3, C.12.1.1.2."""
_DECIMAL = re.compile(r"[0-9+\-Ee. ]+")
"""The characters of a DS. Python takes more for a number, such as `nan` and `1_0`."""
_IMAGE_CLASS = re.compile(
    rb"(1|1\.[\d.]+|2|2\.[12]|3\.1|4|4\.[134]|5|6\.[12]|7|7\.[1-4]|12\.[\d.]+|13\.1\.[\d.]+|20"
    rb"|77\.1\.[\d.]+|128|128\.1|130)"
)
"""Storage classes of images, behind 1.2.840.10008.5.1.4.1.1: projections, CT, MR, ultrasound,
secondary captures, angiography, nuclear medicine, visible light, PET (PS3.4, B.5). Others may lack
pixels."""
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
    def is_scout(self) -> bool:
        """Whether it is a localizer, also called scout view or topogram (PS3.3, C.8.2.1.1.1)."""
        return "LOCALIZER" in self.tags.get("image_type", "").split("\\")

    @property
    def thickness_mm(self) -> float:
        """Thickness of the slice where it stands, else 1."""
        found = _decimal(self.tags.get("thickness", ""))
        return found if found is not None and found > 0 else 1.0

    @property
    def rescale(self) -> tuple[float, float]:
        """Slope and intercept as GDCM takes them: without a value, or a slope of 0, 1 and 0."""
        slope, intercept = (_decimal(self.tags.get(name, "")) for name in ("slope", "intercept"))
        return slope or 1.0, intercept or 0.0

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
    if "description" in tags:
        tags["description"] = _decoded(tags["description"], tags.get("charset", ""))
    size = (*reader.GetSize(), 1, 1)
    return Slice(path, tags, tuple(int(length) for length in size[:3]))


def text_of(values: Sequence[object]) -> str:
    """Values as DICOM writes several of them."""
    return "\\".join(str(value) for value in values)


def _decoded(text: str, charset: str) -> str:
    """A text in the character set that its file declares; SimpleITK takes all for UTF-8."""
    codec = _CODECS.get(charset.split("\\")[0], "utf-8")
    return text.encode("utf-8", "surrogateescape").decode(codec, "replace")


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
    return found is not None and _IMAGE_CLASS.fullmatch(found[1]) is not None
