"""The layout of the Medical Segmentation Decathlon.

References:
    Antonelli et al., The Medical Segmentation Decathlon, arXiv:2106.05735.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medstill.errors import DataError, LayoutError
from medstill.volumes.formats import stem_of
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

DESCRIPTION = "dataset.json"


def matches(root: Path) -> bool:
    """Whether the folder holds a `dataset.json` with a list of training cases."""
    path = root / DESCRIPTION
    return path.is_file() and isinstance(read_description(path).get("training"), list)


def read(root: Path) -> Finding:
    """Read the layout; images of the list `test` become cases without label.

    Raises:
        LayoutError: Four-dimensional images, whose channels share one file.
        LabelError: The declared labels cannot be used.
    """
    path = root / DESCRIPTION
    content = read_description(path)
    labels, ignore_value = read_labels(content, path)
    names = _channel_names(content)
    problems: list[DataError] = []
    cases = []
    for entry in [*content["training"], *content.get("test", ())]:
        case = _case(entry, root)
        if case is None:
            problems.append(
                LayoutError(
                    f"'{path}' lists {entry!r}: expected an image and a label, such as "
                    '{"image": "imagesTr/a.nii.gz", "label": "labelsTr/a.nii.gz"}. Correct it.'
                )
            )
        else:
            cases.append(case)
    _refuse_shared_files(cases, names, path)
    declared = Declared(
        layout="decathlon",
        modalities=modalities_of_names(names),
        labels=labels,
        ignore_value=ignore_value,
        splits_file=splits_beside(root),
    )
    return assemble(root, declared, cases, problems)


def _channel_names(content: Mapping[str, Any]) -> list[str]:
    entries = content.get("modality", content.get("channel_names", {}))
    if not isinstance(entries, Mapping):
        return [str(entries)]
    return [str(entries[key]) for key in sorted(entries, key=lambda key: str(key).zfill(4))]


def _case(entry: Any, root: Path) -> Case | None:
    image, label = (
        (entry.get("image"), entry.get("label")) if isinstance(entry, dict) else (entry, None)
    )
    if not isinstance(image, str) or not isinstance(label, str | None):
        return None
    name = stem_of(Path(image))
    return Case(
        id=name,
        patient=name,
        images=_channel_files(root / image),
        label=None if label is None else root / label,
    )


def _channel_files(image: Path) -> tuple[Path, ...]:
    """The file itself, or `_0000`, `_0001`, ... where it stands for them, as in old nnU-Net."""
    if image.exists():
        return (image,)
    ending = image.name[len(stem_of(image)) :]
    pattern = f"{stem_of(image)}_[0-9][0-9][0-9][0-9]{ending}"
    return tuple(sorted(image.parent.glob(pattern))) or (image,)


def _refuse_shared_files(cases: list[Case], names: list[str], path: Path) -> None:
    shared = next((case for case in cases if len(case.images) < len(names)), None)
    if shared is not None and shared.images[0].exists():
        raise LayoutError(
            f"'{path}' declares {len(names)} channels ({', '.join(names)}), but the images hold "
            f"them in one four-dimensional file: expected a file per channel, found "
            f"'{shared.images[0]}'. Split each image into ID_0000.nii.gz, ID_0001.nii.gz, ... "
            "and keep the list as it is."
        )
