"""Files of every format -> 3-D images, before their content is judged."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from medstill.errors import GeometryError, IntensityError, UnreadableFileError, require
from medstill.volumes.axes import check_axes
from medstill.volumes.checks import check_file, check_spacing, is_dicom, quiet, readable, truncated
from medstill.volumes.dicom import choose_series, read_series

FLAT_SUFFIXES = (".png", ".tif", ".tiff", ".jpg", ".jpeg", ".gif")
"""Pictures. The resolution in them is meant for printing: their spacing is 1 in every axis."""
IMAGE_SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd", ".dcm", *FLAT_SUFFIXES)


def suffix_of(path: Path) -> str:
    """The entry of `IMAGE_SUFFIXES` that the file's name ends with, or an empty string."""
    name = path.name.lower()
    return next((suffix for suffix in IMAGE_SUFFIXES if name.endswith(suffix)), "")


def stem_of(path: Path) -> str:
    """The file's name without its image suffix; a folder's whole name."""
    suffix, name = suffix_of(path), path.name or path.absolute().name
    return name[: -len(suffix)] if suffix else name


def is_flat(path: Path) -> bool:
    """Whether the file is a picture without physical spacing."""
    return suffix_of(path) in FLAT_SUFFIXES


def load(path: Path) -> sitk.Image:
    """Read a file or a DICOM folder as a 3-D image without metadata.

    Raises:
        UnreadableFileError: The file is missing, truncated, damaged or of an unknown format.
        GeometryError: It has several time points, a spacing that is not positive, axes that are
            not at right angles, or no place.
        IntensityError: Its numbers are complex.
    """
    if path.is_dir():
        return read_series(choose_series(path)).image
    if not path.exists():
        raise UnreadableFileError(
            f"'{path}' does not exist: expected an image file or a DICOM folder. Check the name."
        )
    with readable(path):
        _check_format(path)
        check_file(path)
        dicom = suffix_of(path) == ".dcm" or is_dicom(path)
    if dicom:
        return read_series(choose_series(path)).image
    image = _read_gif(path) if suffix_of(path) == ".gif" else _read_itk(path)
    image = _without_alpha(_three_dimensional(_real(image, path), path))
    if is_flat(path):
        image.SetSpacing((1.0, 1.0, 1.0))
        image.SetOrigin((0.0, 0.0, 0.0))
    check_spacing(path, image.GetSpacing())
    check_axes(image, f"'{path}'")
    # Headers may carry names and dates, which must go no further.
    for key in image.GetMetaDataKeys():
        image.EraseMetaData(key)
    return image


def _check_format(path: Path) -> None:
    if not suffix_of(path) and not is_dicom(path):
        raise UnreadableFileError(
            f"'{path}' is of a format that medstill does not read: expected one of "
            f"{', '.join(IMAGE_SUFFIXES)}, found '{path.suffix}'. Convert the file."
        )


def _read_itk(path: Path) -> sitk.Image:
    with quiet():
        try:
            return sitk.ReadImage(str(path))
        except RuntimeError as error:
            found = reason(error)
    if "pacing" in found:
        raise GeometryError(
            f"'{path}' has a spacing that ITK refuses: expected positive numbers, found: {found}. "
            "Write the true voxel size into the file's header."
        )
    if "orthonormal" in found:
        raise GeometryError(
            f"'{path}' has axes that are not at right angles: expected an orthonormal direction "
            "matrix, found a sheared one. Resample the image onto a rectangular grid."
        )
    raise UnreadableFileError(
        f"'{path}' cannot be read: expected a whole '{path.suffix}' image, found: {found}. "
        "Copy or download the file again, or convert it."
    )


def _read_gif(path: Path) -> sitk.Image:
    pillow = require("PIL.Image", "train")
    try:
        with pillow.open(path) as picture:
            frames = int(getattr(picture, "n_frames", 1))
            colours = np.asarray(picture.convert("RGB"))
    except (OSError, ValueError, SyntaxError) as error:
        raise truncated(path, "a GIF picture", str(error)) from error
    if frames > 1:
        raise GeometryError(
            f"'{path}' is an animation of {frames} frames: expected one picture. "
            "Save each frame as its own file."
        )
    gray = bool(np.all(colours == colours[..., :1]))
    pixels = np.ascontiguousarray(colours[..., 0] if gray else colours)
    image: sitk.Image = sitk.GetImageFromArray(pixels, isVector=not gray)
    return image


def _real(image: sitk.Image, path: Path) -> sitk.Image:
    if image.GetPixelID() not in (sitk.sitkComplexFloat32, sitk.sitkComplexFloat64):
        return image
    raise IntensityError(
        f"'{path}' holds complex numbers: expected real ones. Save their magnitude as an image of "
        "its own."
    )


def _three_dimensional(image: sitk.Image, path: Path) -> sitk.Image:
    size = image.GetSize()
    if len(size) == 3:
        return image
    if len(size) == 4 and size[3] == 1:
        only: sitk.Image = image[:, :, :, 0]
        return only
    if len(size) == 2:
        volume: sitk.Image = sitk.JoinSeries([image], 0.0, 1.0)
        return volume
    raise GeometryError(
        f"'{path}' has {len(size)} dimensions: expected 3, found a size of {times(size)}. "
        "Save each channel or time point as its own 3-D file (channels as in nnU-Net: "
        "ID_0000.nii.gz, ID_0001.nii.gz)."
    )


def _without_alpha(image: sitk.Image) -> sitk.Image:
    if image.GetNumberOfComponentsPerPixel() != 4 or image.GetSize()[2] != 1:
        return image
    if image.GetPixelID() not in (sitk.sitkVectorUInt8, sitk.sitkVectorUInt16):
        return image
    kept: sitk.Image = sitk.Compose(
        [sitk.VectorIndexSelectionCast(image, index) for index in range(3)]
    )
    return kept


def times(size: Iterable[int]) -> str:
    """A size as text: `31 x 23 x 17`."""
    return " x ".join(str(length) for length in size)


def reason(error: Exception) -> str:
    """The last line of an ITK error, without the addresses of objects in memory.

    What it says before is where in ITK it was raised.
    """
    text = re.sub(r"\(0x[0-9a-f]+\)", "", str(error))
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1].rstrip(".") if lines else type(error).__name__
