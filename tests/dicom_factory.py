"""Synthetic DICOM series: plain and of many frames, of any orientation, spacing and file order.

Every required attribute is there, so that what is written from them can be held to the standard.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

CT, MR = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4"
ENHANCED = {"CT": "1.2.840.10008.5.1.4.1.1.2.1", "MR": "1.2.840.10008.5.1.4.1.1.4.1"}
PLAIN = {"CT": CT, "MR": MR}
STUDY, FRAME_OF_REFERENCE = "1.2.826.0.1.3680043.8.498.1", "1.2.826.0.1.3680043.8.498.2"


def turned(degrees: float, axis: tuple[float, float, float]) -> tuple[tuple[float, ...], ...]:
    """Row and column direction of an axial slice turned about an axis."""
    unit = np.array(axis) / np.linalg.norm(axis)
    cross = np.array(
        [[0, -unit[2], unit[1]], [unit[2], 0, -unit[0]], [-unit[1], unit[0], 0]], dtype=float
    )
    angle = np.radians(degrees)
    matrix = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    return tuple(matrix[:, 0].tolist()), tuple(matrix[:, 1].tolist())


@dataclass(frozen=True)
class Plan:
    """A series to write.

    Attributes:
        size: Slices, rows and columns.
        row: Direction in which the columns of the image follow each other.
        column: Direction in which its rows follow each other.
        spacing: Between rows, between columns and between slices, in mm.
        step: +1 or -1: whether the slices of the file order run along the normal.
        origin: Centre of the first voxel of the first slice in file order.
        shuffled: Whether instances are in no order at all.
    """

    size: tuple[int, int, int] = (5, 17, 23)
    row: tuple[float, ...] = (1.0, 0.0, 0.0)
    column: tuple[float, ...] = (0.0, 1.0, 0.0)
    spacing: tuple[float, float, float] = (2.0, 1.5, 3.0)
    step: int = 1
    origin: tuple[float, float, float] = (-40.25, 12.5, -100.0)
    shuffled: bool = False
    modality: str = "CT"
    uid: str = "1.2.826.0.1.3680043.8.498.3"
    description: str = "venous"
    intercept: float = -1024.0
    slopes: tuple[float, ...] = (1.0,)
    seed: int = 0
    image_type: str = "AXIAL"
    photometric: str = "MONOCHROME2"
    bits_stored: int = 12
    signed: bool = False

    def order(self) -> list[int]:
        """Slice index of each instance."""
        indices = list(range(self.size[0]))
        return indices[1::2] + indices[::2] if self.shuffled else indices

    def position(self, index: int) -> list[float]:
        """Centre of the first voxel of a slice, as a header can say it."""
        normal = np.cross(self.row, self.column)
        place = np.array(self.origin) + index * self.step * self.spacing[2] * normal
        return [round(float(value), 8) for value in place]

    def pixels(self) -> np.ndarray:
        """Stored pixels `(Z, Y, X)` in the order of the slice indices: a bright blob in noise."""
        noise = np.random.default_rng(self.seed).integers(900, 1100, self.size)
        grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in self.size), indexing="ij"))
        blob = np.where((grid**2).sum(axis=0) < 0.5, noise + 150, noise)
        return (blob - 1000).astype("<i2") if self.signed else blob.astype("<u2")

    def slope(self, index: int) -> float:
        """Rescale slope of a slice."""
        return self.slopes[index % len(self.slopes)]


SCOUT = Plan(
    size=(1, 40, 30),
    row=(0.0, 1.0, 0.0),
    column=(0.0, 0.0, -1.0),
    spacing=(1.0, 1.0, 1.0),
    uid="1.2.826.0.1.3680043.8.498.77",
    description="Topogram",
    image_type="LOCALIZER",
)


def write_series(folder: Path, plan: Plan) -> Path:
    """Write one file a slice."""
    folder.mkdir(parents=True, exist_ok=True)
    pixels_ZYX = plan.pixels()
    for number, index in enumerate(plan.order(), start=1):
        data = _dataset(plan, PLAIN[plan.modality], number)
        _image(data, plan, pixels_ZYX[index])
        data.ImagePositionPatient = _texts(plan.position(index))
        data.ImageOrientationPatient = _texts([*plan.row, *plan.column])
        data.PixelSpacing, data.SliceThickness = _texts(plan.spacing[:2]), str(plan.spacing[2])
        data.InstanceNumber = number
        data.RescaleSlope, data.RescaleIntercept = str(plan.slope(index)), str(plan.intercept)
        if plan.modality == "CT":
            data.KVP, data.AcquisitionNumber, data.RescaleType = "120", 1, "HU"
        data.save_as(folder / f"{plan.size[0] - number:03d}.dcm", enforce_file_format=True)
    return folder


def write_frames(path: Path, plan: Plan) -> Path:
    """Write one enhanced object of all slices."""
    from pydicom import Dataset

    path.parent.mkdir(parents=True, exist_ok=True)
    data = _dataset(plan, ENHANCED[plan.modality], 1)
    order = plan.order()
    _image(data, plan, plan.pixels()[order])
    data.NumberOfFrames, data.InstanceNumber = len(order), 1
    shared, measures, orientation = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = _texts(plan.spacing[:2]), str(plan.spacing[2])
    orientation.ImageOrientationPatient = _texts([*plan.row, *plan.column])
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [orientation]
    data.SharedFunctionalGroupsSequence = [shared]
    data.PerFrameFunctionalGroupsSequence = [_frame(plan, index) for index in order]
    data.save_as(path, enforce_file_format=True)
    return path


def _frame(plan: Plan, index: int) -> Any:
    from pydicom import Dataset

    frame, position, rescale, content = Dataset(), Dataset(), Dataset(), Dataset()
    position.ImagePositionPatient = _texts(plan.position(index))
    rescale.RescaleSlope, rescale.RescaleIntercept = str(plan.slope(index)), str(plan.intercept)
    rescale.RescaleType = "HU"
    content.StackID, content.InStackPositionNumber = "1", index + 1
    frame.PlanePositionSequence, frame.FrameContentSequence = [position], [content]
    frame.PixelValueTransformationSequence = [rescale]
    return frame


def _dataset(plan: Plan, sop_class: str, number: int) -> Any:
    from pydicom import Dataset
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = sop_class
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = f"{plan.uid}.{number}"
    data.StudyInstanceUID, data.SeriesInstanceUID = STUDY, plan.uid
    data.FrameOfReferenceUID, data.PositionReferenceIndicator = FRAME_OF_REFERENCE, None
    data.PatientName, data.PatientID = "Doe^Jane", "4711"
    data.PatientBirthDate, data.PatientSex, data.PatientWeight = "19700101", "F", "61"
    data.StudyID, data.StudyDate, data.StudyTime = "S1", "20200102", "101112"
    data.AccessionNumber, data.ReferringPhysicianName = "A77", "Roe^Richard"
    data.StudyDescription, data.SeriesDescription = "Abdomen", plan.description
    data.Modality, data.SeriesNumber, data.Manufacturer = plan.modality, 4, "Factory"
    data.ImageType = ["ORIGINAL", "PRIMARY", plan.image_type]
    data.add_new(0x00090010, "LO", "FACTORY PRIVATE")
    data.add_new(0x00091001, "LO", "what nobody else needs")
    return data


def _image(data: Any, plan: Plan, pixels: np.ndarray) -> None:
    data.Rows, data.Columns = pixels.shape[-2:]
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, plan.photometric
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, plan.bits_stored, plan.bits_stored - 1
    data.PixelRepresentation, data.PixelData = int(plan.signed), pixels.tobytes()


def _texts(values: Any) -> list[str]:
    return [f"{value:.12g}"[:16] for value in values]
