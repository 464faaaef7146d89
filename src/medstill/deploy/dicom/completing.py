"""Source images with all that the standard demands of them, as far as it can be had."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pydicom
from pydicom import Dataset

from medstill.deploy.dicom.soundness import drop_unsound
from medstill.deploy.dicom.telling import warn
from medstill.errors import DataError

_MAY_BE_EMPTY: Final = (
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "AccessionNumber",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
    "PositionReferenceIndicator",
)
"""What the standard demands, though without a value: scanners and anonymisers leave it out."""
NEEDED: Final = ("SOPClassUID", "SOPInstanceUID", "FrameOfReferenceUID")
MADE_UP: Final = ("StudyInstanceUID", "SeriesInstanceUID")
"""What some anonymisers empty: another takes its place, the same for all objects of the images."""


def complete(datasets: Sequence[Dataset], paths: Sequence[Path]) -> None:
    """Remove what breaks the standard and fill in what may be empty or made up.

    Args:
        datasets: The objects of a series, which are changed.
        paths: The file of each.

    Raises:
        DataError: One lacks what cannot be made up, or two have the same SOPInstanceUID.
    """
    dropped = [drop_unsound(dataset) for dataset in datasets]
    if dropped[0]:
        warn(
            f"The images in '{paths[0].parent}' have values that the standard does not allow: "
            f"{', '.join(dropped[0])}. They are left out of what is written."
        )
    for dataset, path in zip(datasets, paths, strict=True):
        _complete(dataset, path)
    _check_told_apart(datasets, paths)
    _make_up(datasets, paths[0].parent)


def _complete(dataset: Dataset, path: Path) -> None:
    meta = dataset.file_meta
    dataset.SOPClassUID = dataset.get("SOPClassUID") or meta.get("MediaStorageSOPClassUID")
    dataset.SOPInstanceUID = dataset.get("SOPInstanceUID") or meta.get("MediaStorageSOPInstanceUID")
    missing = [name for name in ("SOPClassUID", "SOPInstanceUID", *NEEDED) if not dataset.get(name)]
    if missing:
        raise DataError(
            f"'{path}' lacks {', '.join(missing)}: expected it in every DICOM image with a place "
            "in space; without it nothing can refer to the image. Write another format "
            "(--format nifti), or have the series repaired."
        )
    for name in _MAY_BE_EMPTY:
        if name not in dataset:
            setattr(dataset, name, None)


def _make_up(datasets: Sequence[Dataset], folder: Path) -> None:
    instances = sorted(dataset.SOPInstanceUID for dataset in datasets)
    lacking = [name for name in MADE_UP if not all(data.get(name) for data in datasets)]
    for name in lacking:
        uid = pydicom.uid.generate_uid(entropy_srcs=[name, *instances])
        for dataset in datasets:
            setattr(dataset, name, uid)
    if lacking:
        warn(
            f"The images in '{folder}' lack {' and '.join(lacking)}: made-up ones stand in what "
            "is written, so an archive will not file it beside them."
        )


def _check_told_apart(datasets: Sequence[Dataset], paths: Sequence[Path]) -> None:
    first: dict[str, Path] = {}
    for dataset, path in zip(datasets, paths, strict=True):
        uid = str(dataset.SOPInstanceUID)
        if first.setdefault(uid, path) is not path:
            raise DataError(
                f"'{first[uid]}' and '{path}' have the same SOPInstanceUID: expected one of its "
                f"own for each of the {len(datasets)} images, found {uid} twice, so nothing can "
                "refer to one of them. Write another format (--format nifti), or have the series "
                "repaired."
            )
