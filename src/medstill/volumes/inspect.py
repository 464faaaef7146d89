"""What a data set holds and what is wrong with it."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import SimpleITK as sitk

from medstill.errors import DataError
from medstill.processes import worker_pool
from medstill.volumes.inspect_case import CaseRow, row_of
from medstill.volumes.layouts import examine
from medstill.volumes.records import Dataset

__all__ = ["CaseRow", "Inspection", "LabelRow", "Spread", "demand_sound", "inspect"]

FEWEST_PATIENTS = 3
"""One each to train, to validate and to test."""


@dataclass(frozen=True)
class LabelRow:
    """One label over all usable cases."""

    name: str
    value: int
    cases: int
    """Cases in which it occurs."""
    voxels: int
    share: float
    """Of all labelled voxels, background included."""
    ml: float | None
    """Mean volume in the cases in which it occurs; None for pictures and absent labels."""


@dataclass(frozen=True)
class Spread:
    """Least, median and greatest of a number over the cases."""

    least: float
    median: float
    greatest: float


@dataclass(frozen=True)
class Inspection:
    """A data set and everything that is wrong with it."""

    root: Path
    layout: str
    modalities: tuple[str, ...]
    patients: int
    cases: tuple[CaseRow, ...]
    labels: tuple[LabelRow, ...]
    size_zyx: tuple[Spread, ...]
    """One entry per axis; empty where no case can be used."""
    spacing_zyx_mm: tuple[Spread, ...]
    """One entry per axis; empty for pictures."""
    intensity: tuple[tuple[float, float], ...]
    """Least and greatest raw intensity of each channel over the cases."""
    problems: tuple[str, ...]
    notes: tuple[str, ...]
    """What was guessed, and what may be as it should."""
    of_all: tuple[str, ...] = ()
    """The problems of the data set as a whole, which leaving cases out does not mend."""

    @property
    def usable(self) -> tuple[CaseRow, ...]:
        """The cases without a problem."""
        return tuple(row for row in self.cases if not row.problems)


def inspect(
    root: Path,
    *,
    layout: str | None = None,
    workers: int | None = None,
    on_case: Callable[[str], None] | None = None,
) -> Inspection:
    """Read every case of a data set and list what it holds and every problem found.

    Args:
        root: A folder, or the CSV file of the CSV layout.
        layout: A name of `LAYOUTS`; None finds it.
        workers: Processes that read side by side; None takes one per core, 1 reads in this process.
        on_case: Called with the case's id when it has been read.

    Returns:
        Bad cases are in it, with their problems.

    Raises:
        LayoutError: No known layout, or nothing of it can be used.
        LabelError: The declared labels cannot be used.
        UnknownNameError: No layout has that name.
    """
    finding = examine(root, layout=layout)
    dataset = finding.dataset
    rows = []
    for row in _rows(dataset, workers or os.cpu_count() or 1):
        rows.append(row)
        if on_case is not None:
            on_case(row.id)
    rows.sort(key=lambda row: row.id)
    by_case = [problem for row in rows for problem in row.problems]
    usable = [row for row in rows if not row.problems]
    of_all = tuple(_of_all(dataset, usable))
    return Inspection(
        root=dataset.root,
        layout=dataset.layout,
        modalities=dataset.modalities,
        patients=len({case.patient for case in dataset.cases}),
        cases=tuple(rows),
        labels=_labels(dataset, usable),
        size_zyx=_spreads([row.size_zyx for row in usable if row.size_zyx]),
        spacing_zyx_mm=_spreads([row.spacing_zyx_mm for row in usable if row.spacing_zyx_mm]),
        intensity=_intensity(usable),
        problems=(*map(str, finding.problems), *by_case, *of_all),
        of_all=of_all,
        notes=(*finding.notes, *_notes(dataset, usable)),
    )


def demand_sound(
    root: Path, *, skip_bad: bool = False, workers: int | None = None
) -> tuple[str, ...]:
    """Read every case and demand that a study can be made of the data.

    Args:
        root: As in `inspect`.
        skip_bad: Let cases be bad, as long as enough others are left.
        workers: As in `inspect`.

    Returns:
        What would be left out.

    Raises:
        DataError: The first problem found.
    """
    found = inspect(root, workers=workers)
    serious = found.of_all if skip_bad else found.problems
    if serious:
        more = f"\n{len(serious) - 1} more: medstill inspect '{root}'" if serious[1:] else ""
        raise DataError(serious[0] + more)
    return found.problems


def _rows(dataset: Dataset, workers: int) -> Iterator[CaseRow]:
    if workers == 1 or len(dataset.cases) < 2:
        yield from (row_of(case, dataset) for case in dataset.cases)
        return
    pool = worker_pool(min(workers, len(dataset.cases)), _one_thread)
    described = _without_cases(dataset)
    with pool:
        futures = [pool.submit(row_of, case, described) for case in dataset.cases]
        yield from (future.result() for future in as_completed(futures))


def _one_thread() -> None:
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)


def _without_cases(dataset: Dataset) -> Dataset:
    """What a worker needs of the data set; the cases would be sent along with each of them."""
    return Dataset(
        root=dataset.root,
        layout=dataset.layout,
        modalities=dataset.modalities,
        labels=dict(dataset.labels),
        ignore_value=dataset.ignore_value,
        cases=(),
    )


def _labels(dataset: Dataset, rows: Sequence[CaseRow]) -> tuple[LabelRow, ...]:
    total = sum(sum(row.voxels.values()) for row in rows)
    found = []
    for name, value in sorted(dataset.labels.items(), key=lambda item: item[1]):
        holders = [row for row in rows if row.voxels.get(value)]
        voxels = sum(row.voxels[value] for row in holders)
        volumes = [
            row.voxels[value] * math.prod(row.spacing_zyx_mm) / 1000
            for row in holders
            if row.spacing_zyx_mm
        ]
        found.append(
            LabelRow(
                name=name,
                value=value,
                cases=len(holders),
                voxels=voxels,
                share=voxels / total if total else 0.0,
                ml=sum(volumes) / len(volumes) if volumes else None,
            )
        )
    return tuple(found)


def _spreads(rows: Sequence[Sequence[float]]) -> tuple[Spread, ...]:
    return tuple(
        Spread(min(axis), float(median(axis)), max(axis)) for axis in zip(*rows, strict=True)
    )


def _intensity(rows: Sequence[CaseRow]) -> tuple[tuple[float, float], ...]:
    channels = zip(*(row.intensity for row in rows), strict=True)
    return tuple((min(low for low, _ in part), max(high for _, high in part)) for part in channels)


def _of_all(dataset: Dataset, usable: Sequence[CaseRow]) -> Iterator[str]:
    """The problems of the data set as a whole."""
    labelled = [row for row in usable if row.labelled]
    if not labelled:
        yield (
            f"'{dataset.root}' has no usable case with a label: expected some to train on, found "
            f"{len(usable)} usable cases without. Add labels, or correct the problems above."
        )
    elif not any(value and row.voxels[value] for row in labelled for value in row.voxels):
        yield (
            f"No label in '{dataset.root}' marks anything: expected voxels of "
            f"{', '.join(name for name, value in dataset.labels.items() if value) or 'a class'}, "
            f"found background alone in {len(labelled)} cases. Check the label files."
        )
    patients = len({row.patient for row in labelled})
    if labelled and patients < FEWEST_PATIENTS:
        yield (
            f"'{dataset.root}' has {patients} patient(s) with usable labels: expected at least "
            f"{FEWEST_PATIENTS}, one each to train, validate and test. Add patients."
        )


def _notes(dataset: Dataset, usable: Sequence[CaseRow]) -> Iterator[str]:
    empty = [row.id for row in usable if row.labelled and not any(set(row.voxels) - {0})]
    if empty:
        yield f"{len(empty)} labels without foreground: {_some(empty)}"
    found = {value for row in usable for value in row.voxels}
    absent = [name for name, value in dataset.labels.items() if value and value not in found]
    if absent:
        yield f"declared but found in no case: {_some(absent)}"
    unlabelled = [row.id for row in usable if not row.labelled]
    if unlabelled:
        yield f"{len(unlabelled)} cases without label: {_some(unlabelled)}"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
