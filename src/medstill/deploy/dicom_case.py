"""A DICOM series as a case: one series of a study comes in, DICOM objects or a volume go out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from medstill.deploy.cases import DICOM_SEG, NIFTI, CaseResult, PredictOptions, check_absent
from medstill.deploy.dicom.telling import told_once
from medstill.deploy.files import check_slices, probability_file
from medstill.errors import DataError
from medstill.storage import check_no_input
from medstill.volumes.dicom import choose_series, read_series
from medstill.volumes.io import check_values, stem_of, suffix_of, write_image

if TYPE_CHECKING:
    from medstill.deploy.segmentation import Segmentation
    from medstill.deploy.segmenter import Segmenter
    from medstill.volumes.dicom import DicomImage

_DICOM: Final = ".dcm"
_OBJECTS: Final = {"": "write_seg", "_rtstruct": "write_rtstruct", "_preview": "write_capture"}
"""What follows the name of the label file -> what writes it."""

Writer = Callable[["Segmentation", "DicomImage"], object]


@dataclass(frozen=True)
class _Output:
    path: Path
    write: Writer


def asks_for_dicom(target: Path, options: PredictOptions) -> bool:
    """Whether something is asked for that only a DICOM series can give."""
    named = suffix_of(target) == _DICOM and not target.is_dir()
    asked = options.format == DICOM_SEG or options.rtstruct or options.capture
    return bool(asked or named or options.series)


def predict_series(
    segmenter: Segmenter, source: Path, target: Path, options: PredictOptions
) -> CaseResult:
    """Segment one series of a folder and write what is asked for.

    Beside the label file `NAME.dcm` (or of another format) lie `NAME_rtstruct.dcm`,
    `NAME_preview.dcm` and `NAME_probabilities.nii.gz`, where they are wanted.

    Args:
        segmenter: The network.
        source: A folder, those below it included; or a single file.
        target: The label file, or a folder for it.
        options: The series, the formats.

    Raises:
        DataError: There is no such series, it is no grid, or an output exists.
        MissingExtraError: highdicom is not installed.
        StorageError: An output cannot be written.
    """
    series = choose_series(source, options.series)
    label = _label_file(source, target, options)
    outputs = _outputs(label, segmenter, options)
    paths = [output.path for output in outputs]
    check_no_input(paths, series.files)
    check_absent(paths, options)
    image = read_series(series)
    check_values(image.image, source)
    check_slices(label, source, image.image.GetSize()[2])
    found = segmenter(image.image)
    # The label comes last: where it is, the case is finished.
    with told_once():
        for output in outputs:
            output.write(found, image)
    return CaseResult(stem_of(source), label, found.volumes_ml, found.warnings)


def _label_file(source: Path, target: Path, options: PredictOptions) -> Path:
    is_file = bool(suffix_of(target)) and not target.is_dir()
    if not is_file:
        ending = _DICOM if options.format == DICOM_SEG else ".nii.gz"
        return target / (stem_of(source) + ending)
    wanted = {DICOM_SEG: (_DICOM,), NIFTI: (".nii.gz", ".nii")}.get(options.format)
    if wanted and suffix_of(target) not in wanted:
        raise DataError(
            f"'{target}' does not fit the format '{options.format}': expected a name that ends "
            f"with {' or '.join(wanted)}, or a folder. Change the name or --format."
        )
    return target


def _outputs(label: Path, segmenter: Segmenter, options: PredictOptions) -> list[_Output]:
    """The files to write, the label file last."""
    wanted = [("_rtstruct", options.rtstruct), ("_preview", options.capture)]
    outputs = [_object(label, ending, segmenter) for ending, asked in wanted if asked]
    if options.keep_probabilities:
        outputs.append(_Output(probability_file(label), _write_probabilities(label)))
    if suffix_of(label) == _DICOM:
        return [*outputs, _object(label, "", segmenter)]
    return [*outputs, _Output(label, lambda found, _: write_image(found.label, label))]


def _object(label: Path, ending: str, segmenter: Segmenter) -> _Output:
    from medstill.deploy import dicom

    path = label.with_name(f"{stem_of(label)}{ending}{_DICOM}")
    # Looked up before anything is computed: that is when a missing extra is told.
    write = getattr(dicom, _OBJECTS[ending])
    return _Output(
        path, lambda found, image: write(found.label, image.sources, segmenter.contract, path)
    )


def _write_probabilities(label: Path) -> Writer:
    def write(found: Segmentation, _: DicomImage) -> None:
        assert found.probabilities is not None
        write_image(found.probabilities, probability_file(label))

    return write
