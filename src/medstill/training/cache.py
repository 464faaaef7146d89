"""What a frozen teacher says of the fixed views, on disk: computed once, read at every step.

    ROOT/labelled/cases/ID/    views that follow the case's labels
    ROOT/bare/cases/ID/        views that are drawn without them
        views.npy              one row a view: image, label, logits, features; channels last
        case.json              whose it is, size and checksum

ROOT is named by the hash of all that decides the rows. A case is written all or nothing, under a
lock that ends with its process, so that several trainings can share the work. The checksum (CRC-32)
is read with the file, at about 1 GB/s, when a training starts.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from torch import Tensor

from medstill.config import Record
from medstill.errors import RunError
from medstill.runs import atomic_folder, read_json, write_json
from medstill.storage import storage_errors
from medstill.training.frozen import Said
from medstill.volumes.records import PreparedCase
from medstill.volumes.store import case_folder

log = logging.getLogger(__name__)

VIEWS_FILE = "views.npy"
CASE_FILE = "case.json"
IMAGE, LABEL = "image", "label"
CHUNK_BYTES = 2**22

Rows = NDArray[Any]
"""Structured array, one entry a view; its fields are `image`, `label`, `logits` and features."""


class KeptCase(Record):
    """What `case.json` holds."""

    cache: str
    """Name of the cache's folder, the hash of all that decides the rows."""
    case: str
    views: int
    size: int
    """Bytes of the file."""
    crc32: int


@dataclass(frozen=True)
class CaseName:
    """One series of views of a case: those that follow its labels, or those drawn without."""

    case: str
    bare: bool


def name_of(case: PreparedCase) -> CaseName:
    """Which series of views a case has: without its label in sight, that drawn without."""
    return CaseName(case.info.id, case.label_ZYX is None)


@dataclass(frozen=True)
class ViewCache:
    """A folder of rows. It travels to other processes as its path."""

    root: Path
    _opened: dict[CaseName, Rows] = field(default_factory=dict, compare=False, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        # Memory maps would be copied into a spawned loader process; it opens its own.
        return {"root": self.root, "_opened": {}}

    def folder(self, name: CaseName) -> Path:
        """Where the rows of a case lie."""
        return case_folder(self.root / ("bare" if name.bare else "labelled"), name.case)

    def row(self, name: CaseName, number: int) -> tuple[Tensor, Tensor, Said]:
        """Image `(C, ...)`, label `(...)` and what the teacher says of one view.

        Raises:
            RunError: The case is not in the cache.
        """
        if name not in self._opened:
            self._opened[name] = self._open(name)
        row = self._opened[name][number]
        parts = {part: torch.from_numpy(np.array(row[part])) for part in row.dtype.names}
        return parts.pop(IMAGE), parts.pop(LABEL), parts

    def _open(self, name: CaseName) -> Rows:
        path = self.folder(name) / VIEWS_FILE
        try:
            rows: Rows = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise RunError(
                f"Expected the teacher's answers in '{path}', found none that can be read "
                f"({error}). Repeat the command: what is missing is computed again."
            ) from error
        return rows

    def fill(
        self, wanted: Mapping[CaseName, int], compute: Callable[[CaseName], Iterator[Rows]]
    ) -> None:
        """Compute what is missing or damaged.

        Args:
            wanted: Cases with their numbers of views.
            compute: Gives the rows of a case, in batches.

        Raises:
            StorageError: The disk is full or not writable; nothing is left half-written.
        """
        names: Sequence[CaseName] = tuple(wanted)
        # What another process is computing is looked at again when all else is done.
        for patience_s in (0, -1):
            names = [
                name for name in names if not self._settle(name, wanted[name], compute, patience_s)
            ]

    def _settle(
        self,
        name: CaseName,
        views: int,
        compute: Callable[[CaseName], Iterator[Rows]],
        patience_s: float,
    ) -> bool:
        """Whether the case is there now; False when another process is at it."""
        folder = self.folder(name)
        with storage_errors(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            try:
                with FileLock(folder.with_name(folder.name + ".lock"), timeout=patience_s):
                    if not self._sound(name, views):
                        self._write(name, views, compute(name))
            except Timeout:
                return False
        return True

    def holds(self, wanted: Mapping[CaseName, int]) -> bool:
        """Whether all cases are there and sound; nothing is written."""
        return all(
            self.folder(name).exists() and self._fault(self.folder(name), name, views) is None
            for name, views in wanted.items()
        )

    def _sound(self, name: CaseName, views: int) -> bool:
        folder = self.folder(name)
        if not folder.exists():
            return False
        reason = self._fault(folder, name, views)
        if reason:
            log.warning("'%s' is computed again: %s.", folder, reason)
        return reason is None

    def _fault(self, folder: Path, name: CaseName, views: int) -> str | None:
        try:
            kept = KeptCase.model_validate(read_json(folder / CASE_FILE))
            size = (folder / VIEWS_FILE).stat().st_size
        except (RunError, ValueError, OSError) as error:
            return f"it is damaged ({error})"
        if (kept.cache, kept.case, kept.views) != (self.root.name, name.case, views):
            return "it belongs to another cache or case"
        if size != kept.size:
            return f"'{VIEWS_FILE}' has {size} bytes in place of {kept.size}"
        if _crc32(folder / VIEWS_FILE) != kept.crc32:
            return f"the checksum of '{VIEWS_FILE}' is wrong"
        return None

    def _write(self, name: CaseName, views: int, batches: Iterator[Rows]) -> None:
        with atomic_folder(self.folder(name)) as draft:
            size = crc32 = 0
            with (draft / VIEWS_FILE).open("wb") as file:
                for content in _file_content(batches, views):
                    # Not through a memory map: there a full disk kills the process.
                    file.write(content)
                    size += len(content)
                    crc32 = zlib.crc32(content, crc32)
            kept = KeptCase(
                cache=self.root.name, case=name.case, views=views, size=size, crc32=crc32
            )
            write_json(draft / CASE_FILE, kept.model_dump())


def rows_of(image_BC: Tensor, label_B: Tensor, said: Said) -> Rows:
    """The rows of a batch: image `(B, C, ...)`, label `(B, ...)`, the rest `(B, ..., C)`."""
    named = {IMAGE: image_BC, **said, LABEL: label_B}
    parts = {name: part.numpy() for name, part in named.items()}
    dtype = np.dtype([(name, part.dtype, part.shape[1:]) for name, part in parts.items()])
    rows = np.empty(len(label_B), dtype=dtype)
    for name, part in parts.items():
        rows[name] = part
    return rows


def _file_content(batches: Iterator[Rows], views: int) -> Iterator[bytes]:
    """The bytes of a `.npy` file, piece by piece."""
    for number, rows in enumerate(batches):
        if number == 0:
            header = BytesIO()
            descr = np.lib.format.dtype_to_descr(rows.dtype)
            np.lib.format.write_array_header_1_0(
                header, {"descr": descr, "fortran_order": False, "shape": (views,)}
            )
            yield header.getvalue()
        yield rows.tobytes()


def _crc32(path: Path) -> int:
    value = 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            value = zlib.crc32(chunk, value)
    return value
