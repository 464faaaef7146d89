"""Time the reading of random slices and patches of a prepared case from three kinds of store.

    python scripts/benchmark_store.py PREPARED_FOLDER [CASE]

It needs blosc2 and zarr besides medstill. The files are warm in the page cache, as they are from
the second epoch on.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
import zarr
from rich.console import Console
from rich.table import Table

from medstill.volumes.store import open_set

READS = 200
CHUNK_CZYX = (1, 16, 64, 64)
PATCHES_ZYX = {"slice 128 x 128": (1, 128, 128), "patch 64^3": (64, 64, 64)}


def npy(array: np.ndarray, path: Path) -> Any:
    """A memory-mapped file of plain numbers."""
    np.save(path.with_suffix(".npy"), array)
    return np.load(path.with_suffix(".npy"), mmap_mode="r")


def blosc(array: np.ndarray, path: Path) -> Any:
    """A chunked and compressed Blosc2 file."""
    place = str(path.with_suffix(".b2nd"))
    blosc2.asarray(array, urlpath=place, mode="w", chunks=_chunks(array))
    return blosc2.open(place, mode="r")


def zarr_folder(array: np.ndarray, path: Path) -> Any:
    """A chunked and compressed Zarr folder."""
    place = str(path.with_suffix(".zarr"))
    store = zarr.create_array(place, shape=array.shape, dtype=array.dtype, chunks=_chunks(array))
    store[:] = array
    return zarr.open_array(place, mode="r")


STORES: dict[str, Callable[[np.ndarray, Path], Any]] = {
    "npy": npy,
    "blosc2": blosc,
    "zarr": zarr_folder,
}


def read_ms(store: Any, shape_zyx: tuple[int, ...], patch_zyx: tuple[int, ...]) -> float:
    """Mean time of a random read with its conversion to float32, in ms."""
    generator = np.random.default_rng(0)
    size = [min(length, want) for length, want in zip(shape_zyx, patch_zyx, strict=True)]
    last = [length - want + 1 for length, want in zip(shape_zyx, size, strict=True)]
    start_s = time.perf_counter()
    for _ in range(READS):
        z, y, x = generator.integers(last)
        part = store[:, z : z + size[0], y : y + size[1], x : x + size[2]]
        np.asarray(part).astype(np.float32)
    return (time.perf_counter() - start_s) / READS * 1e3


def main() -> None:
    """Print the table."""
    prepared = open_set(Path(sys.argv[1]))
    case = prepared.open(sys.argv[2] if len(sys.argv) > 2 else min(prepared.infos))
    table = Table("store", "type", "MB", *(f"{name}, ms" for name in PATCHES_ZYX))
    table.title = f"case {case.info.id}, {case.image_CZYX.shape}, mean of {READS} reads"
    with tempfile.TemporaryDirectory() as folder:
        for dtype in (np.float16, np.float32):
            array = np.asarray(case.image_CZYX).astype(dtype)
            for name, make in STORES.items():
                place = Path(folder) / f"{name}-{array.dtype}"
                store = make(array, place)
                times = [read_ms(store, array.shape[1:], size) for size in PATCHES_ZYX.values()]
                megabytes = f"{_bytes(place) / 1e6:.1f}"
                table.add_row(name, str(array.dtype), megabytes, *(f"{ms:.3f}" for ms in times))
    Console(width=100).print(table)


def _chunks(array: np.ndarray) -> tuple[int, ...]:
    return tuple(min(pair) for pair in zip(array.shape, CHUNK_CZYX, strict=True))


def _bytes(place: Path) -> int:
    return sum(
        file.stat().st_size
        for entry in place.parent.glob(f"{place.name}.*")
        for file in (entry, *entry.rglob("*"))
        if file.is_file()
    )


if __name__ == "__main__":
    main()
