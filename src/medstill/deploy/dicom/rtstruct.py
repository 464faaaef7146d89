"""A label map as a DICOM RT Structure Set: contours in mm, for radiotherapy systems."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import highdicom
import numpy as np
import SimpleITK as sitk
from pydicom import DataElement, Dataset
from pydicom.config import IGNORE
from pydicom.uid import ImplicitVRLittleEndian, RTStructureSetStorage

from medstill.deploy.contract import Contract
from medstill.deploy.dicom.contours import outlines
from medstill.deploy.dicom.identity import concept, heading, patient, save, text
from medstill.deploy.dicom.sources import Plane, Sources, describing, read_sources, reference
from medstill.volumes.terms import ANATOMY

_STUDY_CLASS: Final = "1.2.840.10008.3.1.2.3.1"
"""Detached Study Management, long retired: what the standard still wants a study referred to by."""


def write_rtstruct(
    label: sitk.Image, sources: Sequence[Path], contract: Contract, path: Path
) -> Path:
    """Write a label map as an RTSTRUCT: closed planar contours of every class and slice.

    Contours run half-way between voxel centres; holes are cut in by keyholes. A class that was not
    found has its structure without contours.

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
    with describing(sources, "RTSTRUCT"):
        held = read_sources(sources, label)
        made = highdicom.SOPClass(
            sop_class_uid=RTStructureSetStorage,
            modality="RTSTRUCT",
            # With explicit VR a contour of more than 64 KiB would be of VR UN (PS3.5, 6.2.2).
            transfer_syntax_uid=ImplicitVRLittleEndian,
            **patient(held.first),
            **heading(held.first, contract, 2, "Structures"),
        )
        made.copy_patient_and_study_information(held.first)
        _describe(made, held, contract)
        _add_structures(made, held, contract)
        return save(made, path)


def _describe(made: Dataset, held: Sources, contract: Contract) -> None:
    made.StructureSetLabel = "SEGMENTATION"
    made.StructureSetDescription = contract.intended_use
    now = datetime.now()
    made.StructureSetDate, made.StructureSetTime = f"{now:%Y%m%d}", f"{now:%H%M%S}"
    made.OperatorsName, made.ApprovalStatus = None, "UNAPPROVED"
    made.FrameOfReferenceUID = held.first.FrameOfReferenceUID
    made.PositionReferenceIndicator = held.first.PositionReferenceIndicator
    series = Dataset()
    series.SeriesInstanceUID = held.first.SeriesInstanceUID
    series.ContourImageSequence = [reference(dataset) for dataset in held.datasets]
    study = Dataset()
    study.ReferencedSOPClassUID = _STUDY_CLASS
    study.ReferencedSOPInstanceUID = held.first.StudyInstanceUID
    study.RTReferencedSeriesSequence = [series]
    frame = Dataset()
    frame.FrameOfReferenceUID = held.first.FrameOfReferenceUID
    frame.RTReferencedStudySequence = [study]
    made.ReferencedFrameOfReferenceSequence = [frame]


def _add_structures(made: Dataset, held: Sources, contract: Contract) -> None:
    contours = _contours(held)
    structures, drawings, observations = [], [], []
    names = contract.preparation.classes[1:]
    for number, (name, term) in enumerate(zip(names, contract.terms, strict=True), start=1):
        structure = Dataset()
        structure.ROINumber, structure.ROIName = number, text(name)
        structure.ReferencedFrameOfReferenceUID = held.first.FrameOfReferenceUID
        structure.ROIGenerationAlgorithm = "AUTOMATIC"
        structure.ROIGenerationDescription = text(f"medstill {contract.network.name}")
        structures.append(structure)
        drawing = Dataset()
        drawing.ReferencedROINumber, drawing.ROIDisplayColor = number, list(term.colour_rgb)
        if contours[number]:
            drawing.ContourSequence = contours[number]
        drawings.append(drawing)
        observation = Dataset()
        observation.ObservationNumber = observation.ReferencedROINumber = number
        anatomical = term.category.value == ANATOMY.value
        observation.RTROIInterpretedType = "ORGAN" if anatomical else None
        observation.ROIInterpreter = None
        observation.RTROIIdentificationCodeSequence = [concept(term.type)]
        observations.append(observation)
    made.StructureSetROISequence, made.ROIContourSequence = structures, drawings
    made.RTROIObservationsSequence = observations


def _contours(held: Sources) -> dict[int, list[Dataset]]:
    """The contours of each class, in the order of the planes."""
    found: dict[int, list[Dataset]] = defaultdict(list)
    for plane, label_YX in zip(held.planes, held.labels(), strict=True):
        for value in np.unique(label_YX[label_YX > 0]).tolist():
            for corners in outlines(label_YX == value):
                found[value].append(_contour(plane, _millimetres(held.label, corners, plane.z)))
                found[value][-1].ContourNumber = len(found[value])
    return found


def _millimetres(label: sitk.Image, corners: Any, z: int) -> Any:
    """Points `(n, 3)` of the patient for the corners `(n, 2)` of a slice."""
    turn = np.reshape(label.GetDirection(), (3, 3)) * np.array(label.GetSpacing())
    places = np.column_stack([corners, np.full(len(corners), z)])
    return places @ turn.T + np.array(label.GetOrigin())


def _contour(plane: Plane, points: Any) -> Dataset:
    contour = Dataset()
    contour.ContourImageSequence = [reference(plane.dataset, plane.frame)]
    contour.ContourGeometricType = "CLOSED_PLANAR"
    contour.NumberOfContourPoints = len(points)
    texts = [f"{value:.4f}" for value in points.ravel()]
    # Unchecked: the check of each number takes longer than all the rest.
    contour.add(DataElement("ContourData", "DS", texts, validation_mode=IGNORE))
    return contour
