"""What prediction prints while it works."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from rich.console import Console

from medstill.terminal import new_table

if TYPE_CHECKING:
    from medstill.deploy.benchmark import Benchmark, Measured
    from medstill.deploy.cases import CaseResult


@contextlib.contextmanager
def following(out: Console) -> Iterator[Callable[[CaseResult], None]]:
    """Give what shows each predicted case; a terminal shows below how many and how fast."""
    started = time.monotonic()
    made = 0
    with out.status("", spinner="dots") if out.is_terminal else contextlib.nullcontext() as status:

        def show(result: CaseResult) -> None:
            nonlocal made
            made += not result.skipped
            show_case(out, result)
            if status is not None and result.count > 1:
                rate = 60 * made / max(time.monotonic() - started, 1e-3)
                status.update(f"{result.number} of {result.count} cases, {rate:.1f} a minute")

        yield show


def show_case(out: Console, result: CaseResult) -> None:
    """One predicted case."""
    if result.error:
        out.print(f"{result.case}: {result.error}", style="red", markup=False, soft_wrap=True)
        return
    volumes = ", ".join(f"{name} {ml:.1f} ml" for name, ml in result.volumes_ml.items())
    state = " (was there already)" if result.skipped else ""
    out.print(f"{result.case}: {result.output}{state}: {volumes}", markup=False, soft_wrap=True)
    for text in result.warnings:
        out.print(f"  warning: {text}", style="yellow", markup=False, soft_wrap=True)


def show_benchmark(out: Console, found: Benchmark) -> None:
    """Models side by side: times as median and 95th percentile."""
    machine = found.machine
    size = " x ".join(str(length) for length in found.size_xyz)
    out.print(
        f"{found.source}, {size} voxels, {found.file_mb:.1f} MB; {found.rounds} rounds; "
        f"{machine.cpu}, {machine.cores} cores, {machine.threads} threads; matrix product "
        f"{machine.gemm_gmacs.median:.1f} GMAC/s on one thread"
    )
    first = found.models[0]
    table = new_table(
        "model", "network ms a patch", "of limit", "x", "end to end s", "x", "peak MB"
    )
    for row in found.models:
        table.add_row(*_benchmark_row(row, first))
    out.print(table)
    phases = tuple(first.phases_s)
    table = new_table("seconds at work (median)", *phases)
    for row in found.models:
        table.add_row(_model_of(row), *(f"{row.phases_s[name].median:.2f}" for name in phases))
    out.print(table)
    out.print("x: times as fast as the first model. Phases overlap: their sum is no time.")


def _benchmark_row(row: Measured, first: Measured) -> tuple[str, ...]:
    network, whole = row.network_ms, row.end_to_end_s
    return (
        _model_of(row),
        f"{network.median:.2f} ({network.p95:.2f})",
        f"{row.share_of_limit:.0%}",
        f"{first.network_ms.median / network.median:.2f}",
        f"{whole.median:.2f} ({whole.p95:.2f})",
        f"{first.end_to_end_s.median / whole.median:.2f}",
        f"{row.peak_memory_mb:.0f}",
    )


def _model_of(row: Measured) -> str:
    return f"{row.model} ({row.kind}, {row.network})"
