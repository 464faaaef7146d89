"""T2, the thesis's second teacher: a multi-task TransUNet that attends to every place.

The convolutional stem and both decoders are T1's: widths 64-128-256-512, two 3x3 convolutions with
batch norm and ReLU a block, pooling to stride 16, transposed convolutions, skips shared by the two
decoders. In T1's bottleneck's stead stands a vision transformer over the stride-16 map: a patch is
one place of it (a 1x1 convolution to 768 channels), learned position embeddings are interpolated
to the grid at hand, 12 pre-norm blocks of 12 heads and an MLP of 3,072, then a layer norm. With
3 input channels, 1 output channel and both decoders it has 113,672,132 parameters in 2-D and
165,358,916 in 3-D, of which the transformer has 85 million.

The published T2 gives its transformer a single token, so that it attends to nothing; this one
does not repeat that. TransUNet's own stem is a ResNet-50 pre-trained on photographs, and its
decoder has no skip at stride 1; here nothing is pre-trained, and stem and decoders are those of T1,
so that the two teachers differ in the bottleneck alone.

Shape legend: B batch, C channels, N places, `...` space (Y X or Z Y X).

References:
    Chen et al., TransUNet, arXiv:2102.04306.
    Dosovitskiy et al., An Image is Worth 16x16 Words, arXiv:2010.11929.
    Biswas, Multi-Task Multi-Scale Contrastive Knowledge Distillation, arXiv:2406.03173.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medstill.errors import require
from medstill.networks.blocks import OPERATIONS, initialise, plain_block, scaled
from medstill.networks.encoder_decoder import Encoder, EncoderDecoder
from medstill.networks.request import Request
from medstill.networks.unet import unet_decoder

STEM_WIDTHS = (64, 128, 256, 512)
EMBEDDING = 768
HEAD = 64
"""Channels of an attention head, about: narrow networks have fewer heads, not thinner ones."""
BLOCKS = 12
MLP_FACTOR = 4
POSITIONS = {2: (16, 16), 3: (8, 8, 8)}
"""Spatial dimensions -> grid that the position embeddings are stored on: 256 x 256 and 128^3."""


class Transformer(nn.Module):
    """Self-attention over all places of a map; keeps the size of the map."""

    def __init__(self, request: Request, channels_in: int) -> None:
        super().__init__()
        width = EMBEDDING * request.width
        heads = max(1, round(width / HEAD))
        channels = heads * max(1, round(width / heads))
        ops, grid = OPERATIONS[request.spatial_dims], POSITIONS[request.spatial_dims]
        self.embed = ops.conv(channels_in, channels, 1)
        self.positions = nn.Parameter(torch.zeros(1, channels, *grid))
        self.blocks = nn.ModuleList(
            _block(channels, heads) for _ in range(max(1, round(BLOCKS * request.depth)))
        )
        self.norm = nn.LayerNorm(channels)
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        """`(B, channels_in, ...)` to `(B, channels, ...)`."""
        x = self.embed(x)
        places = x.shape[2:]
        mode = "bilinear" if len(places) == 2 else "trilinear"
        x = x + F.interpolate(self.positions, size=places, mode=mode, align_corners=False)
        tokens_BNC = x.flatten(2).transpose(1, 2)
        for block in self.blocks:
            tokens_BNC = block(tokens_BNC)
        mixed: Tensor = self.norm(tokens_BNC).transpose(1, 2).reshape(x.shape)
        return mixed


def transunet(request: Request) -> EncoderDecoder:
    """The multi-task TransUNet; `request.depth` scales the number of transformer blocks."""
    ops = OPERATIONS[request.spatial_dims]
    stem = scaled(STEM_WIDTHS, request.width)
    blocks = [
        plain_block(ops, a, b, convs=2, bias=True)
        for a, b in pairwise((request.in_channels, *stem))
    ]
    bottleneck = Transformer(request, stem[-1])
    levels = (*stem, bottleneck.channels)
    network = EncoderDecoder(
        Encoder(blocks, [ops.max_pool(2) for _ in blocks], bottleneck),
        unet_decoder(ops, levels, request.out_channels, convs=2),
        unet_decoder(ops, levels, request.in_channels, convs=2) if request.reconstruction else None,
        size_multiple=2 ** len(stem),
    )
    initialise(network)
    _initialise_transformer(bottleneck)
    return network


def _block(channels: int, heads: int) -> nn.Module:
    blocks = require("monai.networks.blocks", "train")
    block: nn.Module = blocks.TransformerBlock(
        hidden_size=channels, mlp_dim=MLP_FACTOR * channels, num_heads=heads, qkv_bias=True
    )
    # MONAI makes a norm for cross-attention in every block, which never runs without one.
    block.norm_cross_attn = nn.Identity()
    return block


def _initialise_transformer(transformer: Transformer) -> None:
    """Glorot's uniform weights and biases of 0; position embeddings of deviation 0.02."""
    nn.init.trunc_normal_(transformer.positions, std=0.02)
    for layer in transformer.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
