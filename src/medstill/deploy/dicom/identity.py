"""Who says what a new object says: the software, its algorithm, and the numbers of the object."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import highdicom
from highdicom.coding_schemes import CodingSchemeIdentificationItem
from highdicom.sr import CodedConcept
from pydicom import Dataset
from pydicom.sr.codedict import codes

from medstill.config import Code
from medstill.deploy.contract import Contract
from medstill.runs import atomic
from medstill.volumes.terms import PRIVATE_SCHEME

MANUFACTURER: Final = "medstill"
CHARACTERS: Final = "ISO_IR 192"
"""UTF-8: names of patients and of classes are in any script."""
_LONGEST: Final = 64
_MOST_NUMBER: Final = 2**31 - 1


def heading(first: Dataset, contract: Contract, place: int, purpose: str) -> dict[str, Any]:
    """What highdicom asks of every object: UIDs, numbers, equipment.

    Args:
        first: An image of the series.
        contract: Of the network.
        place: Which series it is among those made of one image series, from 1.
        purpose: What the series shows, for its description.
    """
    number = int(first.get("SeriesNumber") or 0) * 100 + place
    return {
        "series_instance_uid": highdicom.UID(),
        "sop_instance_uid": highdicom.UID(),
        "series_number": number if 0 < number <= _MOST_NUMBER else place,
        "instance_number": 1,
        "manufacturer": MANUFACTURER,
        "manufacturer_model_name": text(contract.network.name),
        "software_versions": text(contract.medstill_version),
        "device_serial_number": contract.training.weights,
        "specific_character_set": CHARACTERS,
        "series_description": text(f"{purpose} (medstill {contract.network.name})"),
    }


def patient(first: Dataset) -> dict[str, Any]:
    """Patient and study of an image, for objects that highdicom does not derive from one."""
    return {
        "study_instance_uid": first.StudyInstanceUID,
        "patient_id": first.PatientID,
        "patient_name": first.PatientName,
        "patient_birth_date": first.PatientBirthDate,
        "patient_sex": first.PatientSex,
        "accession_number": first.AccessionNumber,
        "study_id": first.StudyID,
        "study_date": first.StudyDate,
        "study_time": first.StudyTime,
        "referring_physician_name": first.ReferringPhysicianName,
    }


def algorithm(contract: Contract) -> highdicom.AlgorithmIdentificationSequence:
    """Which network made it: name, version and the hashes of its training."""
    return highdicom.AlgorithmIdentificationSequence(
        name=text(f"medstill {contract.network.name}"),
        family=codes.DCM.ArtificialIntelligence,
        version=text(contract.medstill_version),
        source=MANUFACTURER,
        parameters={"study": contract.training.study, "weights": contract.training.weights},
    )


def concept(code: Code) -> CodedConcept:
    """A code as DICOM holds it."""
    return CodedConcept(code.value, code.scheme, text(code.meaning))


def schemes() -> CodingSchemeIdentificationItem:
    """What the scheme is that codes of unknown class names are of."""
    return CodingSchemeIdentificationItem(
        designator=PRIVATE_SCHEME,
        name="Class names of medstill models",
        responsible_organization=MANUFACTURER,
    )


def text(words: str) -> str:
    """At most 64 characters without those that DICOM keeps for itself."""
    return re.sub(r"[\\\x00-\x1f\x7f-\x9f]", " ", words).strip()[:_LONGEST].strip()


def save(dataset: Dataset, path: Path) -> Path:
    """Write an object, all or nothing.

    Raises:
        StorageError: The disk is full or not writable.
    """
    with atomic(path) as draft:
        dataset.save_as(draft, enforce_file_format=True)
    return path
