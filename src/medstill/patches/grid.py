"""Cover a volume with overlapping patches and put what a network says about them together again.

Axes: B batch, C channels, Z Y X space; a 2-D network sees patches of one slice, `(1, y, x)`.

The patches of a volume stand on a Cartesian grid, so the weights that blend them are products of
one weight per axis, and they are normalised in advance to sum to one at every voxel. Nothing is
left to divide, a plane is finished with its last patch, and a volume is never held for all classes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from medstill.errors import ShapeError
from medstill.volumes.records import FloatArray

Index = tuple[int, int, int]
Float32Array = NDArray[np.float32]


class Volume(Protocol):
    """What patches are cut from: an array, in memory or mapped, or one that is made when read."""

    @property
    def ndim(self) -> int:
        """Number of axes: 4."""

    @property
    def shape(self) -> tuple[int, ...]:
        """`(C, Z, Y, X)`."""

    def __getitem__(self, index: tuple[slice, ...], /) -> Any:
        """The block at a slice of each axis."""


SIGMA_SHARE = 0.125
"""Standard deviation of the blending weights as a share of the patch."""


def covering(shape_zyx: Index, patch_zyx: Index, overlap: float = 0.5) -> tuple[Index, ...]:
    """Starts of the patches that cover a volume, in the order of Z, Y, X.

    On every axis the patches are spread evenly from the first to the last voxel; the grid is its
    own mirror image (up to half a voxel for the middle patch). An axis shorter than the patch gets
    one centred patch with a negative start: what lies outside is padding.

    Args:
        shape_zyx: Size of the volume in voxels.
        patch_zyx: Size of a patch in voxels.
        overlap: Least share of a patch that it has in common with its neighbour, rounded to
            voxels, in `[0, 1)`.

    Raises:
        ShapeError: A size is not positive, or `overlap` lies outside `[0, 1)`.
    """
    return tuple(itertools.product(*_starts_by_axis(shape_zyx, patch_zyx, overlap)))


def centred_start(size: int, patch: int) -> int:
    """Start of the patch in the middle of an axis; negative where the patch is the longer."""
    return -((patch - size) // 2)


def extract_padded(
    array_CZYX: Volume, start_zyx: Index, patch_zyx: Index, pad_value: float
) -> Float32Array:
    """The patch at `start_zyx` as a new array; voxels outside the volume are `pad_value`.

    Only the region needed is read, so the array may be memory-mapped.

    Returns:
        `(C, *patch_zyx)` float32.
    """
    patch_CZYX = np.full((array_CZYX.shape[0], *patch_zyx), pad_value, dtype=np.float32)
    inside, there = overlap_slices(array_CZYX.shape[1:], start_zyx, patch_zyx)
    patch_CZYX[:, *inside] = array_CZYX[:, *there]
    return patch_CZYX


def overlap_slices(
    shape: Sequence[int], start: Sequence[int], patch: Sequence[int]
) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Where a patch and an array meet: slices into the patch and the same voxels in the array."""
    inside, there = [], []
    for size, first, length in zip(shape, start, patch, strict=True):
        low = min(max(first, 0), size)
        high = max(min(first + length, size), low)
        inside.append(slice(low - first, high - first) if high > low else slice(0, 0))
        there.append(slice(low, high))
    return tuple(inside), tuple(there)


def iterate_batches(
    array_CZYX: Volume,
    patch_zyx: Index,
    overlap: float,
    batch_size: int,
    pad_value: float,
) -> Iterator[tuple[Float32Array, tuple[Index, ...]]]:
    """Yield the patches that cover a volume in batches, with their starts.

    The last batch may be smaller; every patch comes once, in the order of `covering`.

    Yields:
        `(B, C, *patch_zyx)` float32 and B starts.

    Raises:
        ShapeError: The sizes, `overlap` or `batch_size` make no sense.
    """
    if batch_size < 1:
        raise ShapeError(f"A batch needs at least 1 patch, but batch_size is {batch_size}.")
    starts = covering(size_zyx(array_CZYX), patch_zyx, overlap)
    for first in range(0, len(starts), batch_size):
        chosen = starts[first : first + batch_size]
        patches = [extract_padded(array_CZYX, start, patch_zyx, pad_value) for start in chosen]
        yield np.stack(patches), chosen


