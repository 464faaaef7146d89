"""The comparisons of a grid in plain words."""

from __future__ import annotations

from collections.abc import Sequence

from medstill.evaluation.gridrecords import GridGain, GridSummary
from medstill.evaluation.scores import Metric
from medstill.printed import p_text, percent

METRICS: tuple[tuple[Metric, str, int], ...] = (
    ("dice", "Dice", 3),
    ("hd95_mm", "HD95 mm", 1),
    ("nsd", "NSD", 3),
)
TITLES = {metric: title for metric, title, _ in METRICS}
DIGITS = {metric: digits for metric, _, digits in METRICS}


def sentence(gains: Sequence[GridGain]) -> str:
    """One comparison in plain words; `gains` are its metrics.

    Returns:
        Such as `**loss-kl compact**, distilled against control (n = 22): Dice better by 0.040 (95%
        +0.010 to +0.066, p after Holm 0.012); HD95 no difference shown (...).`
    """
    n = ", ".join(dict.fromkeys(str(gain.comparison.n) for gain in gains))
    clauses = "; ".join(map(_clause, gains))
    return f"**{gains[0].row}**, {versus(gains[0], ' against ')} (n = {n}): {clauses}."


def sentences(summary: GridSummary) -> tuple[str, ...]:
    """Every comparison of a grid in plain words; see `sentence`."""
    return tuple(sentence(gains) for gains in comparisons(summary))


def _clause(gain: GridGain) -> str:
    """What one metric shows, and what it could have shown where it shows nothing."""
    found, digits = gain.comparison.difference, DIGITS[gain.metric]
    unit = " mm" if gain.metric.endswith("_mm") else ""
    what = TITLES[gain.metric].removesuffix(" mm")
    adjusted = f"p after Holm {p_text(gain.p_holm, found.confidence)}"
    ends = f"{percent(found.confidence)} {found.low:+.{digits}f} to {found.high:+.{digits}f}{unit}"
    if gain.verdict != "no difference shown":
        size = f"{abs(found.mean):.{digits}f}{unit}"
        return f"{what} {gain.verdict} by {size} ({ends}, {adjusted})"
    hint = ""
    if gain.comparison.p_value < 1 - found.confidence:
        hint = f", by itself p {p_text(gain.comparison.p_value, found.confidence)}"
    elif gain.detectable is not None:
        hint = f", detectable {gain.detectable:.{digits}f}{unit}"
    return f"{what} no difference shown ({found.mean:+.{digits}f}{unit}, {ends}, {adjusted}{hint})"


def comparisons(summary: GridSummary) -> list[list[GridGain]]:
    """The gains, those of one comparison together."""
    found: dict[tuple[str, str, str, str], list[GridGain]] = {}
    for gain in summary.gains:
        found.setdefault((gain.row, gain.arm, gain.control_row, gain.control), []).append(gain)
    return list(found.values())


def versus(gain: GridGain, between: str = " - ") -> str:
    """The two arms of a comparison, and the other row where that is another one."""
    other = f" of {gain.control_row}" if gain.control_row != gain.row else ""
    return f"{gain.arm}{between}{gain.control}{other}"
