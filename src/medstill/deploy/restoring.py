"""From logits on the prepared grid to labels on the grid of the scan, slab by slab.

Axes: K logit channels, C classes, Z Y X space. "Old" places are those of the prepared grid, "new"
ones those of the scan in canonical orientation, inside the part that was kept.

Probabilities, not labels, are interpolated, and the most probable class is taken on the new grid.
A class is interpolated only where it can be the most probable one: the greatest of K shares is at
least 1/K, and interpolation never exceeds the values it is made of.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from medstill.deploy.calls import Each, Float32Array
from medstill.volumes.axismaps import AxisMap, Maps, linear_maps
from medstill.volumes.geometry import Frame, part_of, shape_zyx
from medstill.volumes.records import LabelArray

Plane = tuple[int, Float32Array]
Box = tuple[slice, slice, slice]

SLAB_PLANES: Final = 8


@dataclass(frozen=True)
class Slab:
    """Planes of the scan and the prepared planes that they are made of.

    Attributes:
        new: The planes of the scan.
        begin: The first prepared plane that is here.
        logits_KZYX: The prepared planes.
    """

    new: slice
    begin: int
    logits_KZYX: Float32Array


@dataclass(frozen=True)
class Piece:
    """Labels of a box of the scan; beyond it, in its planes, there is background only.

    Attributes:
        box: Where it lies.
        label_ZYX: uint8 class values.
        shares_CZYX: Probabilities of all classes, if they are kept.
    """

    box: Box
    label_ZYX: LabelArray
    shares_CZYX: Float32Array | None


class Restorer:
    """Brings logits of the prepared grid back to the grid of the scan."""

    def __init__(self, frame: Frame, *, keep: bool) -> None:
        """Work out the maps of the axes.

        Args:
            frame: How the prepared array lies in the scan.
            keep: Whether the probabilities of all classes are wanted too.
        """
        kept = part_of(frame.canonical, frame.crop_zyx)
        self._maps: Maps = linear_maps(frame.grid, kept)
        self._shape_zyx = shape_zyx(kept)
        self._keep = keep

    def pieces(self, planes: Iterable[Plane], each: Each = map) -> Iterator[Piece]:
        """Labels of the scan, by ascending z, from prepared planes `(z, logits (K, Y, X))`."""
        yield from each(self._piece, self._slabs(planes))

    def _slabs(self, planes: Iterable[Plane]) -> Iterator[Slab]:
        source = iter(planes)
        held: dict[int, Float32Array] = {}
        for start in range(0, self._shape_zyx[0], SLAB_PLANES):
            new = slice(start, min(start + SLAB_PLANES, self._shape_zyx[0]))
            old = new if self._maps[0] is None else self._maps[0].needed(new)
            held = {z: plane for z, plane in held.items() if z >= old.start}
            while old.stop - 1 not in held:
                z, plane_KYX = next(source)
                held[z] = plane_KYX
            yield Slab(new, old.start, np.stack([held[z] for z in range(*_ends(old))], axis=1))

    def _piece(self, slab: Slab) -> Piece:
        shares_KZYX = probabilities(slab.logits_KZYX)
        whole = (slab.new, slice(0, self._shape_zyx[1]), slice(0, self._shape_zyx[2]))
        if len(shares_KZYX) == 1:
            boxes = [whole if self._keep else self._box(shares_KZYX[0] > 0.5, slab)]
            return self._sigmoid(shares_KZYX[0], slab, boxes[0])
        least = 1.0 / len(shares_KZYX)
        boxes = [
            whole if self._keep else self._box(share_ZYX * 1.0001 >= least, slab)
            for share_ZYX in shares_KZYX[1:]
        ]
        return self._softmax(shares_KZYX, slab, boxes)

    def _sigmoid(self, share_ZYX: Float32Array, slab: Slab, box: Box) -> Piece:
        there_ZYX = self._onto(share_ZYX, slab, box)
        kept = np.stack((1.0 - there_ZYX, there_ZYX)) if self._keep else None
        return Piece(box, (there_ZYX > 0.5).astype(np.uint8), kept)

    def _softmax(self, shares_KZYX: Float32Array, slab: Slab, boxes: list[Box]) -> Piece:
        """The most probable class of each voxel; the first one at a tie."""
        box = _around(boxes)
        best_ZYX = self._onto(shares_KZYX[0], slab, box)
        label_ZYX = np.zeros(best_ZYX.shape, dtype=np.uint8)
        kept = [best_ZYX.copy()] if self._keep else []
        for value, own in enumerate(boxes, start=1):
            if any(side.start == side.stop for side in own):
                continue
            share_ZYX = self._onto(shares_KZYX[value], slab, own)
            here = _within(own, box)
            label_ZYX[here][share_ZYX > best_ZYX[here]] = value
            np.maximum(best_ZYX[here], share_ZYX, out=best_ZYX[here])
            if self._keep:
                kept.append(share_ZYX)
        return Piece(box, label_ZYX, np.stack(kept) if self._keep else None)

    def _box(self, mask_ZYX: NDArray[np.bool_], slab: Slab) -> Box:
        """The box of the scan that marked prepared voxels take part in; empty if there are none."""
        sides = []
        for axis, line in enumerate(self._maps):
            others = tuple(other for other in range(3) if other != axis)
            begin = slab.begin if axis == 0 else 0
            places = np.flatnonzero(mask_ZYX.any(axis=others)) + begin
            if not len(places):
                return (slice(slab.new.start, slab.new.start), slice(0, 0), slice(0, 0))
            old = slice(int(places[0]), int(places[-1]) + 1)
            sides.append(old if line is None else line.reached(old))
        z = slice(max(sides[0].start, slab.new.start), min(sides[0].stop, slab.new.stop))
        return (slice(z.start, max(z.start, z.stop)), sides[1], sides[2])

    def _onto(self, map_ZYX: Float32Array, slab: Slab, box: Box) -> Float32Array:
        """A map of the prepared planes, interpolated onto a box of the scan."""
        if any(side.start == side.stop for side in box):
            return np.zeros(_size(box), dtype=np.float32)
        begins = (slab.begin, 0, 0)
        olds = [_needed(line, new) for line, new in zip(self._maps, box, strict=True)]
        cut = (
            slice(old.start - begin, old.stop - begin)
            for old, begin in zip(olds, begins, strict=True)
        )
        part: Float32Array = map_ZYX[*cut]
        for axis in (-1, -2, -3):
            line = self._maps[axis]
            if line is not None:
                part = line(part, axis, box[axis], olds[axis].start)
        return part


def probabilities(logits_K: Float32Array) -> Float32Array:
    """Class probabilities `(K, ...)` of logits: a sigmoid for one channel, else a softmax."""
    if len(logits_K) == 1:
        share_K: Float32Array = (1.0 + np.tanh(logits_K / 2.0, dtype=np.float32)) / 2.0
        return share_K
    powers_K: Float32Array = logits_K - logits_K.max(axis=0, keepdims=True)
    np.exp(powers_K, out=powers_K)
    powers_K /= powers_K.sum(axis=0, keepdims=True)
    return powers_K


def _needed(line: AxisMap | None, new: slice) -> slice:
    return new if line is None else line.needed(new)


def _ends(places: slice) -> tuple[int, int]:
    return places.start, places.stop


def _size(box: Box) -> tuple[int, int, int]:
    z, y, x = (side.stop - side.start for side in box)
    return z, y, x


def _around(boxes: list[Box]) -> Box:
    """The smallest box around all that are not empty."""
    full = [box for box in boxes if min(_size(box)) > 0] or boxes[:1]
    z, y, x = (
        slice(min(side.start for side in sides), max(side.stop for side in sides))
        for sides in zip(*full, strict=True)
    )
    return z, y, x


def _within(inner: Box, outer: Box) -> Box:
    z, y, x = (
        slice(side.start - begin.start, side.stop - begin.start)
        for side, begin in zip(inner, outer, strict=True)
    )
    return z, y, x
