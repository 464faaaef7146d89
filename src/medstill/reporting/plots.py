"""Plots of many networks at once: scores against cost, and against the share of labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from medstill.errors import require
from medstill.reporting.figures import DASHES, FAINT, INK, STAND_INS, new_figure, svg_of
from medstill.reporting.records import Interval
from medstill.reporting.wording import quantity

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")
MOST_INTERVALS = 24
"""Points whose intervals can still be told apart."""
MANY = 100
"""Costs that span this factor are numbered at the powers of ten alone."""
CLOSE = 1.12
"""Costs within this factor are drawn side by side."""


@dataclass(frozen=True)
class Point:
    """One arm of a row of the table."""

    arm: str
    network: str
    cost: float
    score: Interval


@dataclass(frozen=True)
class Curve:
    """The scores of one arm over the share of labels."""

    arm: str
    x: Sequence[float]
    scores: Sequence[Interval]


def pareto_plot(
    points: Sequence[Point], *, alt: str, x_label: str, y_label: str, higher_is_better: bool
) -> str:
    """Scores against cost on a logarithmic axis, with the line of what nothing cheaper reaches.

    Args:
        points: Of all rows.
        alt: What the plot shows, for who cannot see it.
        x_label: The cost and its unit.
        y_label: The score and its unit.
        higher_is_better: Of the score.
    """
    figure, axes = new_figure(4.4, 3.2)
    axes.set_xscale("log")
    networks = list(dict.fromkeys(point.network for point in points))
    front = _front(points, higher_is_better)
    axes.step(
        [point.cost for point in front],
        [point.score.mean for point in front],
        where="post",
        color=INK,
        linewidth=0.9,
        linestyle=":",
    )
    for point in points:
        place = point.cost * _shift(point, points)
        if len(points) <= MOST_INTERVALS:
            ends = (point.score.low, point.score.high)
            axes.plot((place, place), ends, color=STAND_INS[point.arm], linewidth=1.0, alpha=0.7)
        axes.plot(
            place,
            point.score.mean,
            color=STAND_INS[point.arm],
            marker=MARKERS[networks.index(point.network) % len(MARKERS)],
            markersize=6,
            linestyle="none",
            alpha=0.85,
        )
    for index, network in enumerate(networks):
        marker = MARKERS[index % len(MARKERS)]
        axes.plot([], [], color=INK, marker=marker, linestyle="none", markersize=5, label=network)
    axes.legend(
        loc="lower center",
        bbox_to_anchor=(0.5, 1.0),
        ncols=3,
        frameon=False,
        fontsize=8,
        labelcolor=INK,
        handletextpad=0.2,
        columnspacing=1.2,
    )
    _label(axes, x_label, y_label)
    _cost_ticks(axes)
    return svg_of(figure, alt)


def fraction_plot(curves: Sequence[Curve], *, alt: str, y_label: str) -> str:
    """Scores over the share of the training patients whose labels the students see.

    Args:
        curves: One an arm; x in percent.
        alt: What the plot shows, for who cannot see it.
        y_label: The score and its unit.
    """
    figure, axes = new_figure(4.4, 3.2)
    for index, curve in enumerate(curves):
        colour = STAND_INS[curve.arm]
        # Side by side, so that no interval hides another.
        x = [value + 1.1 * (index - (len(curves) - 1) / 2) for value in curve.x]
        line = DASHES.get(curve.arm, "-")
        means = [score.mean for score in curve.scores]
        axes.plot(x, means, color=colour, linestyle=line, marker="o", markersize=4, linewidth=1.6)
        for place, score in zip(x, curve.scores, strict=True):
            axes.plot((place, place), (score.low, score.high), color=colour, linewidth=1.1)
    ticks = sorted({value for curve in curves for value in curve.x})
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    _label(axes, "labelled share of the training patients (%)", y_label)
    return svg_of(figure, alt)


def _label(axes: Any, x_label: str, y_label: str) -> None:
    axes.set_xlabel(x_label, color=INK, fontsize=8.5)
    axes.set_ylabel(y_label, color=INK, fontsize=8.5)
    axes.locator_params(axis="y", nbins=6)
    axes.tick_params(axis="x", which="both", bottom=True, color=FAINT, length=3)


def _cost_ticks(axes: Any) -> None:
    """Few numbers below a logarithmic axis, so that none covers another."""
    ticker = require("matplotlib.ticker", "report")
    low, high = axes.get_xlim()
    steps = (1.0, 2.0, 5.0) if high / low < MANY else (1.0,)
    axes.xaxis.set_major_locator(ticker.LogLocator(subs=steps))
    axes.xaxis.set_major_formatter(ticker.FuncFormatter(lambda cost, _: _cost_text(cost)))
    axes.xaxis.set_minor_formatter(ticker.NullFormatter())


def _cost_text(cost: float) -> str:
    """A round cost, short.

    >>> _cost_text(0.5), _cost_text(20_000), _cost_text(1e9)
    ('0.5', '20 k', '1 G')
    """
    return f"{cost:g}" if cost < 1000 else quantity(cost).replace(".0", "")


def _shift(point: Point, points: Sequence[Point]) -> float:
    """A factor on the cost that draws arms and networks of about equal cost side by side."""
    near = {
        (other.network, other.arm): None
        for other in points
        if 1 / CLOSE < other.cost / point.cost < CLOSE
    }
    position = list(near).index((point.network, point.arm)) - (len(near) - 1) / 2
    spread = _decades(points)
    return float(10 ** (0.03 * spread * position))


def _decades(points: Sequence[Point]) -> float:
    """How many powers of ten the costs span, at least one."""
    costs = [point.cost for point in points]
    ratio = max(costs) / min(costs)
    decades = 0.0
    while ratio >= 10:
        ratio, decades = ratio / 10, decades + 1
    return max(1.0, decades)


def _front(points: Sequence[Point], higher_is_better: bool) -> list[Point]:
    """The points that no point of the same or a lower cost surpasses."""
    sign = 1 if higher_is_better else -1
    front: list[Point] = []
    for point in sorted(points, key=lambda point: (point.cost, -sign * point.score.mean)):
        if not front or sign * point.score.mean > sign * front[-1].score.mean:
            front.append(point)
    return front