class Stitcher:
    """Blend overlapping patches of logits or probabilities with Gaussian weights, in float32.

    Patches may come in any order, but each exactly once. A voxel seen by one patch keeps its
    value bit for bit. Memory: the planes that were begun and not yet taken.
    """

    def __init__(
        self, shape_zyx: Index, channels: int, patch_zyx: Index, overlap: float = 0.5
    ) -> None:
        """Prepare the weights for the grid `covering(shape_zyx, patch_zyx, overlap)`.

        Raises:
            ShapeError: As `covering`.
        """
        by_axis = _starts_by_axis(shape_zyx, patch_zyx, overlap)
        self._shape_zyx = shape_zyx
        self._patch_zyx = patch_zyx
        self._channels = channels
        self._weights = tuple(
            _partition_of_unity(size, patch, starts)
            for size, patch, starts in zip(shape_zyx, patch_zyx, by_axis, strict=True)
        )
        self._awaited = set(itertools.product(*by_axis))
        self._missing = np.zeros(shape_zyx[0], dtype=np.int64)
        for start, _, _ in self._awaited:
            self._missing[max(start, 0) : start + patch_zyx[0]] += 1
        self._begun: dict[int, Float32Array] = {}

    def add(self, batch_BCZYX: FloatArray, starts: Sequence[Index]) -> None:
        """Blend in a batch of patches.

        Args:
            batch_BCZYX: Logits or probabilities `(B, C, *patch_zyx)`.
            starts: Where each of the B patches stands.

        Raises:
            ShapeError: The batch is of another shape, or a start is not of the grid or came twice.
        """
        expected = (len(starts), self._channels, *self._patch_zyx)
        if batch_BCZYX.shape != expected:
            raise ShapeError(
                f"Expected patches of shape {expected} (batch, channels, z, y, x), but got "
                f"{batch_BCZYX.shape}. The network must keep the spatial size of its input."
            )
        for patch_CZYX, start in zip(batch_BCZYX, starts, strict=True):
            self._add_patch(patch_CZYX, start)

    def finished_planes(self) -> Iterator[tuple[int, Float32Array]]:
        """Take the planes `(C, Y, X)` that no further patch will touch, by ascending z."""
        for z in sorted(z for z in self._begun if self._missing[z] == 0):
            yield z, self._begun.pop(z)

    def result(self) -> Float32Array:
        """The whole volume `(C, Z, Y, X)`; for volumes small enough to be held for all channels.

        Raises:
            ShapeError: Patches are missing, or planes were taken before.
        """
        if self._awaited or len(self._begun) != self._shape_zyx[0]:
            raise ShapeError(
                f"Expected every patch before the result, but {len(self._awaited)} have not come "
                f"and {len(self._begun)} of {self._shape_zyx[0]} planes are here. Add the patches "
                "of all starts that `covering` gives, and do not take planes before."
            )
        return np.stack([plane for _, plane in self.finished_planes()], axis=1)

    def _add_patch(self, patch_CZYX: FloatArray, start_zyx: Index) -> None:
        if start_zyx not in self._awaited:
            raise ShapeError(
                f"Expected each start of the grid once, but {start_zyx} is not one of it or came "
                "twice. Use the starts of `covering` with the same sizes and overlap."
            )
        self._awaited.remove(start_zyx)
        inside, there = overlap_slices(self._shape_zyx, start_zyx, self._patch_zyx)
        weight_z, weight_y, weight_x = (
            weights[start] for weights, start in zip(self._weights, start_zyx, strict=True)
        )
        weight_YX = (weight_y[:, None] * weight_x[None, :])[inside[1:]]
        for i, z in zip(_indices(inside[0]), _indices(there[0]), strict=True):
            plane_CYX = self._plane(z)
            seen_CYX = patch_CZYX[:, i][:, *inside[1:]]
            plane_CYX[:, *there[1:]] += seen_CYX * (weight_z[i] * weight_YX)
            self._missing[z] -= 1

    def _plane(self, z: int) -> Float32Array:
        if z not in self._begun:
            shape = (self._channels, *self._shape_zyx[1:])
            self._begun[z] = np.zeros(shape, dtype=np.float32)
        return self._begun[z]


def _indices(part: slice) -> range:
    return range(part.start, part.stop)


def size_zyx(array_CZYX: Volume) -> Index:
    """The size in space of an array `(C, Z, Y, X)`.

    Raises:
        ShapeError: It has other axes.
    """
    if array_CZYX.ndim != 4:
        raise ShapeError(
            f"Expected an array with the axes C Z Y X, but got the shape {array_CZYX.shape}. "
            "Give a 2-D image as one slice: (C, 1, Y, X)."
        )
    _, size_z, size_y, size_x = array_CZYX.shape
    return size_z, size_y, size_x


def _starts_by_axis(
    shape_zyx: Index, patch_zyx: Index, overlap: float
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    if min(shape_zyx) < 1 or min(patch_zyx) < 1:
        raise ShapeError(
            f"Expected at least 1 voxel on each axis, but the volume is {shape_zyx} and the patch "
            f"{patch_zyx} (z, y, x). Check data.patch_size and the image."
        )
    if not 0.0 <= overlap < 1.0:
        raise ShapeError(f"Expected an overlap from 0 to below 1, but got {overlap}.")
    z, y, x = (
        _starts(size, patch, overlap) for size, patch in zip(shape_zyx, patch_zyx, strict=True)
    )
    return z, y, x


def _starts(size: int, patch: int, overlap: float) -> tuple[int, ...]:
    room = size - patch
    if room <= 0:
        return (centred_start(size, patch),)
    # Rounded first: 10 * (1 - 0.9) is a little less than 1.
    stride = max(1, int(round(patch * (1.0 - overlap), 6)))
    steps = -(-room // stride)
    # The second half mirrors the first, so that no side of the body is treated unlike the other.
    first_half = [(2 * i * room + steps) // (2 * steps) for i in range((steps + 1) // 2)]
    middle = [room // 2] if steps % 2 == 0 else []
    return (*first_half, *middle, *(room - start for start in reversed(first_half)))


def _partition_of_unity(size: int, patch: int, starts: tuple[int, ...]) -> dict[int, Float32Array]:
    """Start -> weights of a patch along one axis; at each voxel the weights of all sum to one."""
    offsets = np.arange(patch) - (patch - 1) / 2
    bell = np.exp(-0.5 * (offsets / (SIGMA_SHARE * patch)) ** 2)
    total = np.zeros(max(size, patch))
    shift = -min(starts[0], 0)
    for start in starts:
        total[start + shift : start + shift + patch] += bell
    return {
        start: (bell / total[start + shift : start + shift + patch]).astype(np.float32)
        for start in starts
    }
