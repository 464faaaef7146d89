"""A preview of a label map as a DICOM Secondary Capture: any viewer shows it."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import SimpleITK as sitk
from highdicom.sc import SCImage
from numpy.typing import NDArray
from pydicom import Dataset

from medstill.deploy.contract import Contract
from medstill.deploy.dicom.identity import heading, patient, save
from medstill.deploy.dicom.picture import Entry, Picture, areas, largest_slices, montage, tile
from medstill.deploy.dicom.sources import Plane, Sources, describing, read_sources, reference
from medstill.volumes.dicom_frames import read_frames
from medstill.volumes.dicom_headers import Slice
from medstill.volumes.dicom_pixels import read_file
from medstill.volumes.geometry import array_CZYX
from medstill.volumes.intensity import scale

_TOWARDS: Final = {"L": "L", "R": "R", "P": "P", "A": "A", "S": "H", "I": "F"}


def write_capture(
    label: sitk.Image, sources: Sequence[Path], contract: Contract, path: Path
) -> Path:
    """Write a picture of a label map on its images as a Secondary Capture object.

    It shows the slices in which the largest classes have their largest area, in the window that
    the network saw, with outlines in colour and a legend with volumes in ml.

    Args:
        label: Class values in the geometry of the images.
        sources: The files that the image was read from, see `volumes.dicom.read_series`.
        contract: Of the network: names, colours, window, who made it.
        path: The file to write.

    Returns:
        `path`.

    Raises:
        GeometryError: The label map lies on another grid than the images.
        DataError: The images are damaged, or lack what the standard demands.
        StorageError: The file cannot be written.
    """
    with describing(sources, "Secondary Capture"):
        held = read_sources(sources, label)
        area_ZC = areas(array_CZYX(held.label)[0])
        by_z = {plane.z: plane for plane in held.planes}
        shown = [by_z[z] for z in largest_slices(area_ZC)]
        made = SCImage(
            pixel_array=_draw(held, shown, _legend(held, area_ZC, contract), contract),
            photometric_interpretation="RGB",
            bits_allocated=8,
            coordinate_system="PATIENT",
            patient_orientation=_towards(label),
            **patient(held.first),
            **heading(held.first, contract, 3, "Preview"),
        )
        made.copy_patient_and_study_information(held.first)
        _say_of_pixels(made, held.datasets)
        # Whether the body part is paired is unknown: demanded, though without a value.
        made.add_new("Laterality", "CS", None)
        made.DerivationDescription = contract.intended_use
        made.SourceImageSequence = [reference(plane.dataset, plane.frame) for plane in shown]
        return save(made, path)


def _say_of_pixels(made: Dataset, sources: Sequence[Dataset]) -> None:
    """Say of the picture what the images say of their pixels, since it shows these.

    What they do not say stays unsaid: an image without these attributes may be either
    (PS3.3, C.7.6.1). Once lossy, always lossy (C.7.6.1.1.5).
    """
    for name, warns in (("BurnedInAnnotation", "YES"), ("LossyImageCompression", "01")):
        said = {str(source.get(name) or "") for source in sources}
        agreed = min(said) if len(said) == 1 else ""
        value = warns if warns in said else agreed
        if value:
            setattr(made, name, value)
    if made.get("LossyImageCompression") == "01":
        lossy = next(one for one in sources if one.get("LossyImageCompression") == "01")
        for name in ("LossyImageCompressionRatio", "LossyImageCompressionMethod"):
            if lossy.get(name):
                setattr(made, name, lossy[name].value)


def _draw(
    held: Sources, shown: Sequence[Plane], legend: list[Entry], contract: Contract
) -> Picture:
    label_ZYX = array_CZYX(held.label)[0]
    spacing_yx_mm = held.label.GetSpacing()[1::-1]
    tiles = [
        tile(gray_YX, np.asarray(label_ZYX[plane.z], dtype=np.uint8), spacing_yx_mm, legend)
        for plane, gray_YX in zip(shown, _grays(shown, contract), strict=True)
    ]
    return montage(tiles, legend, contract.intended_use)


def _grays(shown: Sequence[Plane], contract: Contract) -> NDArray[np.floating]:
    """The shown slices `(planes, Y, X)` as the network sees them, between 0 and 1."""
    if shown[0].frame is None:
        raw = np.stack([array_CZYX(read_file(plane.path))[0, 0] for plane in shown])
    else:
        whole = read_frames(Slice(shown[0].path, {}, (0, 0, 0)))
        raw = array_CZYX(whole)[0][[plane.z for plane in shown]]
    return np.clip(scale(raw, contract.preparation.intensity[0]), 0.0, 1.0)


def _legend(held: Sources, area_ZC: NDArray[np.int64], contract: Contract) -> list[Entry]:
    volumes_ml = area_ZC.sum(axis=0) * math.prod(held.label.GetSpacing()) / 1000.0
    names = contract.preparation.classes[1:]
    return [
        Entry(f"{_plain(name)[:40]}  {volumes_ml[value]:.1f} ml", term.colour_rgb)
        for value, (name, term) in enumerate(zip(names, contract.terms, strict=True), start=1)
    ]


def _plain(name: str) -> str:
    """The name in the letters of Pillow's own font."""
    return unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()


def _towards(label: sitk.Image) -> tuple[str, str]:
    """Towards which side of the patient the rows and the columns of a slice run."""
    code = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(label.GetDirection())
    return _TOWARDS[code[0]], _TOWARDS[code[1]]
