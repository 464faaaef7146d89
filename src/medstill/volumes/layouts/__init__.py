"""Data sets on disk, recognised by their layout."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from medstill.errors import LayoutError, unknown_name
from medstill.volumes.layouts import decathlon, nnunet, pairs, table
from medstill.volumes.layouts.finding import Finding, Layout
from medstill.volumes.records import Dataset

__all__ = ["LAYOUTS", "Finding", "Layout", "examine", "find_dataset"]

LAYOUTS: dict[str, Layout] = {
    "decathlon": Layout(
        "dataset.json with a list `training` of image and label", decathlon.matches, decathlon.read
    ),
    "nnunet": Layout(
        "dataset.json with `channel_names`, imagesTr/ID_0000.* and labelsTr/ID.*",
        nnunet.matches,
        nnunet.read,
    ),
    "pairs": Layout("a folder of images and one of labels", pairs.matches, pairs.read),
    "csv": Layout("a CSV file with the columns patient, image, label", table.matches, table.read),
}
"""Every layout, in the order in which they are tried."""

_log = logging.getLogger(__name__)


def find_dataset(root: Path, *, layout: str | None = None, skip_bad: bool = False) -> Dataset:
    """Find the cases of a data set.

    The patient of a case is the case itself unless a `patients.csv` with the columns case, patient
    and (optionally) site lies in the folder, or the CSV layout names it. Image files are not read,
    except for what their layout does not say: label values, and the modality of the first case.

    Args:
        root: A folder, or the CSV file of the CSV layout.
        layout: A name of `LAYOUTS`; None finds it.
        skip_bad: Leave out the cases with a missing file, partner or patient, and log each.

    Raises:
        LayoutError: No known layout, or one that contradicts itself (two cases of one name,
            a file without partner, a case that `patients.csv` does not name).
        LabelError: A label file is missing, or labels are declared that overlap.
        UnreadableFileError: An image file is missing.
        UnknownNameError: No layout has that name.
    """
    finding = examine(root, layout=layout)
    if finding.problems and not skip_bad:
        first, others = finding.problems[0], len(finding.problems) - 1
        more = f" {others} more problems are listed by `medstill inspect`." if others else ""
        raise type(first)(f"{first}{more}")
    for problem in finding.problems:
        _log.warning("Left out: %s", problem)
    if not finding.dataset.cases:
        raise LayoutError(
            f"'{root}' holds no usable case: expected at least one image in the layout "
            f"'{finding.dataset.layout}', found {len(finding.problems)} problems and nothing else. "
            "Run `medstill inspect` to see them."
        )
    return replace(finding.dataset, left_out=tuple(map(str, finding.problems)))


def examine(root: Path, *, layout: str | None = None) -> Finding:
    """Find a data set together with everything that is wrong in its layout.

    Args:
        root: A folder, or the CSV file of the CSV layout.
        layout: A name of `LAYOUTS`; None finds it.

    Raises:
        LayoutError: No known layout, or nothing of it can be used.
        LabelError: The declared labels cannot be used.
        UnknownNameError: No layout has that name.
    """
    if not root.exists():
        raise LayoutError(f"'{root}' does not exist: expected a data set. Check the path.")
    if layout is not None and layout not in LAYOUTS:
        raise unknown_name("layout", layout, LAYOUTS)
    for name, known in LAYOUTS.items():
        if layout in (None, name) and known.matches(root):
            return known.read(root)
    wanted = LAYOUTS if layout is None else {layout: LAYOUTS[layout]}
    rows = "".join(f"\n  {name}: {known.summary}" for name, known in wanted.items())
    raise LayoutError(
        f"'{root}' is a data set of no known layout: expected one of{rows}\nfound: "
        f"{_content(root)}. Arrange the files in one of these ways; a CSV needs no moving."
    )


def _content(root: Path) -> str:
    if root.is_file():
        return f"a file '{root.name}'"
    names = sorted(entry.name for entry in root.iterdir() if not entry.name.startswith("."))
    shown = ", ".join(names[:8]) or "an empty folder"
    return f"{shown} and {len(names) - 8} more" if len(names) > 8 else shown
