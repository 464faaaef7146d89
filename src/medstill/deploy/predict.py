"""From image files to label files: one file, a DICOM folder, or a folder of files.

Needs the core install alone: numpy, SimpleITK and, for exported networks, onnxruntime.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from medstill.deploy.contract import Contract
from medstill.deploy.files import Job, check_outputs, folder_jobs, image_files, single_job
from medstill.deploy.segmentation import Float32Array, Network, Segmentation, segment
from medstill.errors import DataError, MedstillError, RunError, StorageError
from medstill.runs import read_json, write_json
from medstill.volumes.io import is_flat, read_channels, stem_of, suffix_of, write_image

__all__ = [
    "CaseResult",
    "Model",
    "Network",
    "PredictOptions",
    "Segmentation",
    "predict_path",
    "segment",
]

SUMMARY_FILE: Final = "volumes.json"
"""Written into the output folder of a folder of files: volumes, warnings and errors by case."""


class Model(Protocol):
    """A network with its contract: an exported file, or a network of a run folder."""

    @property
    def contract(self) -> Contract:
        """How images become its input and its output becomes labels."""
        ...

    def __call__(self, array: Float32Array, /) -> Float32Array:
        """Logits of a batch of prepared patches."""
        ...


@dataclass(frozen=True)
class PredictOptions:
    """How files are predicted.

    Attributes:
        overlap: Share of a patch by which neighbours overlap; None takes the contract's.
        batch_size: Patches of one network call.
        keep_probabilities: Write the class probabilities too, as `CASE_probabilities`.
        overwrite: Replace outputs that exist.
    """

    overlap: float | None = None
    batch_size: int = 8
    keep_probabilities: bool = False
    overwrite: bool = False


@dataclass(frozen=True)
class CaseResult:
    """What became of one image.

    Attributes:
        case: Its name.
        output: The label file, also where it could not be made.
        volumes_ml: Volume of each foreground class.
        warnings: Where the image lies outside what training saw.
        error: Why there is no output; None when there is one.
        skipped: Whether the output was there already.
    """

    case: str
    output: Path
    volumes_ml: dict[str, float]
    warnings: tuple[str, ...] = ()
    error: str | None = None
    skipped: bool = False


def predict_path(
    model: Model,
    source: Path,
    target: Path,
    options: PredictOptions | None = None,
    *,
    on_case: Callable[[CaseResult], None] | None = None,
) -> tuple[CaseResult, ...]:
    """Segment a file, a DICOM folder or every image of a folder, and write labels.

    A label file is named after its image; formats that cannot hold labels exactly (JPEG, GIF,
    DICOM) become PNG or `.nii.gz`. In a folder, the files `CASE_0000`, `CASE_0001`, ... of a model
    of so many channels are one case; one bad case does not end the rest, finished cases of the
    same model are skipped, and `volumes.json` sums up.

    Args:
        model: The network with its contract.
        source: What to segment.
        target: The label file, or a folder for it; for a folder of files, a folder.
        options: How.
        on_case: Called with each result as it comes.

    Returns:
        One result a case, in the order of their names. Look at `error` of each.

    Raises:
        DataError: A single image is wrong, its output exists, or the input would be overwritten.
        LayoutError: There is nothing to segment.
        RunError: The output folder holds predictions of another model.
        StorageError: The output cannot be written.
    """
    source, target = Path(source), Path(target)
    options = options or PredictOptions()
    report = on_case or _nothing
    files = image_files(source) if source.is_dir() else ()
    if files:
        return _predict_folder(model, files, target, options, report)
    job = single_job(source, target, model.contract.preparation.channels)
    check_outputs([job])
    if job.output.exists() and not options.overwrite:
        raise DataError(
            f"The output '{job.output}' exists already. Choose another name, or allow it to be "
            "replaced (--overwrite)."
        )
    result = _predict(model, job, options)
    report(result)
    return (result,)


def _nothing(_: CaseResult) -> None:
    pass


def _predict(model: Model, job: Job, options: PredictOptions) -> CaseResult:
    image = read_channels(job.inputs)
    contract = model.contract
    found = segment(
        image,
        model,
        contract.preparation,
        overlap=contract.overlap if options.overlap is None else options.overlap,
        batch_size=options.batch_size,
        keep_probabilities=options.keep_probabilities,
    )
    if found.probabilities is not None:
        write_image(found.probabilities, _probability_file(job.output))
    # The label comes last: where it is, the case is finished.
    write_image(found.label, job.output)
    return CaseResult(job.case, job.output, found.volumes_ml, found.warnings)


def _probability_file(output: Path) -> Path:
    suffix = ".nii.gz" if is_flat(output) else suffix_of(output)
    return output.with_name(f"{stem_of(output)}_probabilities{suffix}")


def _predict_folder(
    model: Model,
    files: Sequence[Path],
    target: Path,
    options: PredictOptions,
    report: Callable[[CaseResult], None],
) -> tuple[CaseResult, ...]:
    if target.is_file() or suffix_of(target):
        raise DataError(
            f"The input is a folder of images, but the output '{target}' is named like a file. "
            "Give a folder."
        )
    channels = model.contract.preparation.channels
    jobs = folder_jobs(files, target, channels)
    check_outputs(jobs)
    summary = _Summary(target / SUMMARY_FILE, model.contract)
    known = summary.open(overwrite=options.overwrite)
    results = []
    for job in jobs:
        result = _kept(job, known) if _finished(job, options) else None
        result = result or _attempt(model, job, options)
        summary.add(result)
        report(result)
        results.append(result)
    return tuple(results)


def _finished(job: Job, options: PredictOptions) -> bool:
    wanted = [job.output]
    if options.keep_probabilities:
        wanted.append(_probability_file(job.output))
    return not options.overwrite and all(path.exists() for path in wanted)


def _attempt(model: Model, job: Job, options: PredictOptions) -> CaseResult:
    try:
        return _predict(model, job, options)
    except StorageError:
        # A full disk will not be emptier for the next case.
        raise
    except (MedstillError, MemoryError, RuntimeError) as error:  # ITK raises RuntimeError
        message = str(error) or "There is not enough memory for this image."
        return CaseResult(job.case, job.output, {}, error=message)


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
