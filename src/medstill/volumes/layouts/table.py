"""A CSV file that lists the cases of a data set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from medstill.errors import DataError, LayoutError
from medstill.volumes.formats import stem_of
from medstill.volumes.layouts.finding import (
    PATIENTS_FILE,
    Declared,
    Finding,
    assemble,
    read_rows,
)
from medstill.volumes.records import Case, pseudonym_of


def matches(root: Path) -> bool:
    """Whether it is a CSV file, or a folder that holds exactly one beside `patients.csv`."""
    return _csv_of(root) is not None


def read(root: Path) -> Finding:
    """Read the layout.

    Columns: `patient`; `image`, or `image_0`, `image_1`, ... for several channels; and optionally
    `label` (empty for a case without), `site` and `case`. Paths are relative to the CSV file. Where
    there is no column `case`, the image's name is the case's, or the
    patient's pseudonym if that says more.

    Raises:
        LayoutError: The CSV cannot be read or lacks a column.
    """
    path = _csv_of(root)
    if path is None:
        raise LayoutError(f"'{root}' holds no single CSV file: expected one. Name the file itself.")
    rows = read_rows(path, ("patient",))
    columns = _image_columns(rows[0] if rows else {}, path)
    problems: list[DataError] = []
    complete = []
    for line, row in enumerate(rows, start=2):
        if row["patient"] and all(row[column] for column in columns):
            complete.append(row)
        else:
            problems.append(
                LayoutError(
                    f"'{path}', line {line}: expected a patient and {' and '.join(columns)}, found "
                    "an empty cell. Fill it in, or remove the line."
                )
            )
    cases = [
        Case(
            id=name,
            patient=row["patient"],
            images=tuple(path.parent / row[column] for column in columns),
            label=path.parent / row["label"] if row.get("label") else None,
            site=row.get("site") or None,
        )
        for name, row in zip(_case_names(complete, columns[0], path), complete, strict=True)
    ]
    return assemble(path.parent, Declared(layout="csv"), cases, problems)


def _csv_of(root: Path) -> Path | None:
    if root.is_file():
        return root if root.suffix.lower() == ".csv" else None
    found = [path for path in root.glob("*.csv") if path.name != PATIENTS_FILE]
    return found[0] if len(found) == 1 else None


def _image_columns(row: Mapping[str, str], path: Path) -> list[str]:
    if "image" in row:
        return ["image"]
    numbered = [name for name in row if name.startswith("image_") and name[6:].isdigit()]
    if numbered:
        return sorted(numbered, key=lambda name: int(name[6:]))
    raise LayoutError(
        f"'{path}' has no column image: expected a header with patient, image, label and at least "
        f"one row, found {', '.join(row) or 'no rows'}. Add them."
    )


def _case_names(rows: Sequence[Mapping[str, str]], column: str, path: Path) -> list[str]:
    if rows and "case" in rows[0]:
        names = [row["case"] for row in rows]
    else:
        names = [stem_of(Path(row[column])) for row in rows]
        patients = [row["patient"] for row in rows]
        if max(Counter(names).values(), default=1) > 1 and len(set(patients)) == len(patients):
            # Case ids stand in reports and file names, where no patient's name may.
            names = [pseudonym_of(patient) for patient in patients]
    bad = next((name for name in names if not name or set(name) & set('/\\:*?"<>|')), None)
    if bad is not None:
        raise LayoutError(
            f"'{path}' names a case '{bad}': expected a name that can be a file name, without "
            "slashes and the like. Rename it, or add a column `case`."
        )
    return names
