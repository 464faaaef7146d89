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
    planes = logit_planes(image_CZYX, network, preparation, overlap)
    return np.stack([labels_of(logits_KYX) for logits_KYX in planes])


def map_prepared(
    image_CZYX: FloatArray, network: Network, preparation: Preparation, *, overlap: float = 0.5
) -> Float32Array:
    """What a network gives for a prepared image, blended: `(K, Z, Y, X)` float32."""
    return np.stack(list(logit_planes(image_CZYX, network, preparation, overlap)), axis=1)


def labels_of(logits_KYX: Float32Array) -> LabelArray:
    """Class values `(Y, X)` of one plane of logits; one channel is a sigmoid."""
    found_YX = logits_KYX[0] > 0 if len(logits_KYX) == 1 else logits_KYX.argmax(axis=0)
    labels_YX: LabelArray = found_YX.astype(np.uint8)
    return labels_YX


def logit_planes(
    image_CZYX: FloatArray, network: Network, preparation: Preparation, overlap: float
) -> Iterator[Float32Array]:
    """What a network gives, blended, plane by plane: `(K, Y, X)` in the order of Z."""

    def on_volumes(batch_BCZYX: Float32Array) -> NDArray[np.float32]:
        if preparation.spatial_dims == 3:
            return network(batch_BCZYX)
        return network(batch_BCZYX[:, :, 0])[:, :, None]

    tiling = Tiling(preparation.patch_zyx, overlap, BATCH, preparation.pad_value)
    return (plane for _, plane in sweep(image_CZYX, on_volumes, tiling))
