"""Pixels of DICOM files, as GDCM decodes and rescales them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import SimpleITK as sitk

from medstill.volumes.checks import check_spacing, quiet, truncated


def read_pixels(paths: Sequence[Path], *, types_vary: bool = False) -> sitk.Image:
    """One file, or the files of slices in their order, as one image without metadata.

    Args:
        paths: At least one file.
        types_vary: Whether the files may have different pixel types; then float32 is read.

    Raises:
        UnreadableFileError: A file is truncated or damaged.
        GeometryError: A spacing is not positive.
    """
    with quiet():
        try:
            image = _one(paths[0]) if len(paths) == 1 else _many(paths, types_vary)
        except RuntimeError as error:
            place = paths[0] if len(paths) == 1 else paths[0].parent
            raise truncated(place, "whole DICOM images", str(error)[-120:].strip()) from error
    check_spacing(paths[0].parent, image.GetSpacing())
    for key in image.GetMetaDataKeys():
        image.EraseMetaData(key)
    return image


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
