"""A folder of scans: the next one is read and the last one written while one is computed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from medstill.deploy.cases import NIFTI, CaseResult, PredictOptions, probability_file, write_case
from medstill.deploy.contract import Contract
from medstill.deploy.files import Job, check_outputs, folder_jobs
from medstill.deploy.segmentation import Segmentation
from medstill.deploy.segmenter import Segmenter
from medstill.errors import DataError, MedstillError, RunError, StorageError
from medstill.runs import read_json, write_json
from medstill.volumes.arriving import Arriving, opened
from medstill.volumes.io import suffix_of

SUMMARY_FILE: Final = "volumes.json"
"""Written into the output folder of a folder of files: volumes, warnings and errors by case."""


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
        RunError: The output folder holds predictions of another model.
        StorageError: The output cannot be written.
    """
    if target.is_file() or suffix_of(target):
        raise DataError(
            f"The input is a folder of images, but the output '{target}' is named like a file. "
            "Give a folder."
        )
    channels = segmenter.contract.preparation.channels
    jobs = folder_jobs(files, target, channels, nifti=options.format == NIFTI)
    check_outputs(jobs)
    summary = _Summary(target / SUMMARY_FILE, segmenter.contract)
    known = summary.open(overwrite=options.overwrite)

    def finish(case: _Case) -> CaseResult:
        result = replace(_result(case), number=jobs.index(case.job) + 1, count=len(jobs))
        summary.add(result)
        report(result)
        return result

    read = _one_ahead(lambda job: _read(job, known, options), jobs)
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


def _read(job: Job, known: dict[str, Any], options: PredictOptions) -> _Case:
    if _finished(job, options):
        return _Case(job, result=_kept(job, known))
    return _attempt(job, lambda: _Case(job, scan=_whole(job)))


def _whole(job: Job) -> Arriving:
    with opened(job.inputs) as scan:
        scan.whole()
        return scan


def _segmented(case: _Case, segmenter: Segmenter) -> _Case:
    scan = case.scan
    if scan is None:
        return case
    return _attempt(case.job, lambda: _Case(case.job, found=segmenter.scan(scan)))


def _result(case: _Case) -> CaseResult:
    if case.found is not None:
        found = case.found
        case = _attempt(case.job, lambda: _Case(case.job, result=write_case(case.job, found)))
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


def _finished(job: Job, options: PredictOptions) -> bool:
    wanted = [job.output]
    if options.keep_probabilities:
        wanted.append(probability_file(job.output))
    return not options.overwrite and all(path.exists() for path in wanted)


def _kept(job: Job, known: dict[str, Any]) -> CaseResult:
    entry = known.get(job.case)
    if entry is None or entry["error"] is not None:
        note = (
            f"'{job.output}' was there before and is not known to come from this model; it was "
            "left as it is. Remove it, or allow it to be replaced (--overwrite)."
        )
        return CaseResult(job.case, job.output, {}, (note,), skipped=True)
    volumes, warnings = dict(entry["volumes_ml"]), tuple(entry["warnings"])
    return CaseResult(job.case, job.output, volumes, warnings, skipped=True)


class _Summary:
    """The file that sums up a folder of predictions and says which model made them."""

    def __init__(self, path: Path, contract: Contract) -> None:
        self._path = path
        self._model = {
            "network": contract.network.name,
            "study_hash": contract.training.study,
            "weights_hash": contract.training.weights,
            "intended_use": contract.intended_use,
        }
        self._cases: dict[str, Any] = {}

    def open(self, *, overwrite: bool) -> dict[str, Any]:
        """Claim the folder; return what is known about its finished cases."""
        if self._path.exists() and not overwrite:
            content = read_json(self._path)
            if not isinstance(content, dict) or content.get("model") != self._model:
                raise RunError(
                    f"'{self._path.parent}' holds predictions of another model. Choose another "
                    "folder, or allow them to be replaced (--overwrite)."
                )
            self._cases = dict(content["cases"])
        self._write()
        return dict(self._cases)

    def add(self, result: CaseResult) -> None:
        """Note a result and write the file anew."""
        known = self._cases.get(result.case)
        if not (result.skipped and known is not None):
            self._cases[result.case] = {
                "file": result.output.name,
                "volumes_ml": result.volumes_ml,
                "warnings": list(result.warnings),
                "error": result.error,
            }
            self._write()

    def _write(self) -> None:
        write_json(self._path, {"model": self._model, "cases": self._cases})
