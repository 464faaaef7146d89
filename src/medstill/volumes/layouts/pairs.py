"""Two folders, one of images and one of labels, paired by file name."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from medstill.errors import DataError, LabelError, LayoutError
from medstill.volumes.formats import stem_of
from medstill.volumes.layouts.finding import Declared, Finding, assemble, is_image
from medstill.volumes.layouts.matching import match
from medstill.volumes.records import Case

IMAGE_FOLDERS = ("images", "imagesTr", "image", "scans")
LABEL_FOLDERS = ("labels", "labelsTr", "label", "masks", "mask", "segmentations")

_CHANNEL = re.compile(r"^(?P<id>.+)_(?P<channel>\d{4})$")


def matches(root: Path) -> bool:
    """Whether the folder holds a folder of images and one of labels."""
    return bool(_folders(root, IMAGE_FOLDERS) and _folders(root, LABEL_FOLDERS))


def read(root: Path) -> Finding:
    """Read the layout.

    Raises:
        LayoutError: Several folders could be the images or the labels.
    """
    images = _scans(_only(root, IMAGE_FOLDERS))
    folder = _only(root, LABEL_FOLDERS)
    labels = {path: stem_of(path) for path in _entries(folder)}
    matched = match(list(dict.fromkeys(name for name, _ in images)), list(labels.values()))
    problems: list[DataError] = []
    by_stem: dict[str, list[Path]] = defaultdict(list)
    for path, stem in labels.items():
        by_stem[stem].append(path)
    cases = []
    for name, files in images:
        candidates = [path for stem in matched.get(name, ()) for path in by_stem[stem]]
        if len(candidates) == 1:
            cases.append(Case(name, name, files, candidates[0]))
        else:
            problems.append(_no_single_label(name, files[0], candidates, folder))
    taken = {stem for stems in matched.values() for stem in stems}
    problems.extend(
        LayoutError(
            f"The label '{path}' belongs to no image: expected one of the same name or the same "
            "number. Add the image, rename the file or remove it."
        )
        for path, stem in labels.items()
        if stem not in taken
    )
    return assemble(root, Declared(layout="pairs"), cases, problems)


def _no_single_label(name: str, image: Path, candidates: Sequence[Path], folder: Path) -> DataError:
    if not candidates:
        return LabelError(
            f"The image '{image}' has no label: expected a file of the same name or the same "
            f"number in '{folder}', found none. Add '{name}' there, or leave the case out with "
            "--skip-bad."
        )
    found = ", ".join(path.name for path in candidates[:4])
    return LayoutError(
        f"The image '{image}' has several labels: expected one, found {found} in '{folder}'. "
        "Remove the others, or list the cases in a CSV file."
    )


def _scans(folder: Path) -> list[tuple[str, tuple[Path, ...]]]:
    """Case names and their files; `ID_0000`, `ID_0001`, ... are the channels of one case."""
    entries = _entries(folder)
    parts = [_CHANNEL.match(stem_of(path)) for path in entries]
    channels: dict[str, list[int]] = defaultdict(list)
    for part in parts:
        if part:
            channels[part["id"]].append(int(part["channel"]))
    # Four digits may also number the cases: channels start at 0 and are as many in every case.
    counts = {len(numbers) for numbers in channels.values()}
    is_channels = (
        all(parts)
        and len(counts) == 1
        and all(numbers == list(range(len(numbers))) for numbers in channels.values())
        and (len(channels) > 1 or counts == {1})
    )
    if not is_channels:
        return [(stem_of(path), (path,)) for path in entries]
    found: dict[str, list[Path]] = defaultdict(list)
    for path, part in zip(entries, parts, strict=True):
        found[part["id"] if part else ""].append(path)
    return [(name, tuple(files)) for name, files in found.items()]


def _entries(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if is_image(path))


def _folders(root: Path, names: Sequence[str]) -> list[Path]:
    if not root.is_dir():
        return []
    return [path for path in sorted(root.iterdir()) if path.is_dir() and path.name in names]


def _only(root: Path, names: Sequence[str]) -> Path:
    found = _folders(root, names)
    if len(found) == 1:
        return found[0]
    raise LayoutError(
        f"'{root}' has several folders that could be meant: expected one of {', '.join(names)}, "
        f"found {', '.join(path.name for path in found)}. Keep one, or list the cases in a CSV."
    )
