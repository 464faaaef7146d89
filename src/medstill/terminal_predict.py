"""What prediction prints while it works."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from rich.console import Console

if TYPE_CHECKING:
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
    out.print(f"{result.case}: {result.output}{state}: {volumes}", soft_wrap=True)
    for text in result.warnings:
        out.print(f"  warning: {text}", style="yellow", markup=False, soft_wrap=True)
