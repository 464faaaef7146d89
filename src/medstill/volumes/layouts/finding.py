"""What the layouts share: the record of what was found, and the checks that hold for all."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medstill.errors import DataError, LabelError, LayoutError, UnreadableFileError
from medstill.volumes.formats import suffix_of
from medstill.volumes.layouts.modality import guess_modality
from medstill.volumes.layouts.values import names_of_values, values_in
from medstill.volumes.records import Case, Dataset

PATIENTS_FILE = "patients.csv"


@dataclass(frozen=True)
class Finding:
    """A data set and what is wrong with it; a case that is named in a problem is not in it."""

    dataset: Dataset
    problems: tuple[DataError, ...] = ()
    notes: tuple[str, ...] = ()
    """What was guessed."""


@dataclass(frozen=True)
class Layout:
    """One way to arrange a data set."""

    summary: str
    matches: Callable[[Path], bool]
    read: Callable[[Path], Finding]


@dataclass(frozen=True)
class Declared:
    """What a layout says about its data set; None is found out from the files."""

    layout: str
    modalities: tuple[str, ...] | None = None
    labels: Mapping[str, int] | None = None
    ignore_value: int | None = None
    splits_file: Path | None = None


def assemble(
    root: Path, declared: Declared, cases: Sequence[Case], problems: Sequence[DataError] = ()
) -> Finding:
    """Check the cases of any layout and complete what it does not declare."""
    found = [*problems]
    notes: list[str] = []
    kept = _once(cases, root, found)
    kept = _with_patients(kept, root, found)
    kept = _with_files(kept, found)
    modalities = declared.modalities
    if modalities is None:
        modalities = _guessed(kept, found, notes)
    labels = declared.labels
    if labels is None:
        kept, labels = _labels_from_files(kept, found, notes)
    dataset = Dataset(
        root=root,
        layout=declared.layout,
        modalities=modalities,
        labels=dict(labels),
        ignore_value=declared.ignore_value,
        cases=tuple(sorted(kept, key=lambda case: case.id)),
        splits_file=declared.splits_file,
    )
    return Finding(dataset, tuple(found), tuple(notes))


def read_description(path: Path) -> dict[str, Any]:
    """Read a `dataset.json`.

    Raises:
        LayoutError: It is no JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise LayoutError(
            f"'{path}' cannot be read: expected JSON, found: {error}. Correct the file."
        ) from error
    if not isinstance(content, dict):
        raise LayoutError(
            f"'{path}' is not the description of a data set: expected a JSON object, found "
            f"{type(content).__name__}. Correct the file."
        )
    return content


def read_labels(content: Mapping[str, Any], path: Path) -> tuple[dict[str, int], int | None]:
    """The labels of a `dataset.json`: name -> value, and the value of `ignore`.

    Both ways are read: value -> name (Decathlon) and name -> value (nnU-Net).

    Raises:
        LabelError: Overlapping regions, or labels that are neither.
        LayoutError: No labels.
    """
    entries = content.get("labels")
    if not isinstance(entries, dict) or not entries:
        raise LayoutError(
            f"'{path}' declares no labels: expected `labels` such as "
            '{"0": "background", "1": "spleen"}, found ' + f"{entries!r}. Add them."
        )
    regions = [str(name) for name, value in entries.items() if isinstance(value, list)]
    if regions:
        raise LabelError(
            f"'{path}' declares overlapping regions ({', '.join(regions)}): expected one value per "
            "label, found lists of values. medstill gives each voxel one class. Declare the "
            "values one by one, and merge them in the study by data.labels if you need fewer."
        )
    try:
        if all(str(key).strip().isdigit() for key in entries):
            labels = {str(name): int(value) for value, name in entries.items()}
        else:
            labels = {str(name): int(value) for name, value in entries.items()}
    except (TypeError, ValueError) as error:
        raise LabelError(
            f"'{path}' declares labels that are no whole numbers ({error}): expected name and "
            "value. Correct `labels`."
        ) from error
    if len(labels) < len(entries):
        raise LabelError(
            f"'{path}' gives one name to several label values: expected a name for each. "
            "Name them apart; labels are merged in the study by data.labels."
        )
    ignore = next((name for name in labels if name.lower() == "ignore"), None)
    ignore_value = labels.pop(ignore) if ignore else None
    return (labels if 0 in labels.values() else {"background": 0, **labels}), ignore_value


def splits_beside(root: Path) -> Path | None:
    """nnU-Net's `splits_final.json` in the folder or beside it."""
    candidates = (root / "splits_final.json", root.parent / "splits_final.json")
    return next((path for path in candidates if path.is_file()), None)


