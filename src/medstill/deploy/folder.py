"""A folder of scans: the next one is read and the last one written while one is computed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medstill.deploy.cases import NIFTI, CaseResult, PredictOptions, write_case
from medstill.deploy.files import Job, check_outputs, check_slices, folder_jobs
from medstill.deploy.foldersummary import FolderSummary, input_files
from medstill.deploy.segmentation import Segmentation
from medstill.deploy.segmenter import Segmenter
from medstill.errors import DataError, MedstillError, StorageError
from medstill.volumes.arriving import Arriving, opened
from medstill.volumes.io import suffix_of


def predict_folder(
    segmenter: Segmenter,
    files: Sequence[Path],
    target: Path,
    options: PredictOptions,
    report: Callable[[CaseResult], None],
) -> tuple[CaseResult, ...]:
    """Segment the images of a folder; see `predict_path`.

    Three cases are held at most: one that is read, one that is computed, one that is written.

    Raises:
        DataError: The output is named like a file, would overwrite an input, or two cases would
            share one.
        RunError: The output folder holds predictions of another model or of other options.
        StorageError: The output cannot be written.
    """
    if target.is_file() or suffix_of(target):
        raise DataError(
            f"The input is a folder of images, but the output '{target}' is named like a file. "
            "Give a folder."
        )
    channels = segmenter.contract.preparation.channels
    jobs = folder_jobs(
        files,
        target,
        channels,
        nifti=options.format == NIFTI,
        probabilities=options.keep_probabilities,
    )
    check_outputs(jobs)
    summary = FolderSummary(target, segmenter.contract, options)
    summary.open(overwrite=options.overwrite)

    def finish(case: _Case) -> CaseResult:
        made = _result(case, overwrite=options.overwrite)
        result = replace(made, number=jobs.index(case.job) + 1, count=len(jobs))
        summary.add(case.job, result)
        report(result)
        return result

    read = _one_ahead(lambda job: _read(job, summary, options.overwrite), jobs)
    segmented = (_segmented(case, segmenter) for case in read)
    return tuple(_one_ahead(finish, segmented))


def _one_ahead(function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
    """As `map`, but while the caller has a result, or waits for an item, the next is made."""
    with ThreadPoolExecutor(1) as pool:
        coming: Future[Any] | None = None
        for item in items:
            last, coming = coming, pool.submit(function, item)
            if last is not None:
                yield last.result()
        if coming is not None:
            yield coming.result()


@dataclass(frozen=True)
class _Case:
    """A case on its way: a scan, then a segmentation, or at once a result."""

    job: Job
    scan: Arriving | None = None
    found: Segmentation | None = None
    result: CaseResult | None = None


def _read(job: Job, summary: FolderSummary, overwrite: bool) -> _Case:
    there = [] if overwrite else [path for path in job.outputs if path.exists()]
    kept = _kept(job, there, summary) if there else None
    if kept is not None:
        return _Case(job, result=kept)
    return _attempt(job, lambda: _Case(job, scan=_whole(job)))


def _whole(job: Job) -> Arriving:
    with opened(job.inputs) as scan:
        check_slices(job.output, job.inputs[0], len(scan.raw_CZYX[0]))
        scan.whole()
        return scan


def _segmented(case: _Case, segmenter: Segmenter) -> _Case:
    scan = case.scan
    if scan is None:
        return case
    return _attempt(case.job, lambda: _Case(case.job, found=segmenter.scan(scan)))


def _result(case: _Case, *, overwrite: bool) -> CaseResult:
    job, found = case.job, case.found
    if found is not None:
        case = _attempt(job, lambda: _Case(job, result=write_case(job, found, overwrite=overwrite)))
    assert case.result is not None
    return case.result


def _attempt(job: Job, step: Callable[[], _Case]) -> _Case:
    try:
        return step()
    except StorageError:
        # A full disk will not be emptier for the next case.
        raise
    except (MedstillError, MemoryError, RuntimeError) as error:  # ITK raises RuntimeError
        message = str(error) or "There is not enough memory for this image."
        return _Case(job, result=CaseResult(job.case, job.output, {}, error=message))


def _kept(job: Job, there: Sequence[Path], summary: FolderSummary) -> CaseResult | None:
    """What becomes of a case of which some outputs exist; None if only the others are missing."""
    known = summary.known(job)
    made = {job.output.name, *known.files} if known and known.is_made else set()
    strange = next((path for path in there if path.name not in made), None)
    if known is None or strange is not None:
        note = (
            f"'{strange}' was there before and is not known to come from this model; it was "
            "left as it is. Remove it, or allow it to be replaced (--overwrite)."
        )
        return CaseResult(job.case, job.output, {}, (note,), skipped=True)
    if known.inputs != input_files(job):
        changed = (
            f"'{job.inputs[0]}' is not the file any more that '{there[0]}' was made of; what was "
            "made of the old one was left. Remove it, or allow it to be replaced (--overwrite)."
        )
        return CaseResult(job.case, job.output, {}, error=changed, skipped=True)
    if len(there) < len(job.outputs):
        return None
    volumes = summary.in_order(known.volumes_ml)
    return CaseResult(job.case, job.output, volumes, known.warnings, skipped=True)
