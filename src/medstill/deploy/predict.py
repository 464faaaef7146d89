"""From image files to label files: one file, a DICOM folder, or a folder of files.

Needs the core install alone: numpy, SimpleITK and, for exported networks, onnxruntime.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from medstill.deploy.calls import Network
from medstill.deploy.cases import NIFTI, CaseResult, PredictOptions, check_absent, write_case
from medstill.deploy.dicom_case import asks_for_dicom, predict_series
from medstill.deploy.files import check_outputs, check_slices, images_alone, single_job
from medstill.deploy.folder import predict_folder
from medstill.deploy.segmentation import Segmentation, segment
from medstill.deploy.segmenter import Model, Segmenter
from medstill.errors import DataError
from medstill.volumes.arriving import opened
from medstill.volumes.checks import is_dicom
from medstill.volumes.io import suffix_of

__all__ = [
    "CaseResult",
    "Model",
    "Network",
    "PredictOptions",
    "Segmentation",
    "predict_path",
    "segment",
]


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
    DICOM) become PNG or `.nii.gz`, unless another is asked for. In a folder, the files
    `CASE_0000`, `CASE_0001`, ... of a model of so many channels are one case; one bad case does not
    end the rest, finished cases of the same model are skipped, and `volumes.json` sums up.

    Args:
        model: The network with its contract.
        source: What to segment.
        target: The label file, or a folder for it; for a folder of files, a folder.
        options: How.
        on_case: Called with each result as it comes, one at a time, not always in this thread.

    Returns:
        One result a case, in the order of their names. Look at `error` of each.

    Raises:
        DataError: A single image is wrong, its output exists, or the input would be overwritten.
        LayoutError: There is nothing to segment, or a folder holds images and a DICOM series.
        RunError: The output folder holds predictions of another model or of other options.
        StorageError: The output cannot be written.
    """
    source, target = Path(source), Path(target)
    options = options or PredictOptions()
    report = on_case or _nothing
    segmenter = _segmenter(model, options)
    if asks_for_dicom(target, options):
        result = predict_series(segmenter, _series_source(source), target, options)
        report(result)
        return (result,)
    files = images_alone(source) if source.is_dir() else ()
    if files:
        return predict_folder(segmenter, files, target, options, report)
    channels = model.contract.preparation.channels
    job = single_job(
        source,
        target,
        channels,
        nifti=options.format == NIFTI,
        probabilities=options.keep_probabilities,
    )
    check_outputs([job])
    check_absent(job.outputs, options)
    with opened(job.inputs) as scan:
        check_slices(job.output, source, len(scan.raw_CZYX[0]))
        found = segmenter.scan(scan)
    result = write_case(job, found, overwrite=options.overwrite)
    report(result)
    return (result,)


def _series_source(source: Path) -> Path:
    if not source.is_file() or suffix_of(source) == ".dcm" or is_dicom(source):
        return source
    raise DataError(
        f"'{source}' is no DICOM image: expected a folder or file of a DICOM series, since "
        "--format dicom-seg, --rtstruct, --capture, --series or an output named .dcm refer to one. "
        "Give the series, or leave these options out."
    )


def _nothing(_: CaseResult) -> None:
    pass


def _segmenter(model: Model, options: PredictOptions) -> Segmenter:
    return Segmenter(
        model,
        overlap=options.overlap,
        batch_size=options.batch_size,
        mirror=options.mirror,
        largest_component=options.largest_component,
        keep_probabilities=options.keep_probabilities,
    )
