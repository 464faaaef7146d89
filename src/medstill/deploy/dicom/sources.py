"""The images that a label map was made from, as what is written about it must name them."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom import Dataset

from medstill.deploy.dicom.completing import MADE_UP, NEEDED, complete
from medstill.errors import DataError, GeometryError, UnreadableFileError
from medstill.volumes.checks import truncated
from medstill.volumes.dicom_frames import frame_headers
from medstill.volumes.dicom_headers import Slice, text_of
from medstill.volumes.dicom_stack import (
    DIRECTION_TOLERANCE,
    SHIFT_TOLERANCE,
    SPACING_TOLERANCE,
    STEP_TOLERANCE,
)
from medstill.volumes.geometry import array_CZYX
from medstill.volumes.grids import GRID_TOLERANCE
from medstill.volumes.records import LabelArray

_OF_A_SLICE: Final = {
    "position": "ImagePositionPatient",
    "orientation": "ImageOrientationPatient",
    "spacing": "PixelSpacing",
}
_READ: Final = (
    "Modality",
    "Rows",
    "Columns",
    "SliceThickness",
    "BurnedInAnnotation",
    "LossyImageCompression",
    "LossyImageCompressionRatio",
    "LossyImageCompressionMethod",
    *NEEDED,
    *MADE_UP,
    *_OF_A_SLICE.values(),
)


@dataclass(frozen=True)
class Plane:
    """One slice of the label map in the sources.

    Attributes:
        dataset: The object that holds the image of the slice, without its pixels.
        path: Its file.
        frame: Number of the frame from 0 in an object of many; None for a single slice.
        z: Index of the slice in the label map.
    """

    dataset: Dataset
    path: Path
    frame: int | None
    z: int


@dataclass(frozen=True)
class Sources:
    """The objects of a series and how a label map lies on them.

    Attributes:
        datasets: The objects in the order given, one a slice, or one of many frames. Attributes
            that the standard demands are filled in where they are missing.
        planes: Every slice, in the order of the objects or frames.
        label: The label map.
    """

    datasets: tuple[Dataset, ...]
    planes: tuple[Plane, ...]
    label: sitk.Image

    @property
    def first(self) -> Dataset:
        """The object that patient and study are copied from."""
        return self.datasets[0]

    def labels(self) -> LabelArray:
        """The label map `(planes, Y, X)` in the order of `planes`."""
        label_ZYX = array_CZYX(self.label)[0]
        return np.ascontiguousarray(label_ZYX[[plane.z for plane in self.planes]], dtype=np.uint8)


def read_sources(paths: Sequence[Path], label: sitk.Image) -> Sources:
    """Read the headers of the images and find each slice of the label map among them.

    Args:
        paths: The files of the slices, or the one file of many frames.
        label: The label map on their grid.

    Raises:
        UnreadableFileError: A file is truncated or damaged.
        DataError: An object lacks what the standard demands, or several have one UID.
        GeometryError: The label map lies on another grid than the images.
    """
    datasets = [_read(path, whole=not index) for index, path in enumerate(paths)]
    complete(datasets, paths)
    headers = [
        (dataset, header)
        for dataset, path in zip(datasets, paths, strict=True)
        for header in _headers(dataset, path)
    ]
    places = _places([header for _, header in headers], label)
    if sorted(places) != list(range(label.GetSize()[2])):
        raise GeometryError(
            f"The label map has {label.GetSize()[2]} slices: expected one for each of the "
            f"{len(headers)} images of '{paths[0].parent}', found {len(set(places))} that "
            "coincide with an image. Give the files that the image was read from."
        )
    planes = tuple(
        Plane(dataset, header.path, header.frame, place)
        for (dataset, header), place in zip(headers, places, strict=True)
    )
    for dataset in datasets:
        _share(dataset, datasets[0], label.GetSpacing()[2])
    return Sources(tuple(datasets), planes, label)


def reference(dataset: Dataset, frame: int | None = None) -> Dataset:
    """How another object refers to an image, or to one of its frames (from 0)."""
    found = Dataset()
    found.ReferencedSOPClassUID = dataset.SOPClassUID
    found.ReferencedSOPInstanceUID = dataset.SOPInstanceUID
    if frame is not None:
        found.ReferencedFrameNumber = frame + 1
    return found


@contextlib.contextmanager
def describing(sources: Sequence[Path], kind: str) -> Iterator[None]:
    """Turn what pydicom and highdicom refuse about a source into our error.

    Their warnings are kept back: they are about the sources' own flaws, and quote patients' names.

    Raises:
        DataError: The sources break the standard in a way that the new object would inherit.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"No {kind} could be made for the images of '{sources[0].parent}': expected objects as "
            f"the DICOM standard describes them, found: {error}. Write another format "
            "(--format nifti), or have the series repaired."
        ) from error


def _read(path: Path, *, whole: bool) -> Dataset:
    try:
        dataset = pydicom.dcmread(
            path,
            stop_before_pixels=True,
            force=True,
            specific_tags=None if whole else list(_READ),
        )
        # Texts may be of another character set than that of what is written.
        dataset.decode()
        dataset.remove_private_tags()  # those within sequences too
    except FileNotFoundError as error:
        raise UnreadableFileError(
            f"'{path}' does not exist: expected the images that the label map was made from. "
            "Check that the series is still in its place."
        ) from error
    except (OSError, ValueError, LookupError, AttributeError, NotImplementedError) as error:
        raise truncated(path, "a whole DICOM object", str(error)[:200]) from error
    return dataset


