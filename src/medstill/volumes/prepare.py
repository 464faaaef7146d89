"""Prepare a whole data set: one worker process per core, one case in memory in each."""

from __future__ import annotations

import logging
import os
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Executor, as_completed
from contextlib import suppress
from pathlib import Path

import SimpleITK as sitk

from medstill.config import DataConfig
from medstill.errors import DataError, LayoutError, RunError
from medstill.processes import NO_GUARD, worker_pool
from medstill.runs import STAGE_FILE, Stage
from medstill.storage import storage_errors
from medstill.volumes.checks import check_spacing, quiet
from medstill.volumes.geometry import canonical_spacing_zyx_mm, geometry_of
from medstill.volumes.io import is_flat, read_image
from medstill.volumes.labels import LabelMapping, resolve_labels
from medstill.volumes.preparation import resolve_preparation
from medstill.volumes.preparecase import CaseJob, format_of, prepare_case
from medstill.volumes.records import Dataset, Geometry, Preparation
from medstill.volumes.store import (
    PreparedSet,
    Skipped,
    StoredCase,
    data_hash_of,
    demand_foreground,
    open_set,
    seen_of,
    write_set,
)

LAYOUT = "layout"
"""Stands for the id where an entry of the data set's layout was left out."""

Outcome = tuple[CaseJob, StoredCase | DataError]

_logger = logging.getLogger(__name__)


def prepare(
    dataset: Dataset,
    data: DataConfig,
    out: Path,
    *,
    workers: int | None = None,
    skip_bad: bool = False,
    on_case: Callable[[str], None] | None = None,
) -> PreparedSet:
    """Prepare every case of a data set; finished cases of unchanged files are not repeated.

    Args:
        dataset: What was found on disk.
        data: How it is prepared.
        out: Folder of the prepared set.
        workers: Processes; None takes one per core. 1 works in this process.
        skip_bad: Leave bad cases out, and list them, instead of stopping at the first.
        on_case: Called with the id of each case when it is done or left out.

    Returns:
        The prepared set, which lists what was left out. Its `preparation.seen` covers all cases;
        `PreparedSet.seen` narrows it.

    Raises:
        DataError: The first bad case; or no case is left, or no label holds any foreground.
        ConfigError: A name or a number of the configuration is wrong.
        RunError: `out` holds another preparation or other files, or a worker died.
        StorageError: The disk is full or not writable.
    """
    _refuse_namesakes(dataset)
    mapping = resolve_labels(dataset, data)
    spacings, skipped = _spacings(dataset, skip_bad=skip_bad) if not data.spacing_mm else ([], [])
    preparation = resolve_preparation(dataset, data, spacings)
    _claim(out, preparation, mapping)
    left_out = {entry.id for entry in skipped}
    skipped += [Skipped(id=LAYOUT, reason=reason) for reason in dataset.left_out]
    jobs = [
        CaseJob(case, dataset.root, out, preparation, mapping)
        for case in dataset.cases
        if case.id not in left_out
    ]
    stored: list[StoredCase] = []
    for job, result in _results(jobs, workers or _cores()):
        if isinstance(result, DataError):
            if not skip_bad:
                raise result
            skipped.append(Skipped(id=job.case.id, reason=str(result)))
        else:
            stored.append(result)
        if on_case is not None:
            on_case(job.case.id)
    return _finish(out, preparation, stored, skipped)


def _spacings(
    dataset: Dataset, *, skip_bad: bool
) -> tuple[list[tuple[float, float, float]], list[Skipped]]:
    """Spacing of each case in canonical orientation, from headers alone where there are any."""
    spacings: list[tuple[float, float, float]] = []
    skipped: list[Skipped] = []
    for case in dataset.cases:
        try:
            spacings.append(canonical_spacing_zyx_mm(_header(case.images[0])))
        except DataError as error:
            if not skip_bad:
                raise
            skipped.append(Skipped(id=case.id, reason=str(error)))
    return spacings, skipped


