"""Which files are one case, and what its output is called.

A label file is named after its image, in the same format where that holds labels exactly.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from medstill.errors import DataError, GeometryError, LayoutError
from medstill.storage import check_no_input
from medstill.volumes.checks import is_dicom
from medstill.volumes.io import IMAGE_SUFFIXES, is_flat, stem_of, suffix_of

_LOSSLESS: Final = (".nii.gz", ".nii", ".nrrd", ".mha", ".png", ".tif", ".tiff")
_NIFTI: Final = (".nii.gz", ".nii")
_LONGEST_NAME: Final = 255
_SMALL: Final = (*_NIFTI, ".mha")
"""Endings that ITK does not know in capitals."""
_CHANNEL: Final = re.compile(r"^(?P<case>.+)_(?P<channel>\d{4})$")


@dataclass(frozen=True)
class Job:
    """One case: its image, of one file a channel, its label file, and whether probabilities too."""

    case: str
    inputs: tuple[Path, ...]
    output: Path
    probabilities: bool = False

    @property
    def outputs(self) -> tuple[Path, ...]:
        """All files that are written, the label file first."""
        more = (probability_file(self.output),) if self.probabilities else ()
        return (self.output, *more)


def probability_file(output: Path) -> Path:
    """Where the probabilities of a label file lie."""
    suffix = ".nii.gz" if is_flat(output) or suffix_of(output) == ".dcm" else suffix_of(output)
    return output.with_name(f"{stem_of(output)}_probabilities{suffix}")


def folder_jobs(
    files: Iterable[Path],
    target: Path,
    channels: int,
    *,
    nifti: bool = False,
    probabilities: bool = False,
) -> list[Job]:
    """One job a case among the images of a folder, in the order of the cases' names.

    Args:
        files: The images.
        target: The folder of the outputs.
        channels: Channels of the model; so many files `CASE_0000`, ... are one case.
        nifti: Whether labels become NIfTI whatever the image is.
        probabilities: Whether class probabilities are written too.
    """
    return [
        Job(case, inputs, target / _output_name(case, inputs[0], nifti), probabilities)
        for case, inputs in _cases(files, channels)
    ]


def single_job(
    source: Path, target: Path, channels: int, *, nifti: bool = False, probabilities: bool = False
) -> Job:
    """The job of one image file or one DICOM folder.

    Args:
        source: The image; of a channel file `CASE_0000` the other channels are found beside it.
        target: The label file, or the folder for it.
        channels: Channels of the model.
        nifti: Whether labels become NIfTI whatever the image is.
        probabilities: Whether class probabilities are written too.

    Raises:
        LayoutError: The folder is empty.
        DataError: The format of the output cannot hold labels, or its name is too long.
    """
    case, inputs = _scan(source, channels)
    if source.is_dir() and not any(source.iterdir()):
        raise LayoutError(
            f"The folder '{source}' is empty: expected images ({', '.join(IMAGE_SUFFIXES)}) or one "
            "DICOM series. Check the name."
        )
    _check_name(target, source)
    if suffix_of(target) and not target.is_dir():
        endings = _NIFTI if nifti else _LOSSLESS
        if suffix_of(target) not in endings:
            raise DataError(
                f"'{target}' cannot hold labels as asked: expected a name that ends with one of "
                f"{', '.join(endings)}, found '{suffix_of(target)}'. Choose .nii.gz, or .png for "
                "a picture."
            )
        if suffix_of(target) in _SMALL and not target.name.endswith(suffix_of(target)):
            raise DataError(
                f"'{target}' cannot be written under this name: expected the ending "
                f"'{suffix_of(target)}' in small letters, since ITK writes no other. Rename it."
            )
        return Job(case, inputs, target, probabilities)
    return Job(case, inputs, target / _output_name(case, source, nifti), probabilities)


def scan_files(source: Path, channels: int) -> tuple[Path, ...]:
    """The files of one scan: a channel file `CASE_0000` with the other channels beside it."""
    return _scan(source, channels)[1]


def _scan(source: Path, channels: int) -> tuple[str, tuple[Path, ...]]:
    """A case and its files; anything but one of a complete set of channel files is a case alone."""
    files = image_files(source.parent) if channels > 1 and source.is_file() else ()
    for case, inputs in _cases(files, channels):
        if source in inputs:
            return case, inputs
    return stem_of(source), (source,)


def _output_name(case: str, source: Path, nifti: bool) -> str:
    if nifti:
        return case + ".nii.gz"
    if suffix_of(source) in _LOSSLESS:
        return case + suffix_of(source)
    return case + (".png" if is_flat(source) else ".nii.gz")


def image_files(folder: Path) -> tuple[Path, ...]:
    """The image files of a folder, sorted; DICOM files do not count, they form a series.

    A link whose file is away counts: a case is missing, which has to be said.
    """
    return tuple(
        sorted(
            path
            for path in folder.iterdir()
            if (path.is_file() or _is_broken(path))
            and not path.name.startswith(".")
            and suffix_of(path) not in ("", ".dcm")
        )
    )


def _is_broken(path: Path) -> bool:
    return path.is_symlink() and not path.exists()


def images_alone(folder: Path) -> tuple[Path, ...]:
    """The image files of a folder; none where it is a DICOM series.

    Raises:
        LayoutError: It holds both, so that one of them would be passed over in silence.
    """
    images = image_files(folder)
    if not images:
        return ()
    others = sorted(set(folder.iterdir()).difference(images))
    readable = (path for path in others if path.is_file() and os.access(path, os.R_OK))
    slice_ = next(filter(is_dicom, readable), None)
    if slice_ is not None:
        raise LayoutError(
            f"'{folder}' holds images ('{images[0].name}') and a DICOM series ('{slice_.name}'). "
            "Put them into folders of their own, or ask for a series (--series, --format "
            "dicom-seg)."
        )
    return images


def _cases(files: Iterable[Path], channels: int) -> list[tuple[str, tuple[Path, ...]]]:
    """Case names and their files, sorted: a complete set of `CASE_0000`, ... is one case."""
    found: list[tuple[str, tuple[Path, ...]]] = []
    groups: dict[tuple[str, str], dict[int, Path]] = {}
    for path in files:
        match = _CHANNEL.match(stem_of(path))
        if match:
            group = groups.setdefault((match["case"], suffix_of(path)), {})
            group[int(match["channel"])] = path
        else:
            found.append((stem_of(path), (path,)))
    for (case, _), group in groups.items():
        if sorted(group) == list(range(channels)):
            found.append((case, tuple(group[i] for i in range(channels))))
        else:
            found.extend((stem_of(path), (path,)) for path in group.values())
    return sorted(found)


def check_slices(output: Path, source: Path, slices: int) -> None:
    """Demand that labels of so many slices go into a file, before they are computed.

    Raises:
        GeometryError: The output is a picture, and there are several.
    """
    if is_flat(output) and slices != 1:
        raise GeometryError(
            f"The output '{output}' is a picture, which holds one slice, but '{source}' has "
            f"{slices}. Choose a name that ends with .nii.gz, or a folder and --format nifti."
        )


def check_outputs(jobs: Sequence[Job]) -> None:
    """Demand that no output is an input and that no two cases share an output.

    Raises:
        DataError: It is so, or a name is longer than file systems take.
    """
    check_no_input(
        (path for job in jobs for path in job.outputs),
        (path for job in jobs for path in job.inputs),
    )
    taken: dict[Path, Job] = {}
    for job in jobs:
        for output in job.outputs:
            _check_name(output, job.inputs[0])
            place = output.resolve()
            if place in taken:
                raise DataError(
                    f"'{job.inputs[0]}' and '{taken[place].inputs[0]}' are two cases that would "
                    f"both write '{output}'. Rename one of them."
                )
            taken[place] = job


def _check_name(output: Path, source: Path) -> None:
    length = len(os.fsencode(output.name))
    if length > _LONGEST_NAME:
        raise DataError(
            f"The name of the output '{output.name}' is too long: expected at most "
            f"{_LONGEST_NAME} bytes, found {length}. Choose a shorter one, or rename "
            f"'{source.name}'."
        )
