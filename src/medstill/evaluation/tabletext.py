"""Numbers and tables in Markdown, without a choice left to the caller."""

from __future__ import annotations

from collections.abc import Sequence

from medstill.evaluation.statistics import Interval

NOTHING = "-"


def interval_text(interval: Interval | None, digits: int, *, sign: bool = False) -> str:
    """A mean with its interval."""
    if interval is None:
        return NOTHING
    form = f"{'+' if sign else ''}.{digits}f"
    mean, low, high = (
        format(value, form) for value in (interval.mean, interval.low, interval.high)
    )
    return f"{mean} ({low} to {high})"


def table_text(head: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> list[str]:
    """A table whose first `left` columns are words and the others numbers."""
    rule = ["---" if index < left else "---:" for index in range(len(head))]
    return [f"| {' | '.join(head)} |", f"|{'|'.join(rule)}|"] + [
        f"| {' | '.join(row)} |" for row in rows
    ]