def _header(path: Path) -> Geometry:
    if is_flat(path):
        return Geometry((1, 1, 1), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), (1, 0, 0, 0, 1, 0, 0, 0, 1))
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    if path.is_file():
        with suppress(RuntimeError), quiet():
            reader.ReadImageInformation()
            if reader.GetDimension() == 3:
                check_spacing(path, reader.GetSpacing())
                x, y, z = reader.GetSpacing()
                direction = tuple(reader.GetDirection())
                return Geometry((1, 1, 1), (x, y, z), (0.0, 0.0, 0.0), direction)
    # A DICOM folder, or something amiss: reading the image finds the words for it.
    return geometry_of(read_image(path))


def _claim(out: Path, preparation: Preparation, mapping: LabelMapping) -> None:
    """Take the folder for this preparation, and sweep what a killed run left in it."""
    stage = Stage(
        out,
        {
            "preparation": preparation.model_dump(mode="json"),
            "labels": {str(value): chosen for value, chosen in sorted(mapping.values.items())},
            "format": format_of(preparation),
        },
    )
    if out.exists() and not (out / STAGE_FILE).exists() and _holds_other_files(out):
        raise RunError(
            f"Expected an empty folder or prepared data in '{out}', found other files. "
            "Choose another output folder."
        )
    stage.begin()
    with storage_errors(out):
        for scratch in (*out.glob(".partial-*"), *out.glob("cases/.partial-*")):
            shutil.rmtree(scratch, ignore_errors=True)


def _holds_other_files(folder: Path) -> bool:
    if not folder.is_dir():
        return True
    return any(not entry.name.startswith(".partial-") for entry in folder.iterdir())


def _results(
    jobs: Sequence[CaseJob], workers: int
) -> Iterator[tuple[CaseJob, StoredCase | DataError]]:
    """Each job with its outcome, as they finish; leaving early cancels the rest."""
    workers = min(workers, len(jobs))
    if workers <= 1:
        for job in jobs:
            yield job, _attempt(job)
        return
    pool = worker_pool(workers, _one_thread)
    try:
        yield from _from_pool(pool, jobs)
    finally:
        pool.shutdown(cancel_futures=True)


def _from_pool(pool: Executor, jobs: Sequence[CaseJob]) -> Iterator[Outcome]:
    futures = {pool.submit(_attempt, job): job for job in jobs}
    for future in as_completed(futures):
        try:
            yield futures[future], future.result()
        except BrokenExecutor as error:
            raise RunError(
                "A worker process ended while it prepared a case, most likely for want of memory. "
                "Repeat the command with fewer workers (engine.workers); finished cases are kept. "
                f"{NO_GUARD}."
            ) from error


def _attempt(job: CaseJob) -> StoredCase | DataError:
    """A bad case is an answer, not a failure of the worker."""
    try:
        return prepare_case(job)
    except DataError as error:
        return error


def _one_thread() -> None:
    """The workers share the cores already, and leave it to the parent to answer Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)


def _finish(
    out: Path, preparation: Preparation, stored: list[StoredCase], skipped: list[Skipped]
) -> PreparedSet:
    if not stored:
        reasons = "; ".join(entry.reason for entry in skipped[:3])
        raise DataError(
            f"Expected at least one good case, found none: all {len(skipped)} were left out "
            f"({reasons}). Correct the files."
        )
    stored.sort(key=lambda case: case.info.id)
    infos = {case.info.id: case.info for case in stored}
    labelled = [info for info in infos.values() if info.labelled]
    if labelled:
        absent = demand_foreground(labelled, preparation.classes, where="the labels")
        if absent:
            _logger.warning("No case holds a voxel of: %s.", ", ".join(absent))
    write_set(
        PreparedSet(
            out,
            preparation.model_copy(update={"seen": seen_of(stored)}),
            infos,
            data_hash_of(infos.values(), preparation.classes),
            tuple(sorted(skipped, key=lambda entry: entry.id)),
        )
    )
    return open_set(out)


def _refuse_namesakes(dataset: Dataset) -> None:
    # Some file systems do not tell upper from lower case.
    counts = Counter(case.id.lower() for case in dataset.cases)
    twice = sorted(name for name, count in counts.items() if count > 1)
    if twice:
        raise LayoutError(
            f"Expected one case of each name in '{dataset.root}', found several called "
            f"{', '.join(twice[:5])}. Rename them."
        )


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
