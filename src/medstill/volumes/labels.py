"""Selecting and merging labels by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk

from medstill.config import IGNORE, DataConfig
from medstill.errors import ConfigError, LabelError, unknown_name
from medstill.volumes.geometry import array_CZYX, geometry_of, image_of
from medstill.volumes.records import Dataset

BACKGROUND = "background"
MOST_CLASSES = 254
_WIDEST_RANGE = 1 << 20


@dataclass(frozen=True)
class LabelMapping:
    """From the values of a data set's label files to class values."""

    classes: tuple[str, ...]
    """Class names in the order of their values, background first."""
    values: Mapping[int, int]
    """Every declared source value -> class value; 255 is ignored, 0 is background."""


def resolve_labels(dataset: Dataset, data: DataConfig) -> LabelMapping:
    """Which source value becomes which class.

    Args:
        dataset: Declares the labels by name and value.
        data: `labels` selects and merges them by name; None keeps all, in the order of values.

    Raises:
        UnknownNameError: A name that the data set does not declare.
        ConfigError: One label in two classes (overlapping regions), or a class of no label.
        LabelError: Two labels of one value, no label at all, or too many classes.
    """
    declared = {
        name: value
        for name, value in dataset.labels.items()
        if value not in (0, dataset.ignore_value)
    }
    _refuse_shared_values(declared, dataset)
    selection = data.labels
    if selection is None:
        selection = {name: (name,) for name in sorted(declared, key=lambda name: declared[name])}
    if not 1 <= len(selection) <= MOST_CLASSES:
        raise LabelError(
            f"Expected 1 to {MOST_CLASSES} foreground classes, found {len(selection)} in "
            f"'{dataset.root}'. Declare the labels there, or choose some by data.labels."
        )
    values = dict.fromkeys((0, *declared.values()), 0)
    if dataset.ignore_value is not None:
        values[dataset.ignore_value] = IGNORE
    owner: dict[str, str] = {}
    for class_value, (class_name, sources) in enumerate(selection.items(), start=1):
        _check_class(class_name, sources)
        for source in sources:
            if source not in declared:
                raise unknown_name("label", source, declared)
            _refuse_overlap(owner, source, class_name)
            values[declared[source]] = class_value
    return LabelMapping((BACKGROUND, *selection), values)


def apply_mapping(label: sitk.Image, mapping: LabelMapping, *, source: str) -> sitk.Image:
    """Replace source values by class values.

    Args:
        label: Integer label volume, 3-D.
        mapping: Which value becomes which.
        source: Name of the file, for the message.

    Returns:
        Label volume of type uint8 on the same grid.

    Raises:
        LabelError: The volume holds values that the data set does not declare.
    """
    found_ZYX = array_CZYX(label)[0]
    least = min(0, int(found_ZYX.min()))
    most = max(int(found_ZYX.max()), *mapping.values)
    if most - least > _WIDEST_RANGE:
        extreme = most if most > _WIDEST_RANGE else least
        voxels = {extreme: int(np.count_nonzero(found_ZYX == extreme))}
        raise LabelError(_undeclared(voxels, mapping, source))
    table = np.zeros(most - least + 1, dtype=np.uint8)
    known = np.zeros(most - least + 1, dtype=bool)
    for value, class_value in mapping.values.items():
        table[value - least] = class_value
        known[value - least] = True
    counts = np.zeros(len(known), dtype=np.int64)
    mapped_ZYX = np.empty(found_ZYX.shape, dtype=np.uint8)
    # Slice by slice: as indices, a whole volume would take eight bytes a voxel.
    for z, plane in enumerate(found_ZYX):
        indices = plane.astype(np.int64) - least
        counts += np.bincount(indices.ravel(), minlength=len(known))
        mapped_ZYX[z] = table[indices]
    wrong = np.flatnonzero((counts > 0) & ~known)
    if wrong.size:
        voxels = {int(index) + least: int(counts[index]) for index in wrong}
        raise LabelError(_undeclared(voxels, mapping, source))
    return image_of(mapped_ZYX, geometry_of(label))


def _undeclared(voxels: Mapping[int, int], mapping: LabelMapping, source: str) -> str:
    shown = [f"{value} ({count} voxels)" for value, count in list(voxels.items())[:5]]
    more = f" and {len(voxels) - 5} more" if len(voxels) > 5 else ""
    return (
        f"Expected in '{source}' only the declared label values "
        f"{', '.join(str(value) for value in sorted(mapping.values))}; found {', '.join(shown)}"
        f"{more}. Declare the values in the data set's description, or correct the file."
    )


def _check_class(name: str, sources: tuple[str, ...]) -> None:
    if name == BACKGROUND:
        raise ConfigError(
            "data.labels names a class 'background', which is all that no other class takes. "
            "Remove it, or give it another name."
        )
    if not sources:
        raise ConfigError(
            f"data.labels.{name} is empty: expected at least one label name. "
            "Name the labels that are merged into it, or remove the class."
        )


def _refuse_overlap(owner: dict[str, str], source: str, class_name: str) -> None:
    if source in owner:
        raise ConfigError(
            f"The label '{source}' is part of two classes, '{owner[source]}' and '{class_name}'. "
            "Classes must not overlap: each voxel has one class. Put the label into one of them; "
            "a region that is the union of classes can be merged from them after prediction."
        )
    owner[source] = class_name


def _refuse_shared_values(declared: Mapping[str, int], dataset: Dataset) -> None:
    names: dict[int, str] = {}
    for name, value in declared.items():
        if value in names:
            raise LabelError(
                f"'{dataset.root}' declares the labels '{names[value]}' and '{name}' with the same "
                f"value {value}: expected one name for each value. Overlapping regions are not "
                "supported; declare each value once and merge values by data.labels."
            )
        names[value] = name
