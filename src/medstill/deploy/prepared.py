"""Networks on prepared arrays, without the way back to the scan: validation and reconstruction.

Axes: B batch, C input channels, K output channels, Z Y X space.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from medstill.deploy.calls import Float32Array, Network
from medstill.patches.sweep import Tiling, sweep
from medstill.volumes.records import FloatArray, LabelArray, Preparation

BATCH = 8


def segment_prepared(
    image_CZYX: FloatArray, network: Network, preparation: Preparation, *, overlap: float = 0.5
) -> LabelArray:
    """Class values `(Z, Y, X)` of a prepared image, on the prepared grid.

    Args:
        image_CZYX: The prepared image; may be memory-mapped.
        network: Gives logits `(B, K, ...)`; one channel is a sigmoid, more are a softmax.
        preparation: How the image was prepared.
        overlap: Share of a patch by which neighbouring patches overlap, in `[0, 1)`.
    """
    planes = []
    for _, logits_KYX in _sweep(image_CZYX, network, preparation, overlap):
        labels = logits_KYX[0] > 0 if len(logits_KYX) == 1 else logits_KYX.argmax(axis=0)
        planes.append(labels.astype(np.uint8))
    return np.stack(planes)


def map_prepared(
    image_CZYX: FloatArray, network: Network, preparation: Preparation, *, overlap: float = 0.5
) -> Float32Array:
    """What a network gives for a prepared image, blended: `(K, Z, Y, X)` float32."""
    planes = [plane for _, plane in _sweep(image_CZYX, network, preparation, overlap)]
    return np.stack(planes, axis=1)


def _sweep(
    image_CZYX: FloatArray, network: Network, preparation: Preparation, overlap: float
) -> Iterator[tuple[int, Float32Array]]:
    def on_volumes(batch_BCZYX: Float32Array) -> NDArray[np.float32]:
        if preparation.spatial_dims == 3:
            return network(batch_BCZYX)
        return network(batch_BCZYX[:, :, 0])[:, :, None]

    tiling = Tiling(preparation.patch_zyx, overlap, BATCH, preparation.pad_value)
    return sweep(image_CZYX, on_volumes, tiling)
