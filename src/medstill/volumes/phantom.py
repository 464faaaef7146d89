"""The CT phantom: drawn abdominal CT patients in the Decathlon layout.

It is for demonstrations and tests, and needs no download and no permission. Body, pose, organs,
contrast phase, noise and resolution differ by patient: see `phantom_anatomy`, `phantom_scan`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from medstill.errors import ConfigError, RunError
from medstill.processes import NO_GUARD, worker_pool
from medstill.runs import atomic_folder, read_json, write_json
from medstill.volumes.io import write_image
from medstill.volumes.phantom_scan import draw_patient
from medstill.volumes.phantom_tissues import LABELS

logger = logging.getLogger(__name__)

REVISION = 1
"""Raised whenever the same parameters give other bytes."""

LEAST_SIZE_ZYX = (8, 48, 48)
"""Smallest volume in which every organ is sure to have voxels."""

SMALL_VOXELS = 2_000_000
"""Work below this is quicker in this process than in new ones."""


def write_phantom(
    out: Path,
    *,
    patients: int,
    seed: int = 0,
    size_zyx: tuple[int, int, int] = (40, 160, 160),
    workers: int | None = None,
) -> None:
    """Write drawn CT patients with six labelled organs as a Decathlon data set.

    The same arguments give the same bytes. Patient `i` depends on `seed`, `i` and `size_zyx` alone,
    neither on `patients` nor on `workers`. The body fills the field of view at every size; at the
    default size voxels are about 4 x 2 x 2 mm. New processes are spawned, so a script that calls
    this needs the usual `if __name__ == "__main__"`.

    Args:
        out: New or empty folder. A phantom of the same arguments is left as it is.
        patients: How many, at least 1.
        seed: Seed, at least 0.
        size_zyx: Slices, rows and columns, at least 8 x 48 x 48.
        workers: Processes; by default one per core, and none besides this one for little work.

    Raises:
        ConfigError: A number is too small.
        RunError: `out` holds something else.
        StorageError: The disk is full or not writable.
    """
    out = Path(out)
    _check(patients, seed, size_zyx, workers)
    parameters = {
        "revision": REVISION,
        "patients": patients,
        "seed": seed,
        "size_zyx": list(size_zyx),
    }
    if _finished(out, parameters):
        logger.info("The phantom in '%s' is there already.", out)
        return
    with atomic_folder(out) as draft:
        (draft / "imagesTr").mkdir()
        (draft / "labelsTr").mkdir()
        jobs = [(draft, seed, index, size_zyx) for index in range(patients)]
        count = _worker_count(workers, patients, size_zyx)
        if count == 1:
            with _one_itk_thread():
                for job in jobs:
                    _write_patient(job)
        else:
            _write_in_pool(jobs, count)
        write_json(draft / "dataset.json", _description(parameters))


def _check(patients: int, seed: int, size_zyx: tuple[int, int, int], workers: int | None) -> None:
    small = [n for n, least in zip(size_zyx, LEAST_SIZE_ZYX, strict=True) if n < least]
    if patients < 1 or seed < 0 or small or (workers is not None and workers < 1):
        raise ConfigError(
            "A phantom needs patients >= 1, seed >= 0, workers >= 1 and a size of at least "
            f"{LEAST_SIZE_ZYX} slices, rows and columns; got patients={patients}, seed={seed}, "
            f"workers={workers}, size {tuple(size_zyx)}. Ask for larger numbers."
        )


def _finished(out: Path, parameters: dict[str, Any]) -> bool:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    where = out / "dataset.json"
    content = read_json(where) if where.is_file() else {}
    found = content.get("phantom") if isinstance(content, dict) else None
    if found is None:
        raise RunError(f"'{out}' is not empty and holds no phantom. Choose a new output folder.")
    if found != parameters:
        raise RunError(
            f"'{out}' holds another phantom: expected {parameters}, found {found}. "
            "Choose another output folder, or delete this one to draw it anew."
        )
    expected = [out / entry[kind] for entry in content["training"] for kind in ("image", "label")]
    lost = [path for path in expected if not path.is_file()]
    if lost:
        raise RunError(
            f"The phantom in '{out}' has lost {len(lost)} of its {len(expected)} files "
            f"(the first is '{lost[0]}'). Delete the folder to draw it anew."
        )
    return True


def _description(parameters: dict[str, Any]) -> dict[str, Any]:
    names = [_file_name(index) for index in range(parameters["patients"])]
    return {
        "name": "CT phantom",
        "description": "Drawn abdominal CT patients; no person was scanned.",
        "modality": {"0": "CT"},
        "labels": {str(value): name for value, name in enumerate(LABELS)},
        "numTraining": len(names),
        "numTest": 0,
        "training": [
            {"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"} for name in names
        ],
        "test": [],
        "phantom": parameters,
    }


def _file_name(index: int) -> str:
    return f"phantom_{index:03d}.nii.gz"


def _worker_count(workers: int | None, patients: int, size_zyx: tuple[int, int, int]) -> int:
    if workers is None:
        little = patients * int(np.prod(size_zyx)) < SMALL_VOXELS
        workers = 1 if little else (os.cpu_count() or 1)
    return min(workers, patients)


Job = tuple[Path, int, int, tuple[int, int, int]]


def _write_in_pool(jobs: list[Job], count: int) -> None:
    try:
        with worker_pool(count, _start_worker) as pool:
            for _ in pool.map(_write_patient, jobs):
                pass
    except BrokenProcessPool as error:
        raise RunError(
            "A process that draws the phantom was ended from outside, perhaps for lack of memory. "
            f"Close other programs, or repeat with fewer workers than {count}. "
            f"{NO_GUARD}."
        ) from error


def _start_worker() -> None:
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)


@contextmanager
def _one_itk_thread() -> Iterator[None]:
    before = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before)


def _write_patient(job: Job) -> None:
    folder, seed, index, size_zyx = job
    image, label = draw_patient(seed, index, size_zyx)
    write_image(image, folder / "imagesTr" / _file_name(index))
    write_image(label, folder / "labelsTr" / _file_name(index))
