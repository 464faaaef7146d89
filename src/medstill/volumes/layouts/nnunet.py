"""The raw layout of nnU-Net, version 2.

References:
    Isensee et al., nnU-Net, Nature Methods 18 (2021) 203-211; its `dataset_format.md`.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import SimpleITK as sitk

from medstill.errors import DataError, LayoutError
from medstill.volumes.formats import stem_of, suffix_of
from medstill.volumes.layouts.decathlon import DESCRIPTION
from medstill.volumes.layouts.finding import (
    Declared,
    Finding,
    assemble,
    read_description,
    read_labels,
    splits_beside,
)
from medstill.volumes.layouts.modality import modalities_of_names
from medstill.volumes.records import Case

_CHANNEL = re.compile(r"^(?P<id>.+)_(?P<channel>\d{4})$")


def matches(root: Path) -> bool:
    """Whether the folder holds a `dataset.json` with the names of the channels."""
    path = root / DESCRIPTION
    return path.is_file() and "channel_names" in read_description(path)


def read(root: Path) -> Finding:
    """Read the layout; the images of `imagesTs` become cases without label.

    Raises:
        LayoutError: The description contradicts itself.
        LabelError: The declared labels cannot be used (overlapping regions).
    """
    path = root / DESCRIPTION
    content = read_description(path)
    labels, ignore_value = read_labels(content, path)
    names = _names(content["channel_names"], path)
    problems: list[DataError] = []
    if isinstance(content.get("dataset"), dict):
        cases = _listed(content["dataset"], root, path)
    else:
        ending = str(content.get("file_ending", ""))
        cases = [
            *_in_folder(root / "imagesTr", ending, labels=root / "labelsTr"),
            *_in_folder(root / "imagesTs", ending, labels=None),
        ]
    one_file = bool(cases) and all(len(case.images) == 1 for case in cases)
    colour = len(names) == 3 and one_file and _components(cases[0].images[0]) == 3
    if not colour:
        cases = _with_all_channels(cases, len(names), problems)
    declared = Declared(
        layout="nnunet",
        modalities=("colour",) if colour else modalities_of_names(names),
        labels=labels,
        ignore_value=ignore_value,
        splits_file=splits_beside(root),
    )
    return assemble(root, declared, cases, problems)


def _names(entries: Any, path: Path) -> list[str]:
    if isinstance(entries, Mapping) and entries:
        return [str(entries[key]) for key in sorted(entries, key=lambda key: str(key).zfill(4))]
    raise LayoutError(
        f"'{path}' has no usable `channel_names`: expected "
        '{"0": "CT"}, found ' + f"{entries!r}. Correct it."
    )


def _listed(entries: Mapping[str, Any], root: Path, path: Path) -> list[Case]:
    cases = []
    for name, entry in entries.items():
        if not isinstance(entry, dict) or not isinstance(entry.get("images"), list):
            raise LayoutError(
                f"'{path}' lists the case '{name}' as {entry!r}: expected `images` (a list) and "
                "`label`. Correct it."
            )
        label = entry.get("label")
        images = tuple(root / str(image) for image in entry["images"])
        cases.append(Case(name, name, images, None if label is None else root / str(label)))
    return cases


def _in_folder(images: Path, ending: str, *, labels: Path | None) -> list[Case]:
    channels: dict[str, list[Path]] = defaultdict(list)
    endings: dict[str, str] = {}
    for file in sorted(images.iterdir()) if images.is_dir() else ():
        own = ending or suffix_of(file)
        if file.name.startswith(".") or not own or not file.name.endswith(own):
            continue
        parts = _CHANNEL.match(file.name.removesuffix(own))
        name = parts["id"] if parts else stem_of(file)
        channels[name].append(file)
        endings[name] = own
    return [
        Case(name, name, tuple(files), None if labels is None else labels / (name + endings[name]))
        for name, files in channels.items()
    ]


def _with_all_channels(cases: Sequence[Case], count: int, problems: list[DataError]) -> list[Case]:
    """The cases with one file for each channel, `_0000` to the last."""
    kept = []
    for case in cases:
        if len(case.images) == count:
            kept.append(case)
            continue
        found = ", ".join(path.name for path in case.images)
        problems.append(
            LayoutError(
                f"Case '{case.id}' in '{case.images[0].parent}' has {len(case.images)} channel "
                f"files: expected {count}, named {case.id}_0000 to {case.id}_{count - 1:04d}, "
                f"found {found}. Add or remove files, or correct `channel_names`."
            )
        )
    return kept


def _components(path: Path) -> int:
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        return 0
    return int(reader.GetNumberOfComponents())
