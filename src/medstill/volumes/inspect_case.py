"""One case of a data set: what it holds and what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import SimpleITK as sitk

from medstill.errors import DataError
from medstill.volumes.formats import is_flat
from medstill.volumes.geometry import array_CZYX, geometry_of, shape_zyx, spacing_zyx_mm
from medstill.volumes.io import read_channels, read_pair
from medstill.volumes.layouts.values import count_values
from medstill.volumes.records import Case, Dataset


@dataclass(frozen=True)
class CaseRow:
    """One case. Sizes and spacings are along the axes of the file."""

    id: str
    patient: str
    site: str | None
    labelled: bool
    problems: tuple[str, ...] = ()
    size_zyx: tuple[int, int, int] | None = None
    """None where the image cannot be used."""
    spacing_zyx_mm: tuple[float, float, float] | None = None
    """None also for a picture, which has no physical spacing."""
    intensity: tuple[tuple[float, float], ...] = ()
    """Least and greatest raw intensity of each channel."""
    voxels: Mapping[int, int] = field(default_factory=dict)
    """Label value -> voxels, background and undeclared values included."""


def row_of(case: Case, dataset: Dataset) -> CaseRow:
    """Read a case and say what is in it; what is wrong is in its `problems`."""
    bare = CaseRow(case.id, case.patient, case.site, case.label is not None)
    problems: list[str] = []
    try:
        image, label = read_pair(case)
    except DataError as error:
        problems.append(str(error))
        try:
            image, label = read_channels(case.images), None
        except DataError:
            return CaseRow(bare.id, bare.patient, bare.site, bare.labelled, tuple(problems))
    problems.extend(_channel_problem(case, image, dataset))
    voxels = {} if label is None else count_values(label)
    if case.label is not None:
        problems.extend(_undeclared(voxels, dataset, case.label))
    geometry = geometry_of(image)
    flat = any(is_flat(path) for path in case.images)
    channels = array_CZYX(image)
    return CaseRow(
        id=bare.id,
        patient=bare.patient,
        site=bare.site,
        labelled=bare.labelled,
        problems=tuple(problems),
        size_zyx=shape_zyx(geometry),
        spacing_zyx_mm=None if flat else spacing_zyx_mm(geometry),
        intensity=tuple((float(part.min()), float(part.max())) for part in channels),
        voxels=voxels,
    )


def _channel_problem(case: Case, image: sitk.Image, dataset: Dataset) -> Iterator[str]:
    expected = sum(3 if name == "colour" else 1 for name in dataset.modalities)
    found = image.GetNumberOfComponentsPerPixel()
    if expected != found:
        yield (
            f"'{case.images[0]}' has {found} channels: expected {expected} "
            f"({', '.join(dataset.modalities)}) as in the rest of the data set. Convert the file, "
            "or leave the case out."
        )


def _undeclared(voxels: Mapping[int, int], dataset: Dataset, path: Path) -> Iterator[str]:
    declared = {0, *dataset.labels.values()}
    if dataset.ignore_value is not None:
        declared.add(dataset.ignore_value)
    wrong = {value: count for value, count in voxels.items() if value not in declared}
    if wrong:
        shown = ", ".join(f"{value} ({count} voxels)" for value, count in list(wrong.items())[:5])
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        yield (
            f"The label '{path}' holds undeclared values: expected only "
            f"{', '.join(map(str, sorted(declared)))}, found {shown}{more}. Declare the values in "
            "the data set's description, or correct the file."
        )
