"""Pixels of DICOM files, as GDCM decodes and rescales them, and not inverted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from medstill.errors import UnreadableFileError
from medstill.volumes.checks import check_spacing, quiet, truncated
from medstill.volumes.dicom_headers import Slice, read_header

_INVERTED = "MONOCHROME1"
"""Low values are shown bright. That is a matter of display, and what is stored is rescaled as
always (PS3.3, C.7.6.3.1.2), but GDCM inverts it first."""
_OFF_GRID = 0.01
"""How far a stored value that is computed back may lie from a whole number."""


def read_pixels(slices: Sequence[Slice], *, types_vary: bool = False) -> sitk.Image:
    """One file, or the files of slices in their order, as one image without metadata.

    Args:
        slices: Headers of at least one file.
        types_vary: Whether the files may have different pixel types; then float32 is read.

    Raises:
        UnreadableFileError: A file is truncated or damaged, or GDCM inverts it in a way that
            cannot be undone.
        GeometryError: A spacing is not positive.
    """
    for item in slices:
        _check_undoable(item)
    paths = [item.path for item in slices]
    with quiet():
        try:
            image = _one(paths[0]) if len(paths) == 1 else _many(paths, types_vary)
        except RuntimeError as error:
            place = paths[0] if len(paths) == 1 else paths[0].parent
            raise truncated(place, "whole DICOM images", str(error)[-120:].strip()) from error
    check_spacing(paths[0].parent, image.GetSpacing())
    for key in image.GetMetaDataKeys():
        image.EraseMetaData(key)
    return _upright(image, slices)


def read_file(path: Path) -> sitk.Image:
    """One file whose header was not read yet, see `read_pixels`."""
    header = read_header(path)
    if header is None:
        raise truncated(path, "a whole DICOM image", "no image")
    return read_pixels([header])


def _upright(image: sitk.Image, slices: Sequence[Slice]) -> sitk.Image:
    """The image with the inversion of some or all of its slices undone."""
    inverted = [z for z, item in enumerate(slices) if _is_inverted(item)]
    if not inverted:
        return image
    values = sitk.GetArrayFromImage(image)
    # A single file may hold many frames.
    parts = values[None] if len(slices) == 1 else values
    for z in inverted:
        parts[z] = _undone(parts[z], slices[z])
    made: sitk.Image = sitk.GetImageFromArray(values)
    made.CopyInformation(image)
    return made


def _undone(values: NDArray[Any], item: Slice) -> NDArray[Any]:
    """What GDCM would have given without inverting.

    It puts `2^bits - 1 - stored` for unsigned and `-1 - stored` for signed values and rescales
    after that, so the stored values come back as whole numbers.
    """
    slope, intercept = item.rescale
    turned = (values.astype(np.float64) - intercept) / slope
    whole = np.rint(turned)
    if np.abs(turned - whole).max() > _OFF_GRID:
        raise _not_undoable(item, f"a rescale of {slope:g} and {intercept:g}")
    signed, allocated, stored = _kind(item)
    total = -1 if signed else 2 ** (8 if allocated == 8 else stored) - 1
    undone: NDArray[Any] = ((total - whole) * slope + intercept).astype(values.dtype)
    return undone


def _is_inverted(item: Slice) -> bool:
    return item.tags.get("photometric") == _INVERTED


def _kind(item: Slice) -> tuple[bool, int, int]:
    """Whether stored values are signed, and how many bits are allocated and stored."""
    names = ("signed", "bits_allocated", "bits_stored")
    signed, allocated, stored = (int(item.tags.get(name) or 0) for name in names)
    return signed == 1, allocated, stored


def _check_undoable(item: Slice) -> None:
    if not _is_inverted(item):
        return
    signed, allocated, stored = _kind(item)
    # GDCM refuses signed values of 12 bits, and garbles those of 32.
    if allocated not in (8, 16) or (signed and allocated == 16 and stored == 12):
        sign = "signed" if signed else "unsigned"
        raise _not_undoable(item, f"{stored} bits, {sign}, in {allocated}")


def _not_undoable(item: Slice, found: str) -> UnreadableFileError:
    return UnreadableFileError(
        f"'{item.path}' is {_INVERTED}, which the decoder inverts: expected 8 or 16 bits "
        f"allocated, not 12 of them signed, and a rescale that can be undone; found {found}. "
        "Write MONOCHROME2 into its header (0028,0004): that changes its display alone."
    )


def _one(path: Path) -> sitk.Image:
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(path))
    image: sitk.Image = reader.Execute()
    return image


def _many(paths: Sequence[Path], types_vary: bool) -> sitk.Image:
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames([str(path) for path in paths])
    if types_vary:
        # ITK would cast all slices to the type of the first one, and wrap what it cannot hold.
        reader.SetOutputPixelType(sitk.sitkFloat32)
    image: sitk.Image = reader.Execute()
    return image
