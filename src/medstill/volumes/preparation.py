"""From a raw scan to the array that a network sees.

The order of steps: canonical orientation, intensity (on raw voxels), crop to the body, resampling.
Patches are cut, and small images padded, when samples are drawn: nothing of it happens here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk

from medstill.config import DataConfig
from medstill.errors import GeometryError, IntensityError
from medstill.volumes.arriving import Arriving, arrived
from medstill.volumes.body import CT_THRESHOLD_HU, body_box
from medstill.volumes.geometry import (
    Frame,
    array_CZYX,
    canonical,
    frame_of,
    geometry_of,
    image_of,
    part_of,
)
from medstill.volumes.intensity import resolve, scale
from medstill.volumes.labels import LabelMapping, apply_mapping, resolve_labels
from medstill.volumes.records import Dataset, FloatArray, LabelArray, Preparation
from medstill.volumes.resampling import resample_image, resample_label
from medstill.volumes.terms import terms_of

SpacingsZYX = Sequence[tuple[float, float, float]]


@dataclass(frozen=True)
class PreparedImage:
    """Network input, float32 `(C, Z, Y, X)`, and how it lies in the scan."""

    array_CZYX: FloatArray
    frame: Frame


def resolve_preparation(
    dataset: Dataset, data: DataConfig, spacings_zyx_mm: SpacingsZYX
) -> Preparation:
    """The preparation of a data set, every number written out; `seen` is not filled in yet.

    Args:
        dataset: Tells modalities and labels.
        data: What the study asks for.
        spacings_zyx_mm: Spacing of each case in canonical orientation; only needed when
            `data.spacing_mm` is None, for the median of each axis.

    Raises:
        GeometryError: A spacing has to be found and there is none.
        ConfigError: A name or a number of the configuration is wrong.
        LabelError: The labels do not suit.
    """
    y, x = data.patch_size[-2:]
    spacing: Sequence[float]
    if data.spacing_mm is not None:
        spacing = data.spacing_mm
    elif spacings_zyx_mm:
        # Rounded, so that the number can be read and repeated; 1e-6 mm is nothing.
        spacing = [round(float(step), 6) for step in np.median(spacings_zyx_mm, axis=0)]
    else:
        raise GeometryError(
            "Expected at least one readable case to take the median spacing from, found none. "
            "Set data.spacing_mm, or correct the images."
        )
    flat = data.spatial_dims == 2
    classes = resolve_labels(dataset, data).classes
    terms_of(classes, data.terms)  # they are needed at the end, and refused at the beginning
    return Preparation(
        spatial_dims=data.spatial_dims,
        spacing_zyx_mm=(None if flat else spacing[0], spacing[-2], spacing[-1]),
        intensity=resolve(data, dataset),
        crop_to_body=data.crop_to_body,
        classes=classes,
        patch_zyx=(1 if flat else data.patch_size[0], y, x),
    )


def draft_preparation(dataset: Dataset, data: DataConfig) -> Preparation:
    """The preparation without a look at the images: a spacing that is not given is 1 mm."""
    return resolve_preparation(dataset, data, [(1.0, 1.0, 1.0)])


def prepare_image(image: sitk.Image, preparation: Preparation) -> PreparedImage:
    """Prepare one scan.

    Args:
        image: 3-D scan; its components are the channels.
        preparation: What is done.

    Returns:
        The array, and the frame by which `geometry.restore` brings maps of it back.

    Raises:
        GeometryError: The image is not 3-D.
        IntensityError: Its channels are not those of the preparation.
    """
    frame = frame_in(arrived(image), preparation)
    raw_CZYX = array_CZYX(canonical(image, preparation.orientation))
    (z0, z1), (y0, y1), (x0, x1) = frame.crop_zyx
    kept = part_of(frame.canonical, frame.crop_zyx)
    channels = [
        resample_image(image_of(scale(raw, how)[z0:z1, y0:y1, x0:x1], kept), frame.grid)
        for raw, how in zip(raw_CZYX, preparation.intensity, strict=True)
    ]
    return PreparedImage(np.stack(channels), frame)


def frame_in(scan: Arriving, preparation: Preparation) -> Frame:
    """Where the prepared array of a scan will lie; only a crop to the body needs its voxels.

    Raises:
        DataError: The voxels are needed and cannot be read.
        IntensityError: Its channels are not those of the preparation.
    """
    if len(scan.raw_CZYX) != preparation.channels:
        raise IntensityError(
            f"Expected an image of {preparation.channels} channel(s), as prepared for training; "
            f"found {len(scan.raw_CZYX)}. Pass the same channels in the same "
            "order, or set data.modality."
        )
    box = None
    if preparation.crop_to_body:
        first = image_of(scan.whole()[0], scan.geometry)
        is_ct = preparation.intensity[0].kind == "ct-window"
        box = body_box(
            canonical(first, preparation.orientation), threshold=CT_THRESHOLD_HU if is_ct else None
        )
    return frame_of(
        scan.geometry,
        preparation.spacing_zyx_mm,
        crop_zyx=box,
        orientation=preparation.orientation,
    )


def prepare_label(
    label: sitk.Image,
    preparation: Preparation,
    frame: Frame,
    mapping: LabelMapping,
    *,
    source: str = "the label",
) -> LabelArray:
    """Prepare the label volume of a scan.

    Args:
        label: Integer label volume on the grid of the scan.
        preparation: What was done to the scan.
        frame: How the prepared scan lies in it.
        mapping: Which value becomes which class.
        source: Name of the file, for messages.

    Returns:
        uint8 array `(Z, Y, X)` of class values on the prepared grid, 255 for ignore.

    Raises:
        GeometryError: The label has another size than the scan.
        LabelError: It holds undeclared values.
    """
    found = geometry_of(label)
    if found.size_xyz != frame.original.size_xyz:
        raise GeometryError(
            f"Expected '{source}' to have the size of its image, {frame.original.size_xyz} "
            f"(x, y, z); found {found.size_xyz}. Correct the pairing of images and labels."
        )
    mapped = apply_mapping(label, mapping, source=source)
    # The scan's own grid: headers of labels may differ from it by rounding.
    placed = image_of(array_CZYX(mapped)[0], frame.original)
    return resample_label(canonical(placed, preparation.orientation), frame.grid)
