"""The U-Nets of the thesis: the multi-task teacher T1 and the students S1 and S2.

Every block is 3x3 convolution (with bias), batch norm and ReLU, once in the students and twice in
the teacher, in encoder and decoder alike; 2x2 max-pooling; 2x2 transposed convolutions that halve
the channels; skips concatenated; a 1x1 head. With 3 input channels and 1 output channel they have
43,236,036 (T1, with the reconstruction decoder), 57,297 (S1) and 227,233 (S2) parameters.

References:
    Ronneberger et al., U-Net, arXiv:1505.04597.
    Biswas, Multi-Task Multi-Scale Contrastive Knowledge Distillation, arXiv:2406.03173.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from medstill.networks.blocks import (
    OPERATIONS,
    ConcatTransposed,
    Operations,
    initialise,
    plain_block,
    scaled,
)
from medstill.networks.encoder_decoder import Decoder, Encoder, EncoderDecoder
from medstill.networks.request import Request


def unet(request: Request, *, widths: Sequence[int], convs: int) -> EncoderDecoder:
    """A U-Net with one block per width.

    Args:
        request: Dimensions, channels, width factor, and whether a second decoder is wanted.
        widths: Channels of the levels, finest first.
        convs: Convolutions in a block.
    """
    ops = OPERATIONS[request.spatial_dims]
    levels = scaled(widths, request.width)

    def decoder(channels: int) -> Decoder:
        return unet_decoder(ops, levels, channels, convs=convs)

    *blocks, bottleneck = (
        plain_block(ops, source, width, convs=convs, bias=True)
        for source, width in pairwise((request.in_channels, *levels))
    )
    network = EncoderDecoder(
        Encoder(blocks, [ops.max_pool(2) for _ in blocks], bottleneck),
        decoder(request.out_channels),
        decoder(request.in_channels) if request.reconstruction else None,
        size_multiple=2 ** (len(levels) - 1),
    )
    initialise(network)
    return network


def unet_decoder(ops: Operations, levels: Sequence[int], channels: int, *, convs: int) -> Decoder:
    """A U-Net's way up: transposed convolutions, skips concatenated, a block per level, a 1x1 head.

    Args:
        ops: The layers of one number of spatial dimensions.
        levels: Channels of the encoder's levels, finest first, the bottleneck last.
        channels: Channels of the answer.
        convs: Convolutions in a block.
    """
    return Decoder(
        [ConcatTransposed(ops, deep, skip) for skip, deep in pairwise(levels)],
        [plain_block(ops, 2 * skip, skip, convs=convs, bias=True) for skip in levels[:-1]],
        ops.conv(levels[0], channels, 1),
    )
