"""Students of at most 60,000 parameters that see where in the body they are.

`compact` works on a grid of half the resolution. Its 6x6 convolution of stride 2 is the 3x3
convolution on a 2x2 pixel-unshuffled input, its 2x2 transposed convolution of stride 2 is the 1x1
convolution followed by a pixel-shuffle: the same maps in one operation each, in 2-D and 3-D, for
inputs of any size. The stem has at least as many channels as the input values it takes in at a
time (4 in 2-D, 8 in 3-D, of one channel), so that it can pass all of them on.

`compact_fine` puts one thin level of full resolution around it, with a skip: edges of small
structures are found again in three quarters of the time of `compact_dw`. Where there are more
classes than the thin level has channels, which are then learnt late, logits of the half-resolution
level are added; with few classes that was no gain, and a loss where a teacher teaches the thin
level.

`compact_dw` works on the full grid with depthwise-separable convolutions.

With 1 input and 1 output channel, 3 and 1, 1 and 14, 3 and 14:
compact 2-D 57,217, 58,369, 58,062, 59,214; 3-D 55,005, 58,461, 55,850, 59,306 parameters;
compact_fine 2-D 58,297, 58,441, 59,310, 59,454; 3-D 54,289, 54,505, 55,250, 55,466 parameters;
compact_dw 2-D 59,225, 59,513, 59,446, 59,734; 3-D 58,637, 59,501, 58,858, 59,722 parameters.
Receptive field 312 and 310 (compact and compact_fine, 2-D), 152 and 150 (the same, 3-D), 188
(compact_dw). A 256 x 256 slice takes 131, 180 and 299 million multiply-accumulates. What that means
in milliseconds stands in docs/performance.md.

References:
    Shi et al., Real-Time Single Image and Video Super-Resolution (pixel-shuffle), arXiv:1609.05158.
    Long et al., Fully Convolutional Networks (logits of several strides added), arXiv:1411.4038.
    Howard et al., MobileNets (depthwise-separable convolutions), arXiv:1704.04861.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from medstill.networks.blocks import (
    OPERATIONS,
    AddNearest,
    AddTransposed,
    ConcatNearest,
    Operations,
    initialise,
    normed,
    plain_block,
    scaled,
    separable_block,
)
from medstill.networks.encoder_decoder import Decoder, Encoder, EncoderDecoder
from medstill.networks.request import Request

COMPACT_WIDTHS = {2: (16, 16, 20, 24, 34), 3: (8, 12, 16, 20)}
"""Spatial dimensions -> channels at the strides 2, 4, 8, ...

Four levels in 3-D: patches of CT volumes are often 32 slices deep, and 16 divides more sizes.
"""

FINE_WIDTHS = {2: 8, 3: 4}
"""Spatial dimensions -> channels of the level of full resolution in `compact_fine`."""

COMPACT_DW_WIDTHS = {2: (16, 28, 44, 64, 88), 3: (16, 24, 36, 56, 72)}
"""Spatial dimensions -> channels at the strides 1, 2, 4, ..."""


def compact(request: Request) -> EncoderDecoder:
    """Plain 3x3 convolutions on the half-resolution grid, skips added; batch norm and ReLU."""
    ops = OPERATIONS[request.spatial_dims]
    levels = scaled(COMPACT_WIDTHS[request.spatial_dims], request.width)
    stem = ops.conv(request.in_channels, levels[0], 6, stride=2, padding=2, bias=False)
    first = nn.Sequential(
        *normed(ops, [stem], levels[0]),
        *plain_block(ops, levels[0], levels[0], convs=1, bias=False),
    )
    head = ops.conv_transposed(levels[0], request.out_channels, 2, stride=2)
    return _with_deeper_levels(ops, levels, [first], [head])


def compact_fine(request: Request) -> EncoderDecoder:
    """`compact` with one thin level of full resolution around it; batch norm and ReLU."""
    ops = OPERATIONS[request.spatial_dims]
    full = FINE_WIDTHS[request.spatial_dims]
    full, *levels = scaled((full, *COMPACT_WIDTHS[request.spatial_dims]), request.width)
    finest = plain_block(ops, request.in_channels, full, convs=1, bias=False)
    halve = ops.conv(full, levels[0], 2, stride=2, bias=False)
    classes = request.out_channels
    heads: list[nn.Module] = [ops.conv(full, classes, 1)]
    if classes > full:
        heads.append(ops.conv_transposed(levels[0], classes, 2, stride=2, bias=False))
    return _with_deeper_levels(
        ops,
        levels,
        [finest, plain_block(ops, levels[0], levels[0], convs=1, bias=False)],
        heads,
        pools=[nn.Sequential(*normed(ops, [halve], levels[0]))],
        joins=[AddTransposed(ops, levels[0], full)],
        decoded=[full],
    )


def _with_deeper_levels(
    ops: Operations,
    levels: Sequence[int],
    blocks: Sequence[nn.Module],
    heads: Sequence[nn.Module],
    *,
    pools: Sequence[nn.Module] = (),
    joins: Sequence[nn.Module] = (),
    decoded: Sequence[int] = (),
) -> EncoderDecoder:
    """The levels below the first of half resolution, behind the given ones, finest first.

    `heads` are the decoder's, one or two. `decoded` are the channels of its levels finer than half
    resolution.
    """
    *deeper, bottleneck = (plain_block(ops, a, b, convs=2, bias=False) for a, b in pairwise(levels))
    network = EncoderDecoder(
        Encoder([*blocks, *deeper], [*pools, *(ops.max_pool(2) for _ in levels[1:])], bottleneck),
        Decoder(
            [*joins, *(AddNearest(ops, deep, skip) for skip, deep in pairwise(levels))],
            [
                plain_block(ops, skip, skip, convs=1, bias=False)
                for skip in (*decoded, *levels[:-1])
            ],
            *heads,
        ),
        size_multiple=2 ** len(levels),
    )
    initialise(network)
    return network


def compact_dw(request: Request) -> EncoderDecoder:
    """Depthwise-separable convolutions, two a block, skips concatenated; batch norm and ReLU."""
    ops = OPERATIONS[request.spatial_dims]
    levels = scaled(COMPACT_DW_WIDTHS[request.spatial_dims], request.width)
    # The first block is plain: a depthwise filter of a one-channel input would be a single filter.
    first = nn.Sequential(
        *plain_block(ops, request.in_channels, levels[0], convs=1, bias=False),
        *separable_block(ops, levels[0], levels[0], convs=1),
    )
    *blocks, bottleneck = (separable_block(ops, a, b, convs=2) for a, b in pairwise(levels))
    network = EncoderDecoder(
        Encoder([first, *blocks], [ops.max_pool(2) for _ in levels[1:]], bottleneck),
        Decoder(
            [ConcatNearest() for _ in levels[1:]],
            [separable_block(ops, deep + skip, skip, convs=2) for skip, deep in pairwise(levels)],
            ops.conv(levels[0], request.out_channels, 1),
        ),
        size_multiple=2 ** (len(levels) - 1),
    )
    initialise(network)
    return network
