"""A network over a whole volume: patch by patch in, plane by plane out.

Axes: B batch, C channels, Z Y X space; a 2-D network sees patches of one slice, `(1, y, x)`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from medstill.patches.grid import Float32Array, Index, Stitcher, Volume, iterate_batches, size_zyx
from medstill.volumes.records import FloatArray


@dataclass(frozen=True)
class Tiling:
    """How a volume is cut for a network."""

    patch_zyx: Index
    overlap: float = 0.5
    batch_size: int = 1
    pad_value: float = 0.0


def sweep(
    array_CZYX: Volume,
    network: Callable[[Float32Array], FloatArray],
    tiling: Tiling,
    each: Callable[..., Iterator[tuple[FloatArray, tuple[Index, ...]]]] = map,
) -> Iterator[tuple[int, Float32Array]]:
    """Run a network over a volume and yield its blended output plane by plane.

    A plane is given as soon as its last patch was seen: in 2-D one slice at a time is held, in
    3-D about one and a half patches along Z.

    Args:
        array_CZYX: The prepared volume.
        network: Maps `(B, C, *patch_zyx)` float32 to `(B, K, *patch_zyx)`.
        tiling: Patch, overlap, batch and padding.
        each: Applies a function to each batch and gives the results in order, as `map` does.

    Yields:
        The index z, ascending, and the plane `(K, Y, X)` float32.

    Raises:
        ShapeError: The network answers with another batch or patch size.
    """
    stitcher: Stitcher | None = None
    patch_zyx, overlap = tiling.patch_zyx, tiling.overlap
    batches = iterate_batches(array_CZYX, patch_zyx, overlap, tiling.batch_size, tiling.pad_value)
    for output_BCZYX, starts in each(lambda batch: (network(batch[0]), batch[1]), batches):
        if stitcher is None:
            stitcher = Stitcher(size_zyx(array_CZYX), output_BCZYX.shape[1], patch_zyx, overlap)
        stitcher.add(output_BCZYX, starts)
        yield from stitcher.finished_planes()
