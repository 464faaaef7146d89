"""A run folder as frozen records: what the report shows, read from files alone."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, TypeAdapter, ValidationError

from medstill.config import StudentConfig, Study
from medstill.errors import RunError
from medstill.links import gallery_folder, prepared_folder
from medstill.refs import TEACHER, ModelRef, student_refs
from medstill.reporting.records import (
    LeftOut,
    Reconstruction,
    ScoredCase,
    Scores,
    Summary,
    Training,
)
from medstill.runs import MANIFEST_FILE, STAGE_FILE, read_json, read_stage
from medstill.volumes.geometry import array_CZYX, canonical
from medstill.volumes.io import read_label
from medstill.volumes.records import Preparation, Split

T = TypeVar("T")


class Manifest(BaseModel):
    """`manifest.json`."""

    study: Study
    study_hash: str
    versions: dict[str, str]


@dataclass(frozen=True)
class Slice:
    """One slice of a test case in the LPS frame."""

    image: NDArray[np.uint8]
    """`(Y, X)`, or `(Y, X, 3)` for colour."""
    truth_YX: NDArray[np.uint8]
    z: int
    spacing_yx_mm: tuple[float, float]


@dataclass(frozen=True)
class Run:
    """A finished and scored run."""

    folder: Path
    manifest: Manifest
    split: Split
    preparation: Preparation
    summary: Summary
    trainings: Mapping[ModelRef, Training]
    reconstruction: tuple[Reconstruction, ...]
    left_out: tuple[LeftOut, ...]

    @property
    def study(self) -> Study:
        """What was computed."""
        return self.manifest.study

    @property
    def photographs(self) -> bool:
        """Whether the images are plain pictures, whose files say nothing of left and right."""
        return self.preparation.intensity[0].kind in ("colour", "gray")


def read_run(folder: Path) -> Run:
    """Read a run folder whose every stage is finished.

    Raises:
        RunError: It is no run folder, a stage is missing or unfinished, or a file is damaged.
    """
    manifest = checked(folder / MANIFEST_FILE, Manifest)
    refs = (TEACHER, *student_refs(manifest.study))
    prepared = prepared_folder(folder)
    _demand(folder / "split.json", "prepared", "medstill prepare")
    trainings = {ref: _training(folder, ref) for ref in refs}
    _demand(folder / "comparison.json", "scored", f"medstill evaluate '{folder}' --data DATA")
    return Run(
        folder=folder,
        manifest=manifest,
        split=checked(folder / "split.json", Split),
        preparation=checked(prepared / "preparation.json", Preparation),
        summary=checked(folder / "comparison.json", Summary),
        trainings=trainings,
        reconstruction=_optional(
            TEACHER.folder(folder) / "test" / "reconstruction.json", tuple[Reconstruction, ...], ()
        ),
        left_out=_optional(prepared / "skipped.json", tuple[LeftOut, ...], ()),
    )


def read_training(folder: Path) -> Training:
    """How a finished training ended, and its way there.

    Raises:
        RunError: A file is missing or damaged.
    """
    content = {**read_stage(folder)["result"], "history": read_json(folder / "history.json")}
    return validated(folder / STAGE_FILE, Training, content)


def read_slice(run: Run, case: str) -> Slice | None:
    """The slice kept of a test case; None when none was kept.

    Raises:
        RunError: The file is damaged.
    """
    path = gallery_folder(run.folder) / f"{case}.npz"
    if not path.exists():
        return None
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            y_mm, x_mm = (float(step) for step in stored["spacing_yx_mm"])
            return Slice(stored["image"], stored["truth"], int(stored["z"]), (y_mm, x_mm))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise _damaged(path, str(error)) from error


def read_prediction(run: Run, ref: ModelRef, case: str, shown: Slice) -> NDArray[np.uint8] | None:
    """The predicted classes `(Y, X)` on a slice of a test case; None without a prediction.

    Raises:
        RunError: The prediction does not lie on the grid of the slice.
    """
    path = ref.folder(run.folder) / "test" / "predictions" / f"{case}.nii.gz"
    if not path.exists():
        return None
    # The volume is turned as the scan was: its own axes may run otherwise than the picture's.
    label_ZYX = array_CZYX(canonical(read_label(path)))[0].astype(np.uint8)
    if shown.z >= len(label_ZYX) or label_ZYX.shape[1:] != shown.truth_YX.shape:
        raise RunError(
            f"Expected '{path}' to hold slice {shown.z} of {shown.truth_YX.shape} pixels, found a "
            f"volume of {label_ZYX.shape} (z, y, x). Delete the folders 'gallery' and 'test' of "
            "the run and score it again."
        )
    slice_YX: NDArray[np.uint8] = label_ZYX[shown.z]
    return slice_YX


def read_case_scores(run: Run, ref: ModelRef) -> dict[str, ScoredCase]:
    """Case -> scores of one trained network; empty when it was not scored.

    Raises:
        RunError: The file is damaged.
    """
    empty = Scores(cases=())
    scores = _optional(ref.folder(run.folder) / "test" / "scores.json", Scores, empty)
    return {case.case: case for case in scores.cases}


def facts_of(run: Run, student: StudentConfig | None = None) -> Training:
    """A training of a student of the study, for what all its seeds share; None is the teacher."""
    if student is None:
        return run.trainings[TEACHER]
    return next(found for ref, found in run.trainings.items() if ref.student == student.called)


def parts_of(split: Split) -> list[tuple[str, int, int]]:
    """What each part of the split is for, its patients and its cases."""
    named = (
        ("Teacher: training, with labels", split.train),
        ("Students: training, with labels", split.student),
        ("Without labels", split.unlabelled),
        ("Validation: chooses the checkpoint", split.validation),
        ("Test: scored once, seen by no network", split.test),
    )
    return [
        (name, len({split.patients.get(case, case) for case in cases}), len(cases))
        for name, cases in named
        if cases
    ]


def _training(folder: Path, ref: ModelRef) -> Training:
    path = ref.folder(folder) / STAGE_FILE
    if not path.exists() or not read_stage(path.parent).get("finished"):
        raise RunError(
            f"The training of '{ref.name}' in '{folder}' is not finished, and the report shows "
            "all of them. Finish it first: 'medstill run' on the same folder takes it up again."
        )
    return read_training(path.parent)


def _demand(path: Path, state: str, command: str) -> None:
    if not path.exists():
        raise RunError(
            f"Expected a run that is {state}, but '{path}' is missing. Run '{command}' first, or "
            "'medstill run', which does all that is left to do."
        )


def checked(path: Path, kind: type[T]) -> T:
    """A JSON file as a record.

    Raises:
        RunError: The file is missing or damaged.
    """
    return validated(path, kind, read_json(path))


def _optional(path: Path, kind: type[T], default: T) -> T:
    return checked(path, kind) if path.exists() else default


def validated(path: Path, kind: type[T], content: Any) -> T:
    """What was read from `path` as a record.

    Raises:
        RunError: It is no such record.
    """
    try:
        return TypeAdapter(kind).validate_python(content, strict=False)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise _damaged(path, f"{place}: {first['msg']}") from error


def _damaged(path: Path, reason: str) -> RunError:
    return RunError(
        f"'{path}' is damaged or of another version ({reason}). Delete it and repeat the stage "
        "that writes it with 'medstill run'."
    )
