"""DICOM series -> volumes.

A series is the image files of one SeriesInstanceUID, or one file of many frames. Its slices are
sorted by their position along the slice normal, never by name, and refused where they do not form
a rectangular grid. Intensities are rescaled (a CT comes in HU). No name, date or other personal
entry is read.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import SimpleITK as sitk

from medstill.errors import GeometryError, NothingToSegmentError, UnreadableFileError
from medstill.volumes.dicom_headers import PIXEL_TAGS, Slice, read_header
from medstill.volumes.dicom_pixels import read_pixels
from medstill.volumes.dicom_stack import check_alike, sorted_along_normal

_NOT_IMAGES = frozenset({"SEG", "RTSTRUCT", "RTDOSE", "RTPLAN", "SR", "PR", "KO", "REG"})


@dataclass(frozen=True)
class SeriesInfo:
    """One DICOM image series on disk.

    Attributes:
        folder: Where it was looked for.
        uid: Its SeriesInstanceUID.
        description: Its SeriesDescription, or an empty text.
        modality: Its Modality, such as CT or MR.
        headers: The header of each file, in no order.
    """

    folder: Path
    uid: str
    description: str
    modality: str
    headers: tuple[Slice, ...] = field(repr=False)

    @property
    def files(self) -> tuple[Path, ...]:
        """The files, in no order."""
        return tuple(header.path for header in self.headers)

    @property
    def slices(self) -> int:
        """How many slices there are."""
        return sum(header.size[2] for header in self.headers)

    @property
    def is_scout(self) -> bool:
        """Whether it holds scout views alone."""
        return all(header.is_scout for header in self.headers)


@dataclass(frozen=True)
class DicomImage:
    """A series as a volume.

    Attributes:
        image: 3-D, rescaled by slope and intercept (CT: HU), slices along their normal.
        sources: The file of each slice in that order, or the one file of many frames.
    """

    image: sitk.Image
    sources: tuple[Path, ...]


def find_series(folder: Path) -> tuple[SeriesInfo, ...]:
    """The image series below a folder, sorted by UID; other DICOM objects and files are left out.

    Args:
        folder: A folder, those below it included; or a single file.

    Raises:
        UnreadableFileError: A DICOM image is truncated or damaged.
    """
    entries = [folder] if folder.is_file() else sorted(folder.rglob("*"))
    found: dict[str, list[Slice]] = defaultdict(list)
    for path in entries:
        header = read_header(path) if path.is_file() else None
        if header is not None and header.tags.get("modality") not in _NOT_IMAGES:
            found[header.tags.get("uid", "")].append(header)
    return tuple(
        SeriesInfo(
            folder=folder,
            uid=uid,
            description=headers[0].tags.get("description", ""),
            modality=headers[0].tags.get("modality", ""),
            headers=tuple(headers),
        )
        for uid, headers in sorted(found.items())
    )


def choose_series(folder: Path, wanted: str | None = None) -> SeriesInfo:
    """The one series of a folder, or the one that is asked for.

    Args:
        folder: A folder, those below it included; or a single file.
        wanted: A SeriesInstanceUID, a SeriesDescription, or a part of one (in any case); None
            where there is one series, beside scout views, and beside screenshots and the like
            without a place in space.

    Raises:
        UnreadableFileError: There is no series, or none such; or a damaged file.
        NothingToSegmentError: There are scout views alone, and none was asked for.
        GeometryError: Several series fit; the message lists them.
    """
    found = find_series(folder)
    if not found:
        raise UnreadableFileError(
            f"'{folder}' holds no DICOM images: expected the files of one series. "
            "Check the folder; other formats are given as a file."
        )
    fitting = _volumes(folder, found) if wanted is None else _fitting(found, wanted)
    if len(fitting) == 1:
        return fitting[0]
    if not fitting:
        raise UnreadableFileError(
            f"'{folder}' holds no series '{wanted}'. Choose one of these by SeriesInstanceUID or "
            f"description:{_rows(found)}"
        )
    asked = "one" if wanted is None else f"one that fits '{wanted}'"
    raise GeometryError(
        f"'{folder}' holds {len(fitting)} series: expected {asked}. Name one by its "
        "SeriesInstanceUID or description (medstill predict: --series), or give each a folder of "
        f"its own:{_rows(fitting)}"
    )


def read_series(series: SeriesInfo) -> DicomImage:
    """Read a DICOM series as a volume in physical space; scout views beside slices are left out.

    Args:
        series: See `choose_series`.

    Raises:
        UnreadableFileError: A damaged file.
        GeometryError: The slices form no rectangular grid: gaps, equal positions, mixed
            orientations or sizes, gantry tilt; or several files of many frames each.
        MissingExtraError: A file of many frames, and pydicom is not installed.
    """
    slices = tuple(header for header in series.headers if not header.is_scout)
    series = replace(series, headers=slices or series.headers)
    headers = series.headers
    if any(header.is_multiframe for header in headers):
        # Its geometry stands in functional groups, which GDCM reads of evenly spaced frames only.
        from medstill.volumes.dicom_frames import read_frames

        return DicomImage(read_frames(_only_file(series)), (headers[0].path,))
    if len(headers) == 1:
        image = read_pixels(headers)
        image.SetSpacing((*image.GetSpacing()[:2], headers[0].thickness_mm))
        return DicomImage(image, series.files)
    check_alike(headers, series.folder)
    ordered, step_mm = sorted_along_normal(headers, series.folder)
    sources = tuple(header.path for header in ordered)
    kinds = {tuple(header.tags.get(name) for name in PIXEL_TAGS) for header in headers}
    image = read_pixels(ordered, types_vary=len(kinds) > 1)
    image.SetSpacing((*image.GetSpacing()[:2], step_mm))
    return DicomImage(image, sources)


def _fitting(found: Sequence[SeriesInfo], wanted: str) -> tuple[SeriesInfo, ...]:
    text = wanted.casefold()
    same = tuple(one for one in found if wanted == one.uid or text == one.description.casefold())
    return same or tuple(one for one in found if text in one.description.casefold())


def _volumes(folder: Path, found: tuple[SeriesInfo, ...]) -> tuple[SeriesInfo, ...]:
    """The series that may be volumes."""
    placed = _placed(found)
    volumes = tuple(one for one in placed if not one.is_scout)
    if volumes:
        return volumes
    raise NothingToSegmentError(
        f"'{folder}' holds scout views alone (ImageType LOCALIZER): expected the slices of a "
        "volume. Give the folder of another series, or name a scout by its SeriesInstanceUID to "
        f"take it all the same (medstill predict: --series):{_rows(placed)}"
    )


def _placed(found: tuple[SeriesInfo, ...]) -> tuple[SeriesInfo, ...]:
    """The series with a place in space; all where none has one."""
    placed = tuple(
        one
        for one in found
        if any("position" in header.tags or header.is_multiframe for header in one.headers)
    )
    return placed or found


def _rows(found: Sequence[SeriesInfo]) -> str:
    return "".join(
        f"\n  {one.uid or 'no UID'}  {one.modality or '?'}  '{one.description}'  "
        f"{len(one.files)} file(s), {one.slices} slices"
        for one in found
    )


def _only_file(series: SeriesInfo) -> Slice:
    if len(series.headers) == 1:
        return series.headers[0]
    raise GeometryError(
        f"The series '{series.uid}' in '{series.folder}' has {len(series.headers)} files of many "
        "frames: expected one, since they are phases, echoes or repeats. Give each a folder of "
        "its own."
    )
