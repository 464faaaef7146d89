"""Freed memory stays with the process while it trains on a CPU.

glibc asks the system for every block of more than some hundred KiB, and gives it back when it is
freed. A training step frees and asks for hundreds of maps of megabytes, and the system clears each
page of them before it is touched. `scripts/benchmark_memory.py` measures what keeping them saves.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Parameters of glibc's `mallopt`, from `malloc.h`."""
DEFAULT_TRIM, DEFAULT_MMAPS = 128 * 1024, 65536
NEVER = 2**31 - 1


@contextmanager
def kept_memory() -> Iterator[None]:
    """Keep freed memory for the next step; at the end it goes back to the system.

    It changes no result, and does nothing where the C library is not glibc. The process holds its
    largest size until the end, as it would at its peak.
    """
    library = _glibc()
    if library is None:
        yield
        return
    library.mallopt(M_MMAP_MAX, 0)
    library.mallopt(M_TRIM_THRESHOLD, NEVER)
    try:
        yield
    finally:
        library.mallopt(M_MMAP_MAX, DEFAULT_MMAPS)
        library.mallopt(M_TRIM_THRESHOLD, DEFAULT_TRIM)
        library.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "gnu_get_libc_version") else None
