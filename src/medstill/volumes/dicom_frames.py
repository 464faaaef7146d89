"""DICOM objects of many frames (enhanced and legacy converted CT, MR, PET).

Where a frame lies, and how it is rescaled, stands in functional groups. GDCM decodes the pixels,
but takes its geometry from the first frames and one rescale for all, so the headers come from
pydicom.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from medstill.errors import GeometryError, require
from medstill.volumes.checks import truncated
from medstill.volumes.dicom_headers import RESCALE, Slice, text_of
from medstill.volumes.dicom_pixels import read_pixels
from medstill.volumes.dicom_stack import check_alike, sorted_along_normal

if TYPE_CHECKING:
    from pydicom import Dataset

_GROUPS = {
    "position": ("PlanePositionSequence", "ImagePositionPatient"),
    "orientation": ("PlaneOrientationSequence", "ImageOrientationPatient"),
    "spacing": ("PixelMeasuresSequence", "PixelSpacing"),
    "thickness": ("PixelMeasuresSequence", "SliceThickness"),
    "slope": ("PixelValueTransformationSequence", "RescaleSlope"),
    "intercept": ("PixelValueTransformationSequence", "RescaleIntercept"),
}
_PIXELS = {
    "photometric": "PhotometricInterpretation",
    "signed": "PixelRepresentation",
    "bits_stored": "BitsStored",
    "bits_allocated": "BitsAllocated",
}


def read_frames(header: Slice) -> sitk.Image:
    """A file of many frames as a volume, its frames sorted along their normal and rescaled.

    Raises:
        UnreadableFileError: The file is truncated or damaged.
        GeometryError: The frames form no rectangular grid, or are not rescaled alike.
        MissingExtraError: pydicom is not installed.
    """
    pydicom = require("pydicom", "dicom")
    try:
        dataset = pydicom.dcmread(header.path, stop_before_pixels=True)
    except (OSError, ValueError, pydicom.errors.InvalidDicomError) as error:
        raise truncated(header.path, "a whole DICOM object", str(error)) from error
    frames = frame_headers(dataset, header.path)
    check_alike(frames, header.path)
    ordered, step_mm = list(frames), frames[0].thickness_mm
    if len(frames) > 1:
        ordered, step_mm = sorted_along_normal(frames, header.path)
    whole = replace(header, tags=_decoded(dataset))
    return _placed(_rescaled(read_pixels([whole]), frames), ordered, step_mm)


def frame_headers(dataset: Dataset, path: Path) -> tuple[Slice, ...]:
    """The header of each frame of an object of many, in the order of the object."""
    size = (int(dataset.Columns), int(dataset.Rows), 1)
    shared = _first(dataset, "SharedFunctionalGroupsSequence")
    frames = dataset.get("PerFrameFunctionalGroupsSequence") or []
    count = int(dataset.get("NumberOfFrames") or 1)
    if len(frames) != count:
        raise GeometryError(
            f"'{path}' has {count} frames: expected the place of each in its functional groups, "
            f"found {len(frames)}. It is a cine or a stack without geometry; export the series as "
            "an enhanced object or as single slices."
        )
    return tuple(Slice(path, _tags(own, shared), size, index) for index, own in enumerate(frames))


def _decoded(dataset: Dataset) -> dict[str, str]:
    """What decides how GDCM decodes the object: all frames by the first rescale that it finds."""
    shared = _first(dataset, "SharedFunctionalGroupsSequence")
    first = _first(dataset, "PerFrameFunctionalGroupsSequence")
    group = _GROUPS["slope"][0]
    rescale = _first(shared, group) or _first(first, group) or dataset
    found = {name: dataset.get(keyword) for name, keyword in _PIXELS.items()}
    found |= {name: rescale.get(keyword) for name, keyword in RESCALE.items()}
    return {name: str(value) for name, value in found.items() if value is not None}


def _tags(own: Any, shared: Any) -> dict[str, str]:
    found = {}
    for name, (group, keyword) in _GROUPS.items():
        value = _first(own, group).get(keyword)
        if value is None:
            value = _first(shared, group).get(keyword)
        if value is not None:
            several = isinstance(value, Sequence) and not isinstance(value, str)
            found[name] = text_of(value if several else [value])
    return found


def _first(dataset: Any, keyword: str) -> Any:
    """The first item of a sequence, or an empty one."""
    items = dataset.get(keyword)
    return items[0] if items else {}


def _rescaled(image: sitk.Image, frames: Sequence[Slice]) -> NDArray[Any]:
    """The frames `(Z, Y, X)` in the order of the object, each by its own slope and intercept."""
    values_ZYX: NDArray[Any] = sitk.GetArrayFromImage(image)
    rescales = np.array([_rescale(frame) for frame in frames])
    if (rescales == rescales[0]).all():
        return values_ZYX
    # GDCM has rescaled all frames as it found the first.
    slope, intercept = rescales[0]
    stored_ZYX = (values_ZYX.astype(np.float64) - intercept) / slope
    slopes_Z, intercepts_Z = rescales.T[:, :, None, None]
    rescaled_ZYX: NDArray[Any] = (stored_ZYX * slopes_Z + intercepts_Z).astype(np.float32)
    return rescaled_ZYX


def _rescale(frame: Slice) -> tuple[float, float]:
    slope, intercept = float(frame.tags.get("slope", "1")), float(frame.tags.get("intercept", "0"))
    if slope:
        return slope, intercept
    raise GeometryError(
        f"'{frame.path}' has a rescale slope of 0 ({frame.name}): expected another number, since "
        "it makes all intensities of a frame equal. Export the series again."
    )


def _placed(values_ZYX: NDArray[Any], ordered: Sequence[Slice], step_mm: float) -> sitk.Image:
    first = ordered[0]
    row, column = np.reshape(first.numbers("orientation", 6), (2, 3))
    down_mm, across_mm = first.numbers("spacing", 2)
    order = [frame.frame or 0 for frame in ordered]
    image: sitk.Image = sitk.GetImageFromArray(np.ascontiguousarray(values_ZYX[order]))
    image.SetOrigin(first.numbers("position", 3))
    image.SetDirection(np.stack([row, column, np.cross(row, column)], axis=1).ravel().tolist())
    image.SetSpacing((across_mm, down_mm, step_mm))
    return image
