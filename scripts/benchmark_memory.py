"""Time training steps with freed memory kept and given back, side by side.

    python scripts/benchmark_memory.py [ROUNDS]

One thread, bf16, forward and backward of the networks of the spleen study: batches of slices of
128 x 128, 12 for students and 8 for the quarter-width teacher, whose two outputs both have a loss.
Each round takes both ways in turn; medians over the rounds, and the ratio.
"""

from __future__ import annotations

import statistics
import sys
import time
from contextlib import nullcontext

import torch
from rich.console import Console
from rich.table import Table

from medstill.config import NetworkConfig
from medstill.losses import SegmentationLoss
from medstill.networks import build, run
from medstill.training import kept_memory

NETWORKS = (("compact", 1.0, 12), ("unet-s1", 1.0, 12), ("unet-t1", 0.25, 8))
SIZE = 128
WARM_UP = 2


class Step:
    """Forward and backward of one network."""

    def __init__(self, name: str, width: float, batch: int) -> None:
        torch.manual_seed(0)
        teacher = name == "unet-t1"
        network = build(
            NetworkConfig(name=name, width=width),
            spatial_dims=2,
            in_channels=1,
            out_channels=2,
            reconstruction=teacher,
        )
        self.network = network.to(memory_format=torch.channels_last)
        self.loss = SegmentationLoss(classes=2)
        self.image_BC = torch.randn(batch, 1, SIZE, SIZE)
        self.label_B = (torch.rand(batch, SIZE, SIZE) > 0.9).long()

    def __call__(self) -> float:
        """Milliseconds of one step."""
        begun = time.perf_counter()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = run(self.network, self.image_BC)
            total = torch.stack(list(self.loss(output.logits, self.label_B).values())).sum()
            if output.reconstruction is not None:
                total = total + (output.reconstruction - self.image_BC).square().mean()
        total.backward()
        self.network.zero_grad()
        return 1e3 * (time.perf_counter() - begun)


def main() -> int:
    """Measure and print."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 15
    torch.set_num_threads(1)
    table = Table("network", "given back, ms", "kept, ms", "ratio")
    for name, width, batch in NETWORKS:
        step = Step(name, width, batch)
        found: dict[bool, list[float]] = {False: [], True: []}
        for number in range(WARM_UP + rounds):
            for kept in (False, True):
                with kept_memory() if kept else nullcontext():
                    # The first step behind a change asks for its memory anew.
                    step()
                    took = step()
                if number >= WARM_UP:
                    found[kept].append(took)
        back, kept_ms = (statistics.median(found[kept]) for kept in (False, True))
        table.add_row(name, f"{back:.0f}", f"{kept_ms:.0f}", f"{kept_ms / back:.2f}")
    Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
