"""Small plots that stand in the cells of a table: an interval, or the levels of a gain, about 0."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from medstill.errors import require
from medstill.reporting import wording
from medstill.reporting.records import Interval

WIDTH, HEIGHT, MARGIN = 150, 22, 5
"""Of a plot, in its own units; what is drawn keeps the margin from both ends."""
APART = 26
"""Least distance of two numbers below the axis."""


@dataclass(frozen=True)
class Span:
    """The values that a column of small plots shows, 0 among them."""

    low: float
    high: float

    def place(self, value: float) -> float:
        """Where a value lies, from the left."""
        share = (value - self.low) / (self.high - self.low)
        return round(MARGIN + share * (WIDTH - 2 * MARGIN), 2)


def span_of(values: Iterable[float]) -> Span:
    """The span of a column.

    >>> span_of([0.2, -0.1])
    Span(low=-0.1, high=0.2)
    >>> span_of([])
    Span(low=-1.0, high=1.0)
    """
    found = [0.0, *values]
    low, high = min(found), max(found)
    return Span(low, high) if high > low else Span(-1.0, 1.0)


def forest(interval: Interval, span: Span, metric: str, tone: str) -> str:
    """The interval of a difference, its mean as a dot.

    Args:
        interval: Of the difference.
        span: Of the column.
        metric: What differs, for who cannot see it.
        tone: `good`, `bad` or `even`: the colour.
    """
    low, mean, high = (span.place(value) for value in (interval.low, interval.mean, interval.high))
    alt = (
        f"{wording.METRIC_NAMES.get(metric, metric)} "
        f"{wording.fixed(interval.mean, metric, signed=True)}, "
        f"{wording.spread(interval, metric, signed=True)}"
    )
    body = (
        f'<line class="zero" x1="{span.place(0)}" x2="{span.place(0)}" y1="0" y2="{HEIGHT}"/>'
        f'<line x1="{low}" x2="{high}" y1="{HEIGHT / 2}" y2="{HEIGHT / 2}" stroke-width="2"/>'
        f'<circle cx="{mean}" cy="{HEIGHT / 2}" r="4"/>'
    )
    return _svg(body, alt, f"forest {tone}")


def level_dots(values: Sequence[float], mean: float, span: Span, alt: str) -> str:
    """The gain of each fold or seed as an open dot, their common mean as a bar."""
    dots = "".join(
        f'<circle class="open" cx="{span.place(value)}" cy="{HEIGHT / 2}" r="4"/>'
        for value in values
    )
    bar = f'<line x1="{span.place(mean)}" x2="{span.place(mean)}" y1="2" y2="{HEIGHT - 2}" '
    zero = f'<line class="zero" x1="{span.place(0)}" x2="{span.place(0)}" y1="0" y2="{HEIGHT}"/>'
    return _svg(f'{zero}{bar}stroke-width="3"/>{dots}', alt, "forest distilled")


def axis(span: Span, metric: str) -> str:
    """The numbers of a column's axis: 0, and the ends that are not too near to it."""
    ends = {MARGIN: (span.low, "start"), WIDTH - MARGIN: (span.high, "end")}
    texts = [f'<text x="{span.place(0)}" y="12" text-anchor="middle">0</text>']
    texts += [
        f'<text x="{x}" y="12" text-anchor="{anchor}">{wording.fixed(value, metric, signed=True)}'
        "</text>"
        for x, (value, anchor) in ends.items()
        if abs(span.place(0) - x) > APART
    ]
    return _svg("".join(texts), "axis", "forest axis")


def _svg(body: str, alt: str, kind: str) -> str:
    text = (
        f'<svg class="{kind}" role="img" aria-label="{escape(alt)}" '
        f'viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}">{body}</svg>'
    )
    marked: str = require("markupsafe", "report").Markup(text)
    return marked
