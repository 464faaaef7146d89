"""DICOM series -> volumes.

A series is the image files of one SeriesInstanceUID. Its slices are sorted by their position along
the slice normal, never by name, and refused where they do not form a rectangular grid. Intensities
are rescaled (a CT comes in HU). No name, date or other personal entry is read.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from medstill.errors import GeometryError, UnreadableFileError
from medstill.volumes.checks import check_spacing, is_dicom, quiet, truncated

STEP_TOLERANCE = 0.1
"""How far a step between slices may differ from the median step, as a share of it."""
DUPLICATE_TOLERANCE_MM = 0.01
"""Slices nearer than this have the same position."""
DIRECTION_TOLERANCE = 1e-3
"""How far a direction cosine may differ between the slices of a series."""
SHIFT_TOLERANCE = 0.5
"""How far a slice may lie beside the normal through the first, in units of the pixel spacing."""

_NOT_IMAGES = frozenset({"SEG", "RTSTRUCT", "RTDOSE", "RTPLAN", "SR", "PR", "KO", "REG"})
_TAGS = {
    "uid": "0020|000e",
    "description": "0008|103e",
    "modality": "0008|0060",
    "position": "0020|0032",
    "orientation": "0020|0037",
    "spacing": "0028|0030",
    "slope": "0028|1053",
    "intercept": "0028|1052",
}
_IMAGE_CLASS = re.compile(rb"1\.2\.840\.10008\.5\.1\.4\.1\.1\.(\d+)")
# Storage classes without a pixel matrix: waveforms, presentation states, reports, radiotherapy.
_OTHER_CLASSES = frozenset({b"9", b"11", b"66", b"67", b"68", b"88", b"104", b"481"})


@dataclass(frozen=True)
class Series:
    """The files of one DICOM series, in no order."""

    uid: str
    description: str
    modality: str
    files: tuple[Path, ...] = field(repr=False)


@dataclass(frozen=True)
class _Slice:
    path: Path
    tags: dict[str, str]
    size: tuple[int, ...]

    def numbers(self, name: str, count: int) -> tuple[float, ...]:
        """A tag of several numbers.

        Raises:
            GeometryError: It is missing or holds another count.
        """
        try:
            values = tuple(float(part) for part in self.tags.get(name, "").split("\\"))
        except ValueError:
            values = ()
        if len(values) != count:
            raise GeometryError(
                f"'{self.path}': expected {count} numbers in the DICOM tag ({_TAGS[name]}, "
                f"{name}), found '{self.tags.get(name, '')}'. Without them slices have no place "
                "in space; export the series anew, or convert it to PNG if it is a picture."
            )
        return values


def list_series(folder: Path) -> tuple[Series, ...]:
    """The image series below a folder, sorted by UID; other DICOM objects and files are left out.

    Raises:
        UnreadableFileError: A DICOM image is truncated or damaged.
    """
    return tuple(
        Series(
            uid=uid,
            description=slices[0].tags.get("description", ""),
            modality=slices[0].tags.get("modality", ""),
            files=tuple(item.path for item in slices),
        )
        for uid, slices in sorted(_by_series(folder).items())
    )


def read_series(folder: Path, series_uid: str | None = None) -> sitk.Image:
    """Read a DICOM series as a volume in physical space.

    Args:
        folder: A folder; folders below it are searched as well.
        series_uid: The SeriesInstanceUID to read; may be None when there is one series.

    Returns:
        A 3-D image, rescaled by slope and intercept (CT: HU), slices sorted along their normal.

    Raises:
        UnreadableFileError: No series, no such series, or a damaged file.
        GeometryError: Several series without a choice; or slices that form no rectangular grid:
            gaps, equal positions, mixed orientations or sizes, gantry tilt.
    """
    slices = _choose(_by_series(folder), folder, series_uid)
    if len(slices) == 1:
        return _read([slices[0].path], rescale_varies=False)
    _check_alike(slices, folder)
    ordered, step_mm = _sorted_along_normal(slices, folder)
    varies = len({(item.tags.get("slope"), item.tags.get("intercept")) for item in slices}) > 1
    image = _read([item.path for item in ordered], rescale_varies=varies)
    image.SetSpacing((*image.GetSpacing()[:2], step_mm))
    return image


def _by_series(folder: Path) -> dict[str, list[_Slice]]:
    found: dict[str, list[_Slice]] = defaultdict(list)
    for path in sorted(entry for entry in folder.rglob("*") if entry.is_file()):
        item = _read_header(path)
        if item is not None and item.tags.get("modality") not in _NOT_IMAGES:
            found[item.tags.get("uid", "")].append(item)
    return dict(found)


def _read_header(path: Path) -> _Slice | None:
    """The header of a DICOM image, or None for any other file."""
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
        for name, tag in _TAGS.items()
        if reader.HasMetaDataKey(tag)
    }
    return _Slice(path, tags, tuple(reader.GetSize()))


def _should_be_image(path: Path) -> bool:
    if not is_dicom(path):
        return False
    with path.open("rb") as file:
        found = _IMAGE_CLASS.search(file.read(4096))
    return found is not None and found[1] not in _OTHER_CLASSES


def _choose(found: dict[str, list[_Slice]], folder: Path, uid: str | None) -> list[_Slice]:
    if uid is not None and uid in found:
        return found[uid]
    if uid is None and len(found) == 1:
        return next(iter(found.values()))
    if not found:
        raise UnreadableFileError(
            f"'{folder}' holds no DICOM images: expected the files of one series. "
            "Check the folder; other formats are given as a file."
        )
    rows = "".join(
        f"\n  {key}  {slices[0].tags.get('modality', '?')}  "
        f"'{slices[0].tags.get('description', '')}'  {len(slices)} files"
        for key, slices in sorted(found.items())
    )
    if uid is not None:
        raise UnreadableFileError(
            f"'{folder}' holds no series '{uid}'. Choose one of these SeriesInstanceUIDs:{rows}"
        )
    raise GeometryError(
        f"'{folder}' holds {len(found)} series: expected one. Name one by its SeriesInstanceUID, "
        f"or give each a folder of its own:{rows}"
    )


def _check_alike(slices: Sequence[_Slice], folder: Path) -> None:
    """Demand one size, one pixel spacing and one orientation."""
    first = slices[0]
    orientation = np.array(first.numbers("orientation", 6))
    for item in slices[1:]:
        if item.size != first.size or not np.allclose(
            item.numbers("spacing", 2), first.numbers("spacing", 2), rtol=1e-3
        ):
            raise GeometryError(
                f"'{folder}' mixes slices of different size or pixel spacing: expected "
                f"{first.size[:2]} of {first.tags.get('spacing')} mm as in '{first.path.name}', "
                f"found {item.size[:2]} of {item.tags.get('spacing')} mm in '{item.path.name}'. "
                "Remove the slices that do not belong to the series (such as a scout view)."
            )
        if np.abs(item.numbers("orientation", 6) - orientation).max() > DIRECTION_TOLERANCE:
            raise GeometryError(
                f"'{folder}' has mixed orientations: expected direction cosines equal to "
                f"{DIRECTION_TOLERANCE:g}, found {first.tags['orientation']} in "
                f"'{first.path.name}' and {item.tags['orientation']} in '{item.path.name}'. "
                "Remove the slices that do not belong to the series (such as a scout view)."
            )


def _sorted_along_normal(slices: Sequence[_Slice], folder: Path) -> tuple[list[_Slice], float]:
    """The slices in order, and the step between two of them in mm."""
    orientation = np.array(slices[0].numbers("orientation", 6))
    normal = np.cross(orientation[:3], orientation[3:])
    positions = np.array([item.numbers("position", 3) for item in slices])
    along = positions @ normal
    order = np.argsort(along, kind="stable")
    ordered = [slices[index] for index in order]
    steps = np.diff(along[order])
    _check_steps(steps, ordered, folder)
    pixel_mm = min(slices[0].numbers("spacing", 2))
    _check_tilt(positions[order], normal, pixel_mm, folder)
    return ordered, float(steps.mean())


def _check_steps(steps: NDArray[np.float64], ordered: Sequence[_Slice], folder: Path) -> None:
    same = np.flatnonzero(steps < DUPLICATE_TOLERANCE_MM)
    if len(same):
        first, second = ordered[same[0]], ordered[same[0] + 1]
        raise GeometryError(
            f"'{folder}' has slices at the same position ({len(same)} times): expected one slice "
            f"per position, found '{first.path.name}' and '{second.path.name}' at "
            f"{first.tags['position']}. If these are phases or repeats, give each a folder of its "
            "own; otherwise remove the copies."
        )
    median = float(np.median(steps))
    uneven = np.flatnonzero(np.abs(steps - median) > STEP_TOLERANCE * median)
    if len(uneven):
        first, second = ordered[uneven[0]], ordered[uneven[0] + 1]
        raise GeometryError(
            f"'{folder}' has a gap or uneven slices ({len(uneven)} of {len(steps)} steps): "
            f"expected steps of {median:g} mm within {STEP_TOLERANCE:.0%}, found "
            f"{steps[uneven[0]]:g} mm between '{first.path.name}' and '{second.path.name}'. "
            "Add the missing slices, or resample the series to an even spacing."
        )


def _check_tilt(
    positions: NDArray[np.float64], normal: NDArray[np.float64], pixel_mm: float, folder: Path
) -> None:
    offsets = positions - positions[0]
    beside_mm = np.linalg.norm(offsets - np.outer(offsets @ normal, normal), axis=1)
    worst = int(beside_mm.argmax())
    if beside_mm[worst] <= SHIFT_TOLERANCE * pixel_mm:
        return
    angle = math.degrees(math.atan2(beside_mm[worst], abs(float(offsets[worst] @ normal))))
    raise GeometryError(
        f"'{folder}' was taken with a tilted gantry: expected slices stacked along their normal, "
        f"at most {SHIFT_TOLERANCE:g} pixel beside it, found {beside_mm[worst]:.3g} mm "
        f"({angle:.1f} degrees). Correct the tilt first (for example with dcm2niix)."
    )


def _read(paths: Sequence[Path], *, rescale_varies: bool) -> sitk.Image:
    with quiet():
        try:
            if len(paths) == 1:
                image = _read_file(paths[0])
            else:
                reader = sitk.ImageSeriesReader()
                reader.SetFileNames([str(path) for path in paths])
                if rescale_varies:
                    # ITK takes the pixel type of the first slice for all of them.
                    reader.SetOutputPixelType(sitk.sitkFloat32)
                image = reader.Execute()
        except RuntimeError as error:
            raise truncated(paths[0].parent, "whole DICOM images", str(error)[-120:]) from error
    check_spacing(paths[0].parent, image.GetSpacing())
    for key in image.GetMetaDataKeys():
        image.EraseMetaData(key)
    return image


def _read_file(path: Path) -> sitk.Image:
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(path))
    image: sitk.Image = reader.Execute()
    return image
