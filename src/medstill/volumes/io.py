"""Image files <-> images in physical space.

Every image is 3-D: a flat picture becomes a volume of one slice. The components of an image are
its channels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from medstill.errors import (
    DataError,
    GeometryError,
    IntensityError,
    LabelError,
    StorageError,
)
from medstill.runs import atomic
from medstill.volumes.checks import check_file, not_finite, quiet, readable, text_field, truncated
from medstill.volumes.formats import (
    FLAT_SUFFIXES,
    IMAGE_SUFFIXES,
    is_flat,
    load,
    reason,
    stem_of,
    suffix_of,
)
from medstill.volumes.grids import GRID_TOLERANCE, check_same_grid
from medstill.volumes.plain import ends_as_it_should
from medstill.volumes.records import Case

__all__ = [
    "FLAT_SUFFIXES",
    "GRID_TOLERANCE",
    "IMAGE_SUFFIXES",
    "check_same_grid",
    "check_values",
    "content_hash_of",
    "is_flat",
    "read_channels",
    "read_image",
    "read_label",
    "read_pair",
    "stem_of",
    "suffix_of",
    "write_image",
]

_DETACHED = {".mhd": "ElementDataFile", ".nhdr": "data file"}
_READ_BACK = (".tif", ".tiff", ".png", ".nrrd")
"""Whose headers do not tell how long a whole file is."""


def read_image(path: Path) -> sitk.Image:
    """Read a volume, a flat picture or a folder of one DICOM series.

    Pictures become one slice with a spacing of 1; an alpha component is dropped.

    Args:
        path: A file, or a folder that holds one DICOM series.

    Returns:
        A 3-D image; its components are the channels. It carries no metadata of the file.

    Raises:
        UnreadableFileError: The file is missing, truncated, damaged or of an unknown format.
        GeometryError: It has four dimensions, or a spacing that is not positive.
        IntensityError: It holds NaN or Inf, or one value only.
    """
    image = load(path)
    check_values(image, path)
    return image


def check_values(image: sitk.Image, path: Path) -> None:
    """Demand that an image holds finite numbers, and more than one.

    Raises:
        IntensityError: It holds NaN or Inf, or one value only.
    """
    low, high = _range(image)
    if not (np.isfinite(low) and np.isfinite(high)):
        raise not_finite(f"'{path}'")
    if low == high:
        raise IntensityError(
            f"'{path}' is constant: expected an image, found {low:g} in every voxel. "
            "Check how the file was written, or leave the case out."
        )


def read_channels(paths: Sequence[Path]) -> sitk.Image:
    """Read the channels of one scan, one file each, as one image.

    Args:
        paths: At least one path. A single one may have several components.

    Returns:
        A 3-D image with one component per file. Files of different pixel types become float32.

    Raises:
        GeometryError: The grids differ by more than `GRID_TOLERANCE`.
        DataError: See `read_image`; or one of several files has several components.
    """
    images = [read_image(path) for path in paths]
    if len(images) == 1:
        return images[0]
    for path, image in zip(paths, images, strict=True):
        if image.GetNumberOfComponentsPerPixel() != 1:
            raise DataError(
                f"'{path}' has {image.GetNumberOfComponentsPerPixel()} components: expected one, "
                f"since the scan has {len(paths)} files. Give a colour image as a single file."
            )
        check_same_grid(images[0], image, paths[0], path)
        image.CopyInformation(images[0])
    if len({image.GetPixelID() for image in images}) > 1:
        images = [sitk.Cast(image, sitk.sitkFloat32) for image in images]
    composed: sitk.Image = sitk.Compose(images)
    return composed


def read_label(path: Path) -> sitk.Image:
    """Read a label volume.

    Args:
        path: A file or a folder that holds one DICOM series; floating point files are accepted
            when every number is whole.

    Returns:
        A 3-D image of one integer component, with the values of the file.

    Raises:
        UnreadableFileError: The file is missing, truncated, damaged or of an unknown format.
        GeometryError: It has four dimensions, or a spacing that is not positive.
        LabelError: Its numbers are not whole, or it is a coloured picture.
        IntensityError: It is a NIfTI that holds NaN or Inf.
    """
    label = _one_component(load(path), path)
    values = sitk.GetArrayViewFromImage(label)
    if np.issubdtype(values.dtype, np.integer):
        return label
    with np.errstate(invalid="ignore"):
        whole = bool(np.all(values == np.rint(values)) and np.all(np.abs(values) < 2**31))
    if not whole:
        raise LabelError(
            f"The label '{path}' holds numbers that are not whole: expected one integer per "
            "class. Is this an image or a probability map? Round or threshold it first."
        )
    whole_label: sitk.Image = sitk.Cast(label, sitk.sitkInt32)
    return whole_label


def read_pair(case: Case) -> tuple[sitk.Image, sitk.Image | None]:
    """Read a scan with its label and check that they share their grid.

    The sizes must be equal, and no corner of one grid may be further from the same corner of the
    other than `GRID_TOLERANCE` times the smallest spacing. The label then gets the image's grid
    exactly. Where one of the two is a picture without physical spacing, only the size counts.

    Returns:
        The image and its label, or None where the case has none.

    Raises:
        GeometryError: The label is of another size, or lies elsewhere, than the image.
        LabelError: The label file is missing.
        DataError: See `read_channels` and `read_label`.
    """
    image = read_channels(case.images)
    if case.label is None:
        return image, None
    if not case.label.exists():
        raise LabelError(
            f"The label of case '{case.id}' is missing: expected '{case.label}', found no such "
            "file. Add it, or leave the case out with --skip-bad."
        )
    label = read_label(case.label)
    flat = is_flat(case.label) or any(is_flat(path) for path in case.images)
    check_same_grid(image, label, case.images[0], case.label, size_only=flat)
    label.CopyInformation(image)
    return image, label


def write_image(image: sitk.Image, path: Path) -> None:
    """Write an image, compressed, all or nothing; the suffix chooses the format.

    Args:
        image: 3-D; a picture format takes one slice.
        path: Any of `IMAGE_SUFFIXES` except DICOM, GIF and those of two files.

    Raises:
        GeometryError: Several slices for a picture format.
        StorageError: The disk is full or not writable, or the format cannot hold the image.
    """
    suffix = suffix_of(path)
    if suffix in ("", ".dcm", ".gif", *_DETACHED):
        raise StorageError(
            f"Cannot write '{path}': medstill writes no '{path.suffix}' files. "
            "Choose a name that ends with .nii.gz, .nrrd, .mha, .png, .tif or .jpg."
        )
    if suffix in FLAT_SUFFIXES:
        image = _only_slice(image, path)
    with atomic(path) as draft:
        # ITK cuts `a.nii.gz.nii.gz` at the first ending, and writes another file.
        plain = draft.with_name(f"image{suffix}")
        try:
            sitk.WriteImage(image, str(plain), suffix not in (".nii", ".jpg", ".jpeg"))
            _check_written(plain, image, suffix)
        except (RuntimeError, DataError) as error:
            cut = isinstance(error, DataError)
            found = "what came to the disk is not what was written" if cut else reason(error)
            raise StorageError(
                f"'{path}' could not be written ({found}). Check the free space of that "
                f"disk, and that '{suffix}' holds {image.GetPixelIDTypeAsString()}."
            ) from error
        plain.replace(draft)


def _check_written(draft: Path, image: sitk.Image, suffix: str) -> None:
    """Find what ITK wrote on a full disk without an error; the rest it tells itself."""
    if suffix in _READ_BACK:
        with quiet():
            found = sitk.ReadImage(str(draft))
        # A volume of one slice may come back as a picture, whose array has an axis less.
        asked, written = (sitk.GetArrayViewFromImage(one).ravel() for one in (image, found))
        if not np.array_equal(asked, written, equal_nan=True):
            raise truncated(draft, "the voxels that were written", "others")
    elif suffix != ".nii.gz" or not ends_as_it_should(draft, image):
        check_file(draft)


def content_hash_of(paths: Iterable[Path]) -> str:
    """SHA-256 of the content of files, in the order given; folders count with all their files.

    Names do not count. The data file of a MetaImage or NRRD header counts with it.

    Raises:
        UnreadableFileError: A file is missing or may not be read.
    """
    total = hashlib.sha256()
    for path in paths:
        for source in _sources(path):
            with readable(source), source.open("rb") as file:
                total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()


def _sources(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(entry for entry in path.rglob("*") if entry.is_file())
    field = _DETACHED.get(path.suffix.lower())
    data = text_field(path, (field,)) if field else None
    return [path, path.parent / data] if data and (path.parent / data).is_file() else [path]


def _one_component(label: sitk.Image, path: Path) -> sitk.Image:
    count = label.GetNumberOfComponentsPerPixel()
    if count == 1:
        return label
    values = sitk.GetArrayViewFromImage(label)
    if np.all(values == values[..., :1]):
        component: sitk.Image = sitk.VectorIndexSelectionCast(label, 0)
        return component
    raise LabelError(
        f"The label '{path}' has {count} components that differ: expected one integer per voxel. "
        "Save it as a single-channel file whose values are the classes."
    )


def _only_slice(image: sitk.Image, path: Path) -> sitk.Image:
    if image.GetSize()[2] != 1:
        raise GeometryError(
            f"Cannot write '{path}': expected one slice for a picture, found "
            f"{image.GetSize()[2]}. Choose a name that ends with .nii.gz, .nrrd or .mha."
        )
    only: sitk.Image = image[:, :, 0]
    return only


def _range(image: sitk.Image) -> tuple[float, float]:
    """Least and greatest number; NaN where there is a NaN."""
    values = sitk.GetArrayViewFromImage(image)
    return float(values.min()), float(values.max())
