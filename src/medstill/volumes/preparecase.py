"""Prepare one case of a data set, unless that was done before."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from medstill.config import content_hash
from medstill.errors import GeometryError, IntensityError, RunError
from medstill.volumes.geometry import array_CZYX, spacing_zyx_mm
from medstill.volumes.intensity import INTENSITIES, percentiles_of, sampled
from medstill.volumes.io import content_hash_of, read_pair
from medstill.volumes.labels import LabelMapping
from medstill.volumes.preparation import prepare_image, prepare_label
from medstill.volumes.records import Case, CaseInfo, LabelArray, Preparation
from medstill.volumes.store import (
    Ranges,
    StoredCase,
    case_folder,
    open_case,
    read_case,
    write_case,
)

FORMAT = 1
"""Raise it when the same configuration begins to give other arrays."""
UNSCALED_FORMAT = 2
"""The same where a channel is not scaled: at 1 it was stored as float16."""


@dataclass(frozen=True)
class CaseJob:
    """All that a worker needs for one case."""

    case: Case
    data_root: Path
    out: Path
    preparation: Preparation
    mapping: LabelMapping


def prepare_case(job: CaseJob) -> StoredCase:
    """Prepare one case and write it, unless that was done before from the same files.

    Raises:
        DataError: The case is bad; the message names its file.
    """
    case = job.case
    content, key = _hashes(job)
    folder = case_folder(job.out, case.id)
    finished = _finished(folder, key)
    if finished is not None:
        return finished
    image, label = read_pair(case)
    try:
        prepared = prepare_image(image, job.preparation)
    except (GeometryError, IntensityError) as error:
        raise type(error)(f"'{case.images[0]}': {error}") from error
    voxels: tuple[int, ...] = ()
    label_ZYX = None
    if label is not None:
        label_ZYX = prepare_label(
            label, job.preparation, prepared.frame, job.mapping, source=str(case.label)
        )
        voxels = _voxels_by_class(label_ZYX, len(job.preparation.classes))
    info = CaseInfo(
        id=case.id,
        patient=case.pseudonym,
        site=case.site,
        labelled=label is not None,
        spacing_zyx_mm=spacing_zyx_mm(prepared.frame.grid),
        original_spacing_zyx_mm=spacing_zyx_mm(prepared.frame.canonical),
        voxels_by_class=voxels,
        image_file=tuple(_below(job.data_root, path) for path in case.images),
        label_file=None if case.label is None else _below(job.data_root, case.label),
        content_hash=content,
    )
    stored = StoredCase(info=info, raw_range=_raw_range(image), key=key)
    numbers = np.float32 if _unscaled(job.preparation) else np.float16
    write_case(folder, stored, prepared.array_CZYX, label_ZYX, numbers)
    return stored


def content_of(case: Case) -> str:
    """Hash of the files of a case, as `CaseInfo` keeps it; empty where one is missing.

    A missing file is an error that reading it words better.
    """
    sources = _sources(case)
    return content_hash_of(sources) if all(path.exists() for path in sources) else ""


def format_of(preparation: Preparation) -> int:
    """The format of the arrays that a preparation gives."""
    return UNSCALED_FORMAT if _unscaled(preparation) else FORMAT


def _sources(case: Case) -> tuple[Path, ...]:
    return (*case.images, *((case.label,) if case.label is not None else ()))


def _unscaled(preparation: Preparation) -> bool:
    return any(INTENSITIES[one.kind].bounds is None for one in preparation.intensity)


def _hashes(job: CaseJob) -> tuple[str, str]:
    """Hash of the source files, and of all that decides the prepared arrays."""
    case, sources = job.case, _sources(job.case)
    content = content_of(case)
    key = content_hash(
        {
            "content": content,
            "case": [case.id, case.patient, case.site, len(case.images), case.label is not None],
            "files": [_below(job.data_root, path) for path in sources],
            "preparation": job.preparation.model_dump(mode="json"),
            "labels": sorted(job.mapping.values.items()),
            "format": format_of(job.preparation),
        }
    )
    return content, key


def _finished(folder: Path, key: str) -> StoredCase | None:
    """The case of an earlier run, if it came from the same files and its arrays can be opened."""
    with suppress(RunError):
        stored = read_case(folder)
        if stored.key == key:
            open_case(folder)
            return stored
    return None


def _raw_range(image: sitk.Image) -> Ranges:
    return tuple(percentiles_of(sampled(raw_ZYX), (1, 99)) for raw_ZYX in array_CZYX(image))


def _voxels_by_class(label_ZYX: LabelArray, classes: int) -> tuple[int, ...]:
    counts = np.bincount(label_ZYX.ravel(), minlength=classes)[:classes]
    return tuple(int(count) for count in counts)


def _below(root: Path, path: Path) -> str:
    """The path as seen from the data folder, with `/`."""
    with suppress(ValueError):
        return Path(os.path.relpath(path, root)).as_posix()
    return path.as_posix()
