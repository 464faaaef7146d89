"""Scans whose first planes are at work while the others are still being read.

Axes: C channels, Z Y X space, in the order of the file.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from medstill.volumes.checks import truncated
from medstill.volumes.geometry import array_CZYX, geometry_of
from medstill.volumes.io import read_channels
from medstill.volumes.plain import Plain, plain_nifti, voxels_for
from medstill.volumes.records import Geometry


class Arriving:
    """A scan, some planes of which may still be on their way.

    The last plane counts as here when the whole file has been found good, so nothing that is made
    of all planes can be made of a bad file.

    Attributes:
        geometry: Its grid.
        raw_CZYX: Its voxels, read-only. Planes that are not here yet hold anything: `wait` first.
        read_s: Seconds that reading has taken so far.
        waited_s: Seconds that others have waited for planes.
    """

    def __init__(self, raw_CZYX: NDArray[Any], geometry: Geometry, here: int) -> None:
        """Hold the memory of a scan whose first `here` planes have come."""
        self.geometry = geometry
        self.raw_CZYX = raw_CZYX.view()
        self.raw_CZYX.flags.writeable = False
        self.read_s = 0.0
        self.waited_s = 0.0
        self._here = here
        self._failure: Exception | None = None
        self._wanted = True
        self._news = threading.Condition()

    def wait(self, stop: int) -> None:
        """Wait until the planes before `stop` are here.

        Raises:
            DataError: What `io.read_channels` says of the file.
        """
        started = time.perf_counter()
        with self._news:
            self._news.wait_for(lambda: self._failure is not None or self._here >= stop)
            self.waited_s += time.perf_counter() - started
            if self._failure is not None:
                raise self._failure

    def whole(self) -> NDArray[Any]:
        """All voxels, once they are here.

        Raises:
            DataError: See `wait`.
        """
        self.wait(self.raw_CZYX.shape[1])
        return self.raw_CZYX

    def tell(self, here: int) -> bool:
        """Say that more planes have come; the answer is whether the others are still wanted."""
        with self._news:
            self._here = here
            self._news.notify_all()
            return self._wanted

    def fail(self, failure: Exception) -> None:
        """Say why no more planes will come."""
        with self._news:
            self._failure = failure
            self._news.notify_all()

    @property
    def is_wanted(self) -> bool:
        """Whether the planes that are not here yet are wanted."""
        return self._wanted

    def leave(self) -> None:
        """Say that no more planes are wanted."""
        with self._news:
            self._wanted = False


def arrived(image: sitk.Image) -> Arriving:
    """An image that was read as a whole.

    Raises:
        GeometryError: It is not 3-D.
    """
    raw_CZYX = array_CZYX(image)
    return Arriving(raw_CZYX, geometry_of(image), raw_CZYX.shape[1])


@contextmanager
def opened(paths: Sequence[Path]) -> Iterator[Arriving]:
    """Give a scan, one file a channel, that is read beside whatever is done in the block.

    A plain compressed NIfTI comes plane by plane, every other one is read before the block. Voxels,
    grid and refusals are those of `io.read_channels`; a refusal may come from `Arriving.wait`.

    Raises:
        DataError: See `io.read_channels`.
    """
    plain = plain_nifti(paths[0]) if len(paths) == 1 else None
    if plain is None:
        yield arrived(read_channels(paths))
        return
    voxels_ZYX = voxels_for(plain)
    scan = Arriving(voxels_ZYX[np.newaxis], plain.geometry, 0)
    with ThreadPoolExecutor(1) as reader:
        reader.submit(_read, plain, voxels_ZYX, scan)
        try:
            yield scan
        finally:
            scan.leave()


def _read(plain: Plain, voxels_ZYX: NDArray[Any], scan: Arriving) -> None:
    started = time.perf_counter()
    range_seen = _Range()

    def came(planes: int) -> bool:
        scan.read_s = time.perf_counter() - started
        range_seen.look_at(voxels_ZYX[:planes])
        if not range_seen.is_finite:
            return False  # nobody gets such planes; what is wrong is said when all is read again
        return scan.tell(min(planes, len(voxels_ZYX) - 1))

    try:
        whole = plain.unpack(voxels_ZYX, came)
        if scan.is_wanted:
            if not (whole and range_seen.is_good):
                _read_again(plain.path, voxels_ZYX, range_seen.planes)
            scan.tell(len(voxels_ZYX))
    except Exception as error:  # it is raised where the planes are awaited
        scan.fail(error)
    scan.read_s = time.perf_counter() - started


def _read_again(path: Path, voxels_ZYX: NDArray[Any], given: int) -> None:
    """Read a file that turned out not to be plain, of which some planes were given away."""
    read_ZYX = array_CZYX(read_channels((path,)))[0]
    if not np.array_equal(read_ZYX[:given], voxels_ZYX[:given]):
        raise truncated(path, "a file that stays as it is", "other voxels when it was read again")
    voxels_ZYX[:] = read_ZYX


class _Range:
    """The least and the greatest voxel of the planes seen so far; NaN where there is a NaN."""

    def __init__(self) -> None:
        self.planes = 0
        self._low, self._high = np.inf, -np.inf

    def look_at(self, voxels_ZYX: NDArray[Any]) -> None:
        """Look at the planes that have come since the last time."""
        new_ZYX = voxels_ZYX[self.planes :]
        self._low = np.minimum(self._low, new_ZYX.min())
        self._high = np.maximum(self._high, new_ZYX.max())
        self.planes = len(voxels_ZYX)

    @property
    def is_finite(self) -> bool:
        """Whether all numbers are finite."""
        return bool(np.isfinite(self._low) and np.isfinite(self._high))

    @property
    def is_good(self) -> bool:
        """Whether all numbers are finite, and not all the same."""
        return self.is_finite and bool(self._low != self._high)
