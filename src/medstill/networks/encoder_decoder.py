"""The one shape of all own networks: an encoder, a decoder with skips, perhaps a second decoder.

Shape legend: B batch, C channels, `...` space (Y X or Z Y X).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor, nn

from medstill.networks.ensemble import Ensemble
from medstill.networks.output import Output
from medstill.networks.request import Request


class Encoder(nn.Module):
    """Blocks with a pooling behind each, then the bottleneck; `blocks.0` is the finest level."""

    def __init__(
        self, blocks: Sequence[nn.Module], pools: Sequence[nn.Module], bottleneck: nn.Module
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.pools = nn.ModuleList(pools)
        self.bottleneck = bottleneck

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The bottleneck's feature, and the skips of the levels above it, finest first."""
        skips = []
        for block, pool in zip(self.blocks, self.pools, strict=True):
            skips.append(block(x))
            x = pool(skips[-1])
        return self.bottleneck(x), skips


class Decoder(nn.Module):
    """From the bottleneck to the head, a skip at every level; `blocks.0` is the finest level.

    The levels are counted as in the encoder, so that `blocks.0`, the last one to run, has the
    same name in networks of any depth.
    """

    def __init__(
        self,
        joins: Sequence[nn.Module],
        blocks: Sequence[nn.Module],
        head: nn.Module,
        coarse_head: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.joins = nn.ModuleList(joins)
        self.blocks = nn.ModuleList(blocks)
        self.head = head
        self.coarse_head = coarse_head
        """Doubles the size of what the second finest level gives; its answer is added."""

    def forward(self, deepest: Tensor, skips: list[Tensor]) -> Tensor:
        """The head's answer to what an encoder gives, the coarse head's added if there is one."""
        x = coarser = deepest
        for level in reversed(range(len(skips))):
            x, coarser = self.blocks[level](self.joins[level](x, skips[level])), x
        answer: Tensor = self.head(x)
        return answer if self.coarse_head is None else answer + self.coarse_head(coarser)


class EncoderDecoder(nn.Module):
    """A segmentation network, with a second decoder for the reconstruction if one is given."""

    def __init__(
        self,
        encoder: Encoder,
        segmentation: Decoder,
        reconstruction: Decoder | None = None,
        *,
        size_multiple: int,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.segmentation = segmentation
        self.reconstruction = reconstruction
        self.size_multiple = size_multiple
        """Each spatial size of the input must be divisible by it."""

    def forward(self, x: Tensor) -> Tensor | Output:
        """Logits `(B, classes, ...)`, as `Output` when there is a reconstruction beside them.

        Both decoders share one encoder pass and its skips.
        """
        deepest, skips = self.encoder(x)
        logits: Tensor = self.segmentation(deepest, skips)
        if self.reconstruction is None:
            return logits
        return Output(logits, self.reconstruction(deepest, skips))


def without_reconstruction(network: nn.Module) -> nn.Module:
    """The same network, sharing its weights, without the second decoder; others come back as is."""
    if isinstance(network, Ensemble):
        members = [without_reconstruction(member) for member in network.members]
        return Ensemble(members).train(network.training)
    if not isinstance(network, EncoderDecoder) or network.reconstruction is None:
        return network
    single = EncoderDecoder(
        network.encoder, network.segmentation, size_multiple=network.size_multiple
    )
    request = getattr(network, "request", None)
    if isinstance(request, Request):
        single.request = replace(request, reconstruction=False)  # type: ignore[assignment]
    return single.train(network.training)
