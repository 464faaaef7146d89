"""Scores of predictions, per case and class, and their means per patient.

The patient is the unit: a patient's score is the mean over their cases. What happens to a structure
that is missed or invented is decided here and nowhere else.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from medstill.config import IGNORE, Record
from medstill.errors import DataError, RunError, unknown_name
from medstill.evaluation.overlap import Labels, VoxelCounts, count_voxels
from medstill.evaluation.surface import Mask, diagonal_mm, surface_distances
from medstill.runs import read_json, write_json

Metric = Literal["dice", "iou", "recall", "precision", "hd95_mm", "assd_mm", "nsd"]
METRICS: tuple[Metric, ...] = get_args(Metric)
HIGHER_IS_BETTER: dict[Metric, bool] = {
    "dice": True,
    "iou": True,
    "recall": True,
    "precision": True,
    "hd95_mm": False,
    "assd_mm": False,
    "nsd": True,
}

State = Literal["scored", "missed", "invented", "empty"]


class ClassScore(Record):
    """One class of one case. Every metric is None when the class is in neither mask (`empty`)."""

    class_name: str
    state: State
    """`missed`: only in the truth. `invented`: only in the prediction."""
    dice: float | None
    iou: float | None
    recall: float | None
    precision: float | None
    hd95_mm: float | None
    assd_mm: float | None
    nsd: float | None
    truth_ml: float
    predicted_ml: float


class CaseScore(Record):
    """All foreground classes of one case."""

    case: str
    patient: str
    classes: tuple[ClassScore, ...]


class ModelScores(Record):
    """All cases that one model was scored on."""

    model: str
    cases: tuple[CaseScore, ...]
    nsd_tolerance_mm: float

    @property
    def class_names(self) -> tuple[str, ...]:
        """The foreground classes in the order of their values."""
        return tuple(c.class_name for c in self.cases[0].classes) if self.cases else ()

    @property
    def patients(self) -> tuple[str, ...]:
        """Every patient, scored or not, sorted."""
        return tuple(sorted({case.patient for case in self.cases}))

    def per_patient(self, class_name: str, metric: Metric) -> dict[str, float]:
        """Patient -> mean of a metric over the patient's cases.

        Patients whose every case is `empty` are left out.

        Raises:
            UnknownNameError: No class or metric of that name.
        """
        _known_metric(metric)
        if class_name not in self.class_names:
            raise unknown_name("class", class_name, self.class_names)
        found: dict[str, list[float]] = {}
        for case in self.cases:
            for score in case.classes:
                value = getattr(score, metric)
                if score.class_name == class_name and value is not None:
                    found.setdefault(case.patient, []).append(value)
        return _means(found)

    def per_patient_mean(self, metric: Metric) -> dict[str, float]:
        """Patient -> mean of a metric over the foreground classes that have a score.

        Raises:
            UnknownNameError: No metric of that name.
        """
        found: dict[str, list[float]] = {}
        for name in self.class_names:
            for patient, value in self.per_patient(name, metric).items():
                found.setdefault(patient, []).append(value)
        return _means(found)

    def summary(self, metric: Metric) -> float | None:
        """Mean over patients of the mean over classes; None when nothing is scored.

        Raises:
            UnknownNameError: No metric of that name.
        """
        values = list(self.per_patient_mean(metric).values())
        return math.fsum(values) / len(values) if values else None

    def count(self, state: State, class_name: str | None = None) -> int:
        """How many structures are in a state, in one class or in all."""
        return sum(
            score.state == state and class_name in (None, score.class_name)
            for case in self.cases
            for score in case.classes
        )


def score_case(
    truth_ZYX: Labels,
    prediction_ZYX: Labels,
    spacing_zyx_mm: Sequence[float],
    classes: Sequence[str],
    *,
    case: str,
    patient: str,
    tolerance_mm: float = 2.0,
) -> CaseScore:
    """Score one prediction.

    Args:
        truth_ZYX: Class values; voxels of 255 are taken out of truth and prediction.
        prediction_ZYX: Class values of the same shape.
        spacing_zyx_mm: Voxel spacing.
        classes: Names of the foreground classes in the order of their values 1, 2, ...
        case: Its id.
        patient: The patient it is of.
        tolerance_mm: Tolerance of the NSD.

    Raises:
        ShapeError: The two shapes differ.
        LabelError: A value lies outside the classes.
    """
    counts = count_voxels(truth_ZYX, prediction_ZYX, len(classes) + 1)
    ignored = truth_ZYX == IGNORE
    scores = []
    for value, name in enumerate(classes, start=1):
        truth, predicted = truth_ZYX == value, (prediction_ZYX == value) & ~ignored
        distances = _distances(truth, predicted, spacing_zyx_mm, tolerance_mm)
        scores.append(_class_score(name, value, counts, distances, math.prod(spacing_zyx_mm)))
    return CaseScore(case=case, patient=patient, classes=tuple(scores))


def save_scores(scores: ModelScores, path: Path) -> None:
    """Write scores as JSON, all or nothing."""
    write_json(path, scores.model_dump(mode="json"))


def load_scores(path: Path) -> ModelScores:
    """Read what `save_scores` wrote.

    Raises:
        RunError: The file is missing, damaged or holds no scores.
    """
    content = read_json(path)
    try:
        return ModelScores.model_validate(content)
    except ValueError as error:
        raise RunError(
            f"'{path}' does not hold the scores of a model ({error}). "
            "Delete it and repeat the evaluation."
        ) from error


def same_patients(models: Iterable[ModelScores]) -> tuple[str, ...]:
    """The patients that all models were scored on, sorted.

    Raises:
        DataError: Two models were scored on different cases or classes.
    """
    models = list(models)
    first = models[0]
    for other in models[1:]:
        if other.class_names != first.class_names:
            raise DataError(
                f"'{first.model}' is scored on the classes {list(first.class_names)}, but "
                f"'{other.model}' on {list(other.class_names)}. Score both on the same labels."
            )
        unlike = {(c.case, c.patient) for c in first.cases} ^ {
            (c.case, c.patient) for c in other.cases
        }
        if unlike:
            raise DataError(
                f"'{first.model}' and '{other.model}' are not scored on the same cases: only one "
                f"of them has {', '.join(sorted(case for case, _ in unlike)[:5])}. "
                "Repeat the evaluation of both."
            )
    return first.patients


def _distances(
    truth: Mask, predicted: Mask, spacing_zyx_mm: Sequence[float], tolerance_mm: float
) -> tuple[float | None, float | None, float | None]:
    """HD95, ASSD and NSD, with the rule for empty masks."""
    if truth.any() and predicted.any():
        found = surface_distances(truth, predicted, spacing_zyx_mm)
        return found.hausdorff_mm(), found.average_mm(), found.surface_dice(tolerance_mm)
    if truth.any() or predicted.any():
        diagonal = diagonal_mm(truth.shape, spacing_zyx_mm)
        return diagonal, diagonal, 0.0
    return None, None, None


def _class_score(
    name: str,
    value: int,
    counts: VoxelCounts,
    distances: tuple[float | None, float | None, float | None],
    voxel_mm3: float,
) -> ClassScore:
    truth, predicted = int(counts.truth_C[value]), int(counts.predicted_C[value])
    state: State = "scored"
    if not (truth and predicted):
        state = "missed" if truth else "invented" if predicted else "empty"
    overlap: dict[str, float | None] = {}
    for metric in ("dice", "iou", "recall", "precision"):
        share = float(getattr(counts, metric)()[value])
        # One of recall and precision is 0 / 0 when one mask is empty: it counts as 0.
        overlap[metric] = None if state == "empty" else float(np.nan_to_num(share))
    return ClassScore(
        class_name=name,
        state=state,
        hd95_mm=distances[0],
        assd_mm=distances[1],
        nsd=distances[2],
        truth_ml=truth * voxel_mm3 / 1000,
        predicted_ml=predicted * voxel_mm3 / 1000,
        **overlap,
    )


def _known_metric(metric: str) -> None:
    if metric not in METRICS:
        raise unknown_name("metric", metric, METRICS)


def _means(values: Mapping[str, Sequence[float]]) -> dict[str, float]:
    return {key: math.fsum(found) / len(found) for key, found in sorted(values.items())}
