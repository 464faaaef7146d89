"""One case of a prediction: what was asked, what became of it, and its files."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from medstill.deploy.files import Job, probability_file
from medstill.deploy.segmentation import Segmentation
from medstill.errors import DataError, unknown_name
from medstill.volumes.io import write_image

AUTO: Final = "auto"
NIFTI: Final = "nifti"
DICOM_SEG: Final = "dicom-seg"
FORMATS: Final = (AUTO, NIFTI, DICOM_SEG)


@dataclass(frozen=True)
class PredictOptions:
    """How files are predicted.

    Attributes:
        overlap: Share of a patch by which neighbours overlap; None takes the contract's.
        batch_size: Patches of one network call.
        mirror: Average over the mirror images of each patch.
        largest_component: Keep only the largest connected component of each class.
        keep_probabilities: Write the class probabilities too, as `CASE_probabilities`.
        overwrite: Replace outputs that exist.
        threads: Threads to compute with; None takes all cores.
        device: `cpu`, or another device of the installed onnxruntime.
        format: One of `FORMATS`: of the label file. `auto` goes by its name, and else by the image.
        rtstruct: Write contours beside it, as `CASE_rtstruct.dcm`; for a DICOM series.
        capture: Write a picture beside it, as `CASE_preview.dcm`; for a DICOM series.
        series: UID or description of the DICOM series to take, where there are several.
    """

    overlap: float | None = None
    batch_size: int = 2
    mirror: bool = False
    largest_component: bool = False
    keep_probabilities: bool = False
    overwrite: bool = False
    threads: int | None = None
    device: str = "cpu"
    format: str = AUTO
    rtstruct: bool = False
    capture: bool = False
    series: str | None = None

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise unknown_name("format of labels", self.format, FORMATS)


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
        number: The how manieth case it is, from 1.
        count: How many cases there are.
    """

    case: str
    output: Path
    volumes_ml: dict[str, float]
    warnings: tuple[str, ...] = ()
    error: str | None = None
    skipped: bool = False
    number: int = 1
    count: int = 1


def write_case(job: Job, found: Segmentation, *, overwrite: bool) -> CaseResult:
    """Write the labels of a case, and its probabilities if they were kept.

    Without `overwrite` a file that exists stays as it is, and the other one is written.

    Raises:
        StorageError: The output cannot be written.
    """
    # The label comes last: where it is, the case is finished.
    files = [(found.probabilities, probability_file(job.output)), (found.label, job.output)]
    for image, path in files:
        if image is not None and (overwrite or not path.exists()):
            write_image(image, path)
    return CaseResult(job.case, job.output, found.volumes_ml, found.warnings)


def check_absent(outputs: Iterable[Path], options: PredictOptions) -> None:
    """Demand that no output exists, unless outputs may be replaced.

    Raises:
        DataError: One does.
    """
    for path in outputs:
        if path.exists() and not options.overwrite:
            raise DataError(
                f"The output '{path}' exists already. Choose another name, or allow it to be "
                "replaced (--overwrite)."
            )
