"""Prepared cases on disk: one folder a case, plain `.npy` files that are memory-mapped.

    ROOT/preparation.json     the preparation
    ROOT/index.json           which cases there are, and the hash of the data; written last
    ROOT/skipped.json         what was left out, and why
    ROOT/cases/ID/            image.npy (float16, or float32 if unscaled; C Z Y X), label.npy
                              (uint8, Z Y X), places.npy (int32, rows of: class z y x), case.json

float16 keeps 1/2048 of intensities between 0 and 1: a fifth of a HU in a window of 400 HU. Raw ones
it would round or overflow.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from medstill.config import IGNORE, Record, content_hash
from medstill.errors import LabelError, RunError
from medstill.runs import atomic_folder, read_json, write_json
from medstill.volumes.records import CaseInfo, LabelArray, Preparation, PreparedCase, Seen

PREPARATION_FILE = "preparation.json"
CASES = "cases"
INDEX_FILE = "index.json"
SKIPPED_FILE = "skipped.json"
CASE_FILE = "case.json"
PLACES_PER_CLASS = 2000

Ranges = tuple[tuple[float, float], ...]


class StoredCase(Record):
    """What `case.json` holds."""

    info: CaseInfo
    raw_range: Ranges
    """1st and 99th percentile of the raw intensities of each channel."""
    key: str
    """Hash of all that decided the arrays: sources, preparation, labels."""


class Skipped(Record):
    """A case that was left out."""

    id: str
    reason: str


@dataclass(frozen=True)
class PreparedSet:
    """A folder of prepared cases; `infos` maps case id -> info, sorted by id."""

    root: Path
    preparation: Preparation
    infos: Mapping[str, CaseInfo]
    data_hash: str
    skipped: tuple[Skipped, ...] = ()

    def open(self, case_id: str) -> PreparedCase:
        """Open one case; its arrays are read from disk where they are touched.

        Raises:
            RunError: There is no such case, or its files are damaged.
        """
        if case_id not in self.infos:
            raise RunError(
                f"Expected one of the {len(self.infos)} prepared cases in '{self.root}', found no "
                f"'{case_id}'. Prepare the data again, or use the split of these data."
            )
        return open_case(case_folder(self.root, case_id))

    def seen(self, case_ids: Iterable[str]) -> Seen:
        """What training on these cases sees, for warnings at prediction.

        Raises:
            RunError: A case is missing or damaged.
        """
        return seen_of(read_case(case_folder(self.root, case_id)) for case_id in case_ids)


def case_folder(root: Path, case_id: str) -> Path:
    """The folder of a case; an id that is no safe file name is replaced by its hash."""
    safe = re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}", case_id) and case_id[-1] != "."
    name = case_id if safe else "case-" + hashlib.sha256(case_id.encode()).hexdigest()[:16]
    return root / CASES / name


def write_case(
    folder: Path,
    stored: StoredCase,
    image_CZYX: NDArray[Any],
    label_ZYX: LabelArray | None,
    numbers: type[np.floating] = np.float16,
) -> None:
    """Write one case, all or nothing, with places of its foreground classes.

    Args:
        folder: Folder of the case; an older one is replaced.
        stored: What is kept beside the arrays.
        image_CZYX: Prepared image.
        label_ZYX: Class values, 255 for ignore; None without a label.
        numbers: Type that the image is stored in.

    Raises:
        StorageError: The disk is full or not writable.
    """
    with atomic_folder(folder) as draft:
        np.save(draft / "image.npy", image_CZYX.astype(numbers), allow_pickle=False)
        if label_ZYX is not None:
            np.save(draft / "label.npy", label_ZYX, allow_pickle=False)
            places = places_of(label_ZYX, seed=_seed_of(stored.info.id))
            rows = [np.insert(zyx, 0, value, axis=1) for value, zyx in places.items()]
            empty = np.zeros((0, 4), dtype=np.int32)
            np.save(draft / "places.npy", np.concatenate([empty, *rows]), allow_pickle=False)
        write_json(draft / CASE_FILE, stored.model_dump(mode="json"))


def read_case(folder: Path) -> StoredCase:
    """What is kept about a case beside its arrays.

    Raises:
        RunError: The file is missing or damaged.
    """
    content = read_json(folder / CASE_FILE)
    try:
        return StoredCase.model_validate(content)
    except ValidationError as error:
        raise _damaged(folder, f"{error.error_count()} wrong entries in {CASE_FILE}") from error


def open_case(folder: Path) -> PreparedCase:
    """Open a prepared case with its arrays memory-mapped.

    Raises:
        RunError: Files are missing or damaged.
    """
    info = read_case(folder).info
    try:
        image = np.load(folder / "image.npy", mmap_mode="r", allow_pickle=False)
        if not info.labelled:
            return PreparedCase(info, image, None)
        label = np.load(folder / "label.npy", mmap_mode="r", allow_pickle=False)
        rows = np.load(folder / "places.npy", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise _damaged(folder, str(error)) from error
    values = [int(value) for value in np.unique(rows[:, 0])]
    places = {value: np.ascontiguousarray(rows[rows[:, 0] == value, 1:]) for value in values}
    return PreparedCase(info, image, label, places)


def write_set(prepared: PreparedSet) -> None:
    """Write what makes a folder of cases a finished set; the index comes last."""
    skipped = [entry.model_dump(mode="json") for entry in prepared.skipped]
    write_json(prepared.root / SKIPPED_FILE, skipped)
    write_json(prepared.root / PREPARATION_FILE, prepared.preparation.model_dump(mode="json"))
    index = {"cases": sorted(prepared.infos), "data_hash": prepared.data_hash}
    write_json(prepared.root / INDEX_FILE, index)


def open_set(root: Path) -> PreparedSet:
    """Open a folder of prepared cases.

    Raises:
        RunError: The folder is no finished set, or is damaged.
    """
    index = read_json(root / INDEX_FILE)
    try:
        preparation = Preparation.model_validate(read_json(root / PREPARATION_FILE))
        skipped = tuple(Skipped.model_validate(entry) for entry in read_json(root / SKIPPED_FILE))
        names, data_hash = [str(name) for name in index["cases"]], str(index["data_hash"])
    except (ValidationError, KeyError, TypeError) as error:
        raise _damaged(root, f"{type(error).__name__} in its JSON files") from error
    infos = {name: read_case(case_folder(root, name)).info for name in names}
    return PreparedSet(root, preparation, infos, data_hash, skipped)


def data_hash_of(infos: Iterable[CaseInfo], classes: tuple[str, ...]) -> str:
    """Hash of the data of a study: sources, patients and sites of every case, and the classes."""
    rows = sorted([info.id, info.patient, info.site or "", info.content_hash] for info in infos)
    return content_hash({"cases": rows, "classes": classes})


def seen_of(cases: Iterable[StoredCase]) -> Seen:
    """The ranges of original spacing and raw intensity over some cases (at least one)."""
    cases = list(cases)
    spacings = zip(*(case.info.original_spacing_zyx_mm for case in cases), strict=True)
    channels = zip(*(case.raw_range for case in cases), strict=True)
    return Seen(
        spacing_zyx_mm=tuple((min(steps), max(steps)) for steps in spacings),
        intensity=tuple(
            (min(low for low, _ in ranges), max(high for _, high in ranges)) for ranges in channels
        ),
    )


def voxels_by_class(infos: Iterable[CaseInfo], classes: int) -> NDArray[np.int64]:
    """Voxels of each class `(classes,)` over some cases; ignored ones are not counted."""
    counts = np.zeros(classes, dtype=np.int64)
    for info in infos:
        if info.voxels_by_class:
            counts += np.asarray(info.voxels_by_class, dtype=np.int64)
    return counts


def demand_foreground(
    infos: Iterable[CaseInfo], classes: tuple[str, ...], *, where: str
) -> tuple[str, ...]:
    """Demand a foreground voxel somewhere.

    Args:
        infos: Labelled cases.
        classes: Class names, background first.
        where: What the cases are, for the message, such as `"the training cases"`.

    Returns:
        Names of the classes that have no voxel in any of them.

    Raises:
        LabelError: None of the classes has a voxel.
    """
    counts = voxels_by_class(infos, len(classes))
    if not counts[1:].any():
        raise LabelError(
            f"Expected voxels of {', '.join(classes[1:])} in {where}, found only background. "
            "Check the label files and data.labels, or divide the patients differently."
        )
    return tuple(name for name, count in zip(classes, counts, strict=True) if count == 0)


def places_of(
    label_ZYX: LabelArray, *, seed: int, most: int = PLACES_PER_CLASS
) -> dict[int, NDArray[np.int32]]:
    """A seeded sample of the voxels of each foreground class, as even over slices as they allow.

    Every slice gives the same number of voxels, or all that it has: slices with a sliver of a
    structure are drawn as often as those through its middle.

    Args:
        label_ZYX: Class values; background and 255 are left out.
        seed: Of the draw.
        most: Greatest number of places of a class.

    Returns:
        Class value -> `(n, 3)` indices `z y x`, sorted; classes without voxels are absent.
    """
    generator = np.random.default_rng(seed)
    present = np.unique(label_ZYX)
    return {
        int(value): _even_sample(label_ZYX == value, generator, most)
        for value in present
        if value not in (0, IGNORE)
    }


def _even_sample(
    mask_ZYX: NDArray[np.bool_], generator: np.random.Generator, most: int
) -> NDArray[np.int32]:
    flat = np.flatnonzero(mask_ZYX)
    plane = mask_ZYX.shape[1] * mask_ZYX.shape[2]
    borders = np.searchsorted(flat, np.arange(len(mask_ZYX) + 1) * plane)
    available = np.diff(borders)
    chosen = [
        flat[start + generator.choice(count, size=share, replace=False)]
        for start, count, share in zip(borders, available, _shares(available, most), strict=False)
        if share
    ]
    indices = np.unravel_index(np.sort(np.concatenate(chosen)), mask_ZYX.shape)
    return np.stack(indices, axis=1).astype(np.int32)


def _shares(available: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """Divide `most` among slices that have so many, as evenly as they allow."""
    shares = np.zeros_like(available)
    open_slices = np.argsort(available, kind="stable")
    left = most
    for position, index in enumerate(open_slices):
        shares[index] = min(int(available[index]), left // (len(available) - position))
        left -= int(shares[index])
    return shares


def _seed_of(case_id: str) -> int:
    return int.from_bytes(hashlib.sha256(case_id.encode()).digest()[:8], "big")


def _damaged(folder: Path, reason: str) -> RunError:
    return RunError(
        f"Expected a whole prepared case or set in '{folder}', found it damaged ({reason}). "
        "Delete the folder and prepare the data again."
    )
