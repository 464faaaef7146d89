"""A label map as a DICOM Segmentation object, by highdicom."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from highdicom.color import CIELabColor
from highdicom.seg import (
    SegmentAlgorithmTypeValues,
    Segmentation,
    SegmentationTypeValues,
    SegmentDescription,
)

from medstill.deploy.contract import Contract
from medstill.deploy.dicom.identity import (
    MANUFACTURER,
    algorithm,
    concept,
    heading,
    save,
    schemes,
    text,
)
from medstill.deploy.dicom.sources import describing, read_sources


def write_seg(label: sitk.Image, sources: Sequence[Path], contract: Contract, path: Path) -> Path:
    """Write a label map as a DICOM SEG: binary, one segment a class, empty frames left out.

    Every class has its segment, also one that was not found. An object needs frames: where nothing
    at all was found, those of the first class are there and empty.

    Args:
        label: Class values in the geometry of the images.
        sources: The files that the image was read from, see `volumes.dicom.read_series`.
        contract: Of the network: names, codes, colours, who made it.
        path: The file to write.

    Returns:
        `path`.

    Raises:
        GeometryError: The label map lies on another grid than the images.
        DataError: The images are damaged, or lack what the standard demands.
        StorageError: The file cannot be written.
    """
    with describing(sources, "DICOM SEG"):
        held = read_sources(sources, label)
        labels = held.labels()
        found = bool(labels.any())
        made = Segmentation(
            source_images=list(held.datasets),
            pixel_array=labels if found else np.ones_like(labels),
            segmentation_type=SegmentationTypeValues.BINARY,
            segment_descriptions=_segments(contract),
            omit_empty_frames=True,
            content_label="SEGMENTATION",
            content_description=text(contract.intended_use),
            content_creator_name=f"{MANUFACTURER}^",
            coding_schemes=[schemes()],
            **heading(held.first, contract, 1, "Segmentation"),
        )
        if not found:
            # highdicom itself would write empty frames of every class: megabytes of nothing each.
            made.PixelData = bytes(len(made.PixelData))
        return save(made, path)


def _segments(contract: Contract) -> list[SegmentDescription]:
    names = contract.preparation.classes[1:]
    segments = []
    for number, (name, term) in enumerate(zip(names, contract.terms, strict=True), start=1):
        segment = SegmentDescription(
            segment_number=number,
            segment_label=text(name),
            segmented_property_category=concept(term.category),
            segmented_property_type=concept(term.type),
            algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=algorithm(contract),
            display_color=CIELabColor.from_rgb(*term.colour_rgb),
        )
        if term.modifier is not None:
            kind = segment.SegmentedPropertyTypeCodeSequence[0]
            kind.SegmentedPropertyTypeModifierCodeSequence = [concept(term.modifier)]
        segments.append(segment)
    return segments
