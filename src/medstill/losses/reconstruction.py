"""The teacher's second task: give the clean image back.

Shape legend: B batch, C channels, `...` space (H W or D H W).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from medstill.errors import ShapeError
from medstill.losses.numerics import in_full_precision


@in_full_precision
def reconstruction_loss(reconstruction_BC: Tensor, image_BC: Tensor) -> Tensor:
    """Mean squared error of a reconstruction, over every channel and place.

    Args:
        reconstruction_BC: Output of the reconstruction decoder `(B, C, ...)`.
        image_BC: The clean image, same shape; no gradient flows into it.

    Returns:
        Scalar >= 0, in squared units of the prepared image.

    Raises:
        ShapeError: The two shapes differ.
    """
    if reconstruction_BC.shape != image_BC.shape:
        raise ShapeError(
            f"A reconstruction must have the image's shape {tuple(image_BC.shape)}, but its shape "
            f"is {tuple(reconstruction_BC.shape)}. Build the network with as many reconstruction "
            "channels as the image has."
        )
    return F.mse_loss(reconstruction_BC, image_BC.detach())


def mask_blocks(image_BC: Tensor, ratio: float, block: int, generator: torch.Generator) -> Tensor:
    """A copy of the image with a share of its blocks set to 0, drawn anew for each sample.

    Args:
        image_BC: `(B, C, ...)`; all channels of a place are masked together.
        ratio: Share of the blocks in [0, 1]; each sample loses exactly that share, rounded.
        block: Edge of a block in pixels or voxels; blocks at the far edges may be cut.
        generator: The only source of randomness, on the CPU.

    Returns:
        Masked image of the same shape; the image itself when `ratio` is 0.
    """
    if ratio == 0:
        return image_BC
    batch, space = image_BC.shape[0], image_BC.shape[2:]
    grid = tuple(math.ceil(size / block) for size in space)
    blocks = math.prod(grid)
    rank_BN = torch.rand(batch, blocks, generator=generator).argsort(dim=1).argsort(dim=1)
    keep = (rank_BN >= round(ratio * blocks)).view(batch, 1, *grid)
    for axis, size in enumerate(space, start=2):
        keep = keep.repeat_interleave(block, dim=axis).narrow(axis, 0, size)
    return image_BC * keep.to(image_BC.device)