def _headers(dataset: Dataset, path: Path) -> tuple[Slice, ...]:
    several = int(dataset.get("NumberOfFrames") or 1) > 1
    if several or "PerFrameFunctionalGroupsSequence" in dataset:
        return frame_headers(dataset, path)
    found = {name: dataset.get(keyword) for name, keyword in _OF_A_SLICE.items()}
    tags = {name: text_of(value) for name, value in found.items() if value}
    return (Slice(path, tags, (int(dataset.Columns), int(dataset.Rows), 1)),)


def _places(headers: Sequence[Slice], label: sitk.Image) -> list[int]:
    """Which slice of the label map lies on each image.

    The grid of a series is that of the slice at its end. The others may lie beside it, stretched
    and turned by as much as reading them allows, and are still what the label map was made from.

    Raises:
        GeometryError: None does.
    """
    found = [_place(header, label) for header in headers]
    ends = (0, label.GetSize()[2] - 1)
    is_grid = any(z in ends and apart <= GRID_TOLERANCE for z, apart in found)
    for header, (z, apart) in zip(headers, found, strict=True):
        fits = apart <= GRID_TOLERANCE or (is_grid and _is_as_read(header, label, z))
        if header.size[:2] != label.GetSize()[:2] or not fits:
            raise GeometryError(
                f"The label map lies on another grid than '{header.path}' ({header.name}): "
                f"expected {header.size[:2]} pixels and corners within {GRID_TOLERANCE:g} voxel, "
                f"found {label.GetSize()[:2]} and {apart:.3g}. Give the label map in the geometry "
                "of the images that it was made from."
            )
    return [z for z, _ in found]


def _place(header: Slice, label: sitk.Image) -> tuple[int, float]:
    """The slice of the label map at an image, and how far its corners lie apart, in voxels."""
    position = np.array(header.numbers("position", 3))
    row, column = np.reshape(header.numbers("orientation", 6), (2, 3))
    down_mm, across_mm = header.numbers("spacing", 2)
    last_x, last_y = header.size[0] - 1, header.size[1] - 1
    corners = (
        ((0, 0), position),
        ((last_x, 0), position + last_x * across_mm * row),
        ((0, last_y), position + last_y * down_mm * column),
    )
    found = [label.TransformPhysicalPointToContinuousIndex(place.tolist()) for _, place in corners]
    z: int = round(found[0][2])
    apart = max(
        float(np.abs(np.subtract(index, (*corner, z))).max())
        for index, (corner, _) in zip(found, corners, strict=True)
    )
    return z, apart


def _is_as_read(header: Slice, label: sitk.Image, z: int) -> bool:
    """Whether an image lies on a slice within what `volumes.dicom_stack` allows in a series.

    That compares with any one of the slices, so two of them may differ by twice as much.
    """
    spacing_mm = np.array(label.GetSpacing())
    axes = np.reshape(label.GetDirection(), (3, 3)).T
    turned = np.abs(np.reshape(header.numbers("orientation", 6), (2, 3)) - axes[:2]).max()
    stretched = np.abs(header.numbers("spacing", 2) / spacing_mm[1::-1] - 1).max()
    index = label.TransformPhysicalPointToContinuousIndex(header.numbers("position", 3))
    beside_mm = np.hypot(*(np.array(index) * spacing_mm)[:2])
    depth_mm = label.GetSize()[2] * spacing_mm[2]
    most_mm = SHIFT_TOLERANCE * spacing_mm[:2].min() + 2 * DIRECTION_TOLERANCE * depth_mm
    return bool(
        turned <= 2 * DIRECTION_TOLERANCE
        and stretched <= 2 * SPACING_TOLERANCE
        and beside_mm <= most_mm
        and abs(index[2] - z) <= 1.1 * STEP_TOLERANCE
    )


def _share(dataset: Dataset, first: Dataset, step_mm: float) -> None:
    """Bring what all slices share to where it is looked for, in equal words."""
    measures: Any = dataset
    if "PerFrameFunctionalGroupsSequence" in dataset:
        measures = _share_groups(dataset).PixelMeasuresSequence[0]
    else:
        dataset.ImageOrientationPatient = first.ImageOrientationPatient
    if not measures.get("SliceThickness"):
        # Demanded in what is written; the distance of the slices is the nearest that is known.
        measures.SliceThickness = f"{step_mm:.6g}"


def _share_groups(dataset: Dataset) -> Any:
    own = dataset.PerFrameFunctionalGroupsSequence[0]
    if not dataset.get("SharedFunctionalGroupsSequence"):
        dataset.SharedFunctionalGroupsSequence = [Dataset()]
    shared: Any = dataset.SharedFunctionalGroupsSequence[0]
    for name in ("PlaneOrientationSequence", "PixelMeasuresSequence"):
        if name not in shared:
            setattr(shared, name, own[name].value)
    return shared
