"""Overlays of the best, the median and the worst patient."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medstill.config import IGNORE
from medstill.refs import TEACHER, ModelRef
from medstill.reporting import wording
from medstill.reporting.overlays import Shape, View, shapes_of, view_of
from medstill.reporting.reading import Run, Slice, read_case_scores, read_prediction, read_slice


@dataclass(frozen=True)
class Panel:
    """One picture: the slice with the outlines of one label map."""

    title: str
    note: str
    shapes: tuple[Shape, ...]


@dataclass(frozen=True)
class Row:
    """The pictures of one patient."""

    rank: str
    case: str
    patient: str
    z: int
    key: str
    """Id of the slice, which is stored once in the page."""
    view: View
    first: bool
    """The row that stores the slice; the others refer to it."""
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Gallery:
    """The pictures of one student."""

    student: str
    seed: int
    rows: tuple[Row, ...]


def galleries(run: Run) -> tuple[Gallery, ...]:
    """For each student: input, truth, teacher, control and distilled of three patients.

    The patients are chosen by the mean Dice of the distilled arm of the first student, so that all
    students show the same ones.
    """
    seed = run.study.seeds[0]
    slices = {case: read_slice(run, case) for _, case in ranked(run)}
    shown: set[str] = set()
    found = []
    for student in run.study.students:
        rows = []
        for rank, case in ranked(run):
            slice_ = slices[case]
            if slice_ is not None:
                refs = {
                    arm: ModelRef(arm, student.called, seed) for arm in ("control", "distilled")
                }
                key = f"slice-{run.split.test.index(case)}"
                first = key not in shown
                shown.add(key)
                rows.append(
                    row_of(run, rank, slice_, {"teacher": TEACHER, **refs}, (case, key, first))
                )
        found.append(Gallery(student.called, seed, tuple(rows)))
    return tuple(gallery for gallery in found if gallery.rows)


def ranked(run: Run) -> tuple[tuple[str, str], ...]:
    """Best, median and worst test patient with the first case of each.

    Fewer than three when there are fewer patients.
    """
    row = run.summary.model(run.study.students[0].called, "distilled")
    values = row.patients.get("dice", {}) if row is not None else {}
    order = sorted(values, key=lambda patient: (-values[patient], patient))
    if not order:
        return ()
    places = {"best": 0, "median": (len(order) - 1) // 2, "worst": len(order) - 1}
    chosen: dict[str, str] = {}
    for rank in ("best", "worst", "median"):
        chosen.setdefault(order[places[rank]], rank)
    cases = {run.split.patients[case]: case for case in sorted(run.split.test, reverse=True)}
    return tuple((chosen[patient], cases[patient]) for patient in order if patient in chosen)


def row_of(
    run: Run, rank: str, shown: Slice, refs: dict[str, ModelRef], place: tuple[str, str, bool]
) -> Row:
    """The pictures of one patient: input, truth, and what each of some networks makes of it.

    Args:
        run: Of the networks.
        rank: Why the patient is shown.
        shown: The slice.
        refs: Title -> network.
        place: Case, id of the slice in the page, and whether this row is the one that stores it.
    """
    classes = run.summary.class_names
    case, key, first = place
    labels = {arm: read_prediction(run, ref, case, shown) for arm, ref in refs.items()}
    truth_YX = np.where(shown.truth_YX == IGNORE, 0, shown.truth_YX)
    view = view_of(shown, [truth_YX, *(label for label in labels.values() if label is not None)])
    panels = [Panel("input", "", ()), Panel("truth", "", shapes_of(truth_YX, classes))]
    panels += [_panel(run, arm, ref, case, labels[arm]) for arm, ref in refs.items()]
    patient = run.split.patients[case]
    return Row(rank, case, patient, shown.z, key, view, first, tuple(panels))


def _panel(
    run: Run, arm: str, ref: ModelRef, case: str, label_YX: NDArray[np.uint8] | None
) -> Panel:
    if label_YX is None:
        return Panel(arm, "no prediction kept", ())
    score = read_case_scores(run, ref).get(case)
    dice = score.dice if score is not None else None
    return Panel(arm, f"Dice {wording.fixed(dice)}", shapes_of(label_YX, run.summary.class_names))