def read_rows(path: Path, required: Sequence[str]) -> list[dict[str, str]]:
    """The rows of a CSV file with a header, its column names in lower case.

    Raises:
        LayoutError: It cannot be read, or a required column is missing.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            sample = file.readline()
            file.seek(0)
            separator = ";" if sample.count(";") > sample.count(",") else ","
            reader = csv.DictReader(file, delimiter=separator, restval="")
            rows = [
                {str(key).strip().lower(): str(value).strip() for key, value in row.items()}
                for row in reader
            ]
            columns = [name.strip().lower() for name in reader.fieldnames or ()]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise LayoutError(
            f"'{path}' cannot be read: expected CSV text in UTF-8, found: {error}. Save it anew."
        ) from error
    missing = [name for name in required if name not in columns]
    if missing:
        raise LayoutError(
            f"'{path}' has no column {' and no column '.join(missing)}: expected a header with "
            f"{', '.join(required)}, found {', '.join(columns) or 'an empty file'}. Add the header."
        )
    return rows


def _once(cases: Sequence[Case], root: Path, problems: list[DataError]) -> list[Case]:
    counts = Counter(case.id for case in cases)
    for name, count in sorted(counts.items()):
        if count > 1:
            files = [str(case.images[0]) for case in cases if case.id == name]
            problems.append(
                LayoutError(
                    f"'{root}' has {count} cases named '{name}': expected one of each name, found "
                    f"{' and '.join(files[:3])}. Rename or remove one of them."
                )
            )
    return [case for case in cases if counts[case.id] == 1]


def _with_patients(cases: list[Case], root: Path, problems: list[DataError]) -> list[Case]:
    path = root / PATIENTS_FILE
    if not path.is_file():
        return cases
    rows = {row["case"]: row for row in read_rows(path, ("case", "patient"))}
    kept = []
    for case in cases:
        row = rows.get(case.id, {})
        if row.get("patient"):
            kept.append(replace(case, patient=row["patient"], site=row.get("site") or case.site))
        else:
            problems.append(
                LayoutError(
                    f"'{path}' names no patient for case '{case.id}': expected a row for every "
                    "case, since a patient must not be trained and tested on. Add the row."
                )
            )
    return kept


def _with_files(cases: list[Case], problems: list[DataError]) -> list[Case]:
    kept = []
    for case in cases:
        missing = [path for path in case.images if not path.exists()]
        if missing:
            problems.append(
                UnreadableFileError(
                    f"The image of case '{case.id}' is missing: expected '{missing[0]}', found no "
                    "such file. Add it, or leave the case out with --skip-bad."
                )
            )
        elif case.label is not None and not case.label.exists():
            problems.append(
                LabelError(
                    f"The label of case '{case.id}' is missing: expected '{case.label}', found no "
                    "such file. Add it, or leave the case out with --skip-bad."
                )
            )
        else:
            kept.append(case)
    return kept


def _guessed(cases: Sequence[Case], problems: list[DataError], notes: list[str]) -> tuple[str, ...]:
    """The modality of each channel, from the first case whose files can be read."""
    for case in cases:
        try:
            guesses = [guess_modality(path) for path in case.images]
        except DataError:
            continue
        notes.extend(f"channel {i}: {guess.reason}" for i, guess in enumerate(guesses))
        return tuple(guess.modality for guess in guesses)
    if cases:
        problems.append(
            LayoutError(
                f"No image can be read to find the modality, the first of them "
                f"'{cases[0].images[0]}': expected readable images. Check the files."
            )
        )
    return ()


def _labels_from_files(
    cases: list[Case], problems: list[DataError], notes: list[str]
) -> tuple[list[Case], dict[str, int]]:
    bad = values_in([case.label for case in cases if case.label is not None])
    kept, values = [], {0}
    for case in cases:
        found = bad.get(case.label) if case.label is not None else frozenset[int]()
        if isinstance(found, DataError):
            problems.append(found)
            continue
        values |= found or set()
        kept.append(case)
    labels = names_of_values(values)
    named = ", ".join(f"{name} = {value}" for name, value in labels.items())
    notes.append(f"labels named by the values found: {named}")
    return kept, labels


def is_image(path: Path) -> bool:
    """Whether a folder entry can be an image: an image file, or a folder of DICOM files."""
    if path.name.startswith("."):
        return False
    return bool(suffix_of(path)) if path.is_file() else True
