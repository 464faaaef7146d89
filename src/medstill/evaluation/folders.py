"""Scoring of masks on disk: a folder of predictions against a folder of truths."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from medstill.config import IGNORE
from medstill.errors import ConfigError, DataError, LabelError
from medstill.evaluation.scores import CaseScore, ModelScores, save_scores, score_case
from medstill.processes import worker_pool
from medstill.storage import check_no_input
from medstill.volumes.formats import IMAGE_SUFFIXES, is_flat, stem_of, suffix_of
from medstill.volumes.geometry import array_CZYX, geometry_of, spacing_zyx_mm
from medstill.volumes.io import check_same_grid, read_label

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")

SPECIAL = ("background", "ignore")
"""Label names that are no classes: value 0 by definition, and voxels that are not scored."""


@dataclass(frozen=True)
class MaskPair:
    """A prediction and its truth; the name that they share is the case."""

    case: str
    prediction: Path
    truth: Path


@dataclass(frozen=True)
class ScoredLabels:
    """Values in the files: of the classes, in order, and of ignored voxels of the truth."""

    classes: Mapping[str, int]
    ignore_value: int | None


def score_folders(
    prediction: Path,
    truth: Path,
    labels: Mapping[str, int] | None = None,
    *,
    tolerance_mm: float = 2.0,
    workers: int | None = 1,
    save: Path | None = None,
) -> ModelScores:
    """Score a folder of masks, or one mask, against the truth.

    Files are paired by their name without its suffix. Nothing says which cases are of one patient,
    so every case counts as a patient.

    Args:
        prediction: Folder or file.
        truth: Folder or file; every truth needs a prediction.
        labels: Class name -> value in the files. `background` is left out, `ignore` names the value
            of voxels of the truth that are not scored. None scores every value that occurs, under
            its number; 255 is then ignored where the truth has other classes beside it.
        tolerance_mm: Tolerance of the NSD.
        workers: Processes; None takes one per core, 1 works in this process.
        save: Where to write the scores as JSON.

    Raises:
        ConfigError: The tolerance is no length.
        DataError: No truth, a truth without a prediction, two files of one name, or `save` is a
            mask.
        GeometryError: A prediction does not lie on the grid of its truth.
        LabelError: A value that is not declared, or no class at all.
    """
    if not 0 <= tolerance_mm < math.inf:
        raise ConfigError(
            f"The NSD tolerance must be a length of 0 mm or more, but it is {tolerance_mm} mm. "
            "Give another one, such as 2."
        )
    pairs = pair_masks(prediction, truth)
    if save is not None:
        check_no_input([save], [*_files(prediction), *_files(truth)])
    if labels is None:
        found = _map(_values, pairs, workers)
        scored = _labels_found([t for t, _ in found], [p for _, p in found])
    else:
        scored = _labels_declared(labels)
    task = partial(_score_pair, labels=scored, tolerance_mm=tolerance_mm)
    scores = ModelScores(
        model=prediction.name,
        cases=tuple(_map(task, pairs, workers)),
        nsd_tolerance_mm=tolerance_mm,
    )
    if save is not None:
        save_scores(scores, save)
    return scores


def pair_masks(prediction: Path, truth: Path) -> tuple[MaskPair, ...]:
    """Pair predictions with truths by file name, sorted by it.

    Raises:
        DataError: No truth, a truth without a prediction, or two files of one name.
    """
    if prediction.is_file() and truth.is_file():
        return (MaskPair(stem_of(truth), prediction, truth),)
    predictions, truths = _masks(prediction), _masks(truth)
    if not truths:
        raise DataError(
            f"'{truth}' holds no masks: expected files ending in {', '.join(IMAGE_SUFFIXES)}. "
            "Give the folder of the true masks as the second one."
        )
    missing = sorted(set(truths) - set(predictions))
    if missing:
        more = f" and {len(missing) - 10} more" if len(missing) > 10 else ""
        raise DataError(
            f"'{prediction}' lacks a prediction for {len(missing)} of the {len(truths)} masks in "
            f"'{truth}': {', '.join(missing[:10])}{more}. Every truth needs a prediction of the "
            "same file name: predict these as well, or take their truth away."
        )
    unused = sorted(set(predictions) - set(truths))
    if unused:
        logger.warning("Not scored, since '%s' has no truth for: %s", truth, ", ".join(unused))
    return tuple(MaskPair(case, predictions[case], truths[case]) for case in sorted(truths))


def _files(masks: Path) -> Iterable[Path]:
    return _masks(masks).values() if masks.is_dir() else (masks,)


def _masks(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise DataError(
            f"'{folder}' is not a folder. Expected two folders of masks, or two mask files."
        )
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if not path.is_file() or path.name.startswith(".") or not suffix_of(path):
            continue
        case = stem_of(path)
        if case in found:
            raise DataError(
                f"'{folder}' has two masks named '{case}': {found[case].name} and {path.name}. "
                "Keep one of them."
            )
        found[case] = path
    return found


def _labels_declared(labels: Mapping[str, int]) -> ScoredLabels:
    classes = {name: value for name, value in labels.items() if name not in SPECIAL}
    values = list(classes.values())
    if not classes or len(set(values)) != len(values) or 0 in values:
        raise LabelError(
            f"The labels {dict(labels)} cannot be scored: expected at least one class, every class "
            "with a value of its own that is not 0."
        )
    return ScoredLabels(classes, labels.get("ignore", None if IGNORE in values else IGNORE))


def _labels_found(truths: Iterable[set[int]], predictions: Iterable[set[int]]) -> ScoredLabels:
    in_truth, predicted = set().union(*truths) - {0}, set().union(*predictions) - {0}
    ignores = IGNORE in in_truth and IGNORE not in predicted and len(in_truth) > 1
    values = sorted((in_truth | predicted) - ({IGNORE} if ignores else set()))
    if not values:
        raise LabelError(
            "All masks are empty: expected at least one value other than 0 in the truth or the "
            "predictions. Are these the right folders?"
        )
    return ScoredLabels({str(value): value for value in values}, IGNORE if ignores else None)


def _values(pair: MaskPair) -> tuple[set[int], set[int]]:
    # Held by name: an array view does not keep its image alive.
    truth, prediction = read_label(pair.truth), read_label(pair.prediction)
    return set(_values_in(array_CZYX(truth))), set(_values_in(array_CZYX(prediction)))


def _score_pair(pair: MaskPair, *, labels: ScoredLabels, tolerance_mm: float) -> CaseScore:
    truth, prediction = read_label(pair.truth), read_label(pair.prediction)
    flat = is_flat(pair.truth) or is_flat(pair.prediction)
    check_same_grid(truth, prediction, pair.truth, pair.prediction, size_only=flat)
    return score_case(
        _as_classes(array_CZYX(truth)[0], labels, labels.ignore_value, pair.truth),
        _as_classes(array_CZYX(prediction)[0], labels, None, pair.prediction),
        spacing_zyx_mm(geometry_of(truth)),
        tuple(labels.classes),
        case=pair.case,
        patient=pair.case,
        tolerance_mm=tolerance_mm,
    )


def _as_classes(
    array_ZYX: NDArray[Any], labels: ScoredLabels, ignore_value: int | None, path: Path
) -> NDArray[np.int32]:
    """Class values 0, 1, 2, ... and `IGNORE`, from the values in a file."""
    targets = {0: 0, **{v: i for i, v in enumerate(labels.classes.values(), start=1)}}
    if len(targets) > IGNORE:
        raise LabelError(
            f"Expected at most {IGNORE - 1} classes, found {len(targets) - 1}. Merge some of them, "
            "or score the masks in parts."
        )
    if ignore_value is not None:
        targets[ignore_value] = IGNORE
    present = _values_in(array_ZYX)
    unknown = [v for v in present if v not in targets]
    if unknown:
        raise LabelError(
            f"'{path}' holds the values {unknown[:10]}, but the labels are "
            f"{dict(labels.classes)}. Declare them, or remove them from the mask."
        )
    classes_ZYX = np.zeros(array_ZYX.shape, np.int32)
    for value in present:
        if targets[value]:
            classes_ZYX[array_ZYX == value] = targets[value]
    return classes_ZYX


def _values_in(array_ZYX: NDArray[Any]) -> list[int]:
    if np.issubdtype(array_ZYX.dtype, np.unsignedinteger) and array_ZYX.dtype.itemsize <= 2:
        # Counting is many times as fast as the sorting in np.unique.
        return [int(v) for v in np.flatnonzero(np.bincount(array_ZYX.ravel()))]
    return [int(v) for v in np.unique(array_ZYX)]


def _map(
    task: Callable[[Item], Result], items: Sequence[Item], workers: int | None
) -> list[Result]:
    count = min(workers or os.cpu_count() or 1, len(items))
    if count == 1:
        return [task(item) for item in items]
    with worker_pool(count) as pool:
        return list(pool.map(task, items))
