"""A scan whose planes are prepared when they are read, so that it is never held as a whole.

It is `preparation.prepare_image` slab by slab: the raw image keeps its own type and orientation.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from medstill.volumes.arriving import Arriving
from medstill.volumes.axismaps import Float32Array, Maps, image_maps
from medstill.volumes.geometry import Frame, part_of, shape_zyx
from medstill.volumes.intensity import bounds_of, needs_voxels, scale_between
from medstill.volumes.orienting import Turn, turn_of
from medstill.volumes.preparation import frame_in
from medstill.volumes.records import Preparation

SLAB: Final = 8
"""Prepared planes that are made at a time."""


class SlabScan:
    """The prepared array `(C, Z, Y, X)` of a scan, read in slabs along z.

    Attributes:
        frame: How the prepared array lies in the scan.
        turn: The turn from the scan's own axes to canonical ones.
    """

    ndim = 4

    def __init__(self, scan: Arriving, preparation: Preparation) -> None:
        """Find grid and intensity bounds; no plane is prepared yet.

        Args:
            scan: 3-D scan. It is kept and read later, plane by plane as they come; where the bounds
                depend on the voxels, all of them are awaited here.
            preparation: What is done.

        Raises:
            DataError: All voxels are needed and cannot be read.
            IntensityError: Its channels are not those of the preparation, or do not suit it.
        """
        self.frame: Frame = frame_in(scan, preparation)
        self.turn: Turn = turn_of(scan.geometry, preparation.orientation)
        kinds = preparation.intensity
        raw_CZYX = scan.whole() if any(needs_voxels(how) for how in kinds) else scan.raw_CZYX
        self._bounds = [bounds_of(raw, how) for raw, how in zip(raw_CZYX, kinds, strict=True)]
        self._scan, self._stored = scan, shape_zyx(scan.geometry)
        (z0, z1), (y0, y1), (x0, x1) = self.frame.crop_zyx
        self._raw_CZYX: NDArray[Any] = self.turn(raw_CZYX)[:, z0:z1, y0:y1, x0:x1]
        kept = part_of(self.frame.canonical, self.frame.crop_zyx)
        self._maps: Maps = image_maps(kept, self.frame.grid)
        self.shape = (len(raw_CZYX), *self.frame.shape_zyx)
        self._held = np.empty((len(raw_CZYX), 0, *self.shape[2:]), dtype=np.float32)
        self._begin = 0

    def __getitem__(self, index: tuple[slice, ...], /) -> Float32Array:
        """A block of the prepared array; it is quickest when z only grows from call to call."""
        channels, z, y, x = index
        start, stop, _ = z.indices(self.shape[1])
        end = self._begin + self._held.shape[1]
        if not self._begin <= start <= end:
            self._held, self._begin, end = self._held[:, :0], start, start
        if stop > end:
            kept = self._held[:, start - self._begin :]
            made = self._prepared(end, min(max(stop, end + SLAB), self.shape[1]))
            self._held, self._begin = np.concatenate((kept, made), axis=1), start
        there = slice(start - self._begin, stop - self._begin)
        block: Float32Array = self._held[channels, there, y, x]
        return block

    def _prepared(self, start: int, stop: int) -> Float32Array:
        map_z, map_y, map_x = self._maps
        new = slice(start, stop)
        old = new if map_z is None else map_z.needed(new)
        z0 = self.frame.crop_zyx[0][0]
        self._scan.wait(self.turn.stored_stop(slice(z0 + old.start, z0 + old.stop), self._stored))
        channels = []
        for raw_ZYX, bounds in zip(self._raw_CZYX, self._bounds, strict=True):
            part = scale_between(np.ascontiguousarray(raw_ZYX[old]), bounds)
            if map_y is not None:
                part = map_y(part, -2, slice(0, self.shape[2]), 0)
            if map_x is not None:
                part = map_x(part, -1, slice(0, self.shape[3]), 0)
            if map_z is not None:
                part = map_z(part, -3, new, old.start)
            channels.append(part)
        return np.stack(channels)
