"""Charts as inline SVG whose colours follow the page, by light and by dark.

matplotlib draws with stand-in colours; they are replaced by CSS variables of the page.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from medstill.errors import require

INK, FAINT = "#010203", "#040506"
STAND_INS = {
    "teacher": "#070809",
    "control": "#0a0b0c",
    "distilled": "#0d0e0f",
    "all-labels": "#0b0c0d",
    "pseudo-labels": "#0c0d0e",
}
DASHES = {"control": "--", "all-labels": ":", "pseudo-labels": "-."}
"""Arm -> how its line is drawn where it is not solid: arms are told apart without colour too."""
_CSS = {
    INK: "currentColor",
    FAINT: "var(--line)",
    **{colour: f"var(--{name})" for name, colour in STAND_INS.items()},
}
_SETTINGS = {"svg.fonttype": "none", "svg.hashsalt": "medstill", "font.size": 9.0}
MOST_NAMED = 16
"""Patients that a paired plot names beside their lines."""


@dataclass(frozen=True)
class Line:
    """One line of a chart."""

    kind: str
    """A key of `STAND_INS`: its colour."""
    x: Sequence[float]
    y: Sequence[float]
    strong: bool = False


def curve_chart(
    lines: Sequence[Line], *, alt: str, x_label: str = "step", share: bool = False
) -> str:
    """Lines over steps.

    Args:
        lines: Thin ones are seeds, strong ones means.
        alt: What the chart shows, for who cannot see it.
        x_label: Of the horizontal axis.
        share: The values lie between 0 and 1: the axis starts at 0 and ends at 1.
    """
    figure, axes = new_figure(3.6, 2.3)
    for line in lines:
        axes.plot(
            line.x,
            line.y,
            color=STAND_INS[line.kind],
            linewidth=2.0 if line.strong else 0.8,
            alpha=1.0 if line.strong else 0.55,
            marker="o" if len(line.x) == 1 else None,
            markersize=3,
            linestyle=DASHES.get(line.kind, "-"),
            # A value at the end of the axis is seen whole.
            clip_on=False,
        )
    axes.set_xlabel(x_label, color=INK)
    axes.set_xlim(left=0)
    if share:
        axes.set_ylim(0, 1)
    elif all(value >= 0 for line in lines for value in line.y):
        axes.set_ylim(0, 1.05 * max((v for line in lines for v in line.y), default=1) or 1)
    axes.locator_params(axis="x", nbins=5)
    axes.locator_params(axis="y", nbins=5)
    return svg_of(figure, alt)


def paired_chart(
    control: Mapping[str, float],
    distilled: Mapping[str, float],
    *,
    alt: str,
    higher_is_better: bool = True,
) -> str:
    """One line a patient from the control's value to the distilled student's.

    Args:
        control: Patient -> value; only patients of both are drawn.
        distilled: Patient -> value.
        alt: What the chart shows, for who cannot see it.
        higher_is_better: Whose colour a line takes: that of the better of the two.
    """
    figure, axes = new_figure(3.6, 3.6)
    patients = sorted(control.keys() & distilled.keys())
    for patient in patients:
        gain = distilled[patient] - control[patient]
        kind = "distilled" if (gain if higher_is_better else -gain) > 0 else "control"
        axes.plot(
            (0, 1),
            (control[patient], distilled[patient]),
            color=STAND_INS[kind],
            linewidth=1.0,
            linestyle=DASHES.get(kind, "-"),
            marker="o",
            markersize=3.5,
        )
    means = [sum(arm[p] for p in patients) / len(patients) for arm in (control, distilled)]
    axes.plot((0, 1), means, color=INK, linewidth=2.6, marker="o", markersize=5)
    axes.set_xlim(-0.15, 1.45 if len(patients) <= MOST_NAMED else 1.15)
    axes.set_xticks((0, 1), ("control", "distilled"))
    axes.grid(visible=False, axis="x")
    if len(patients) <= MOST_NAMED:
        _name_ends(axes, {patient: distilled[patient] for patient in patients})
    return svg_of(figure, alt)


def _name_ends(axes: Any, values: Mapping[str, float]) -> None:
    """Names beside the right ends, pushed apart where they would overlap."""
    low, high = axes.get_ylim()
    gap, last = (high - low) / 21, -float("inf")
    places = {}
    for name in sorted(values, key=lambda name: values[name]):
        last = max(values[name], last + gap)
        places[name] = last
    axes.set_ylim(low, max(high, last + gap))
    for name, place in places.items():
        axes.plot((1.03, 1.08), (values[name], place), color=FAINT, linewidth=0.7)
        axes.text(1.1, place, name, color=INK, fontsize=7, va="center_baseline", parse_math=False)


def new_figure(width: float, height: float) -> tuple[Any, Any]:
    """An empty figure and its axes, in inches."""
    figure = require("matplotlib.figure", "report").Figure((width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.grid(visible=True, axis="y", color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, labelsize=8, length=0)
    for name, spine in axes.spines.items():
        spine.set_visible(name == "bottom")
        spine.set_color(FAINT)
    return figure, axes


def svg_of(figure: Any, alt: str) -> str:
    """A figure as an SVG element that can stand in a page beside others."""
    matplotlib = require("matplotlib", "report")
    target = io.StringIO()
    with matplotlib.rc_context(_SETTINGS):
        figure.savefig(target, format="svg", transparent=True, metadata={"Date": None})
    text = target.getvalue()
    box = re.search(r'viewBox="([^"]+)"', text)
    assert box is not None
    body = text[text.index(">", text.index("<svg")) + 1 : text.rindex("</svg>")]
    # The style sheet would hold for the whole page, the metadata names the program's address.
    body = re.sub(r"<(metadata|style)\b.*?</\1>", "", body, flags=re.DOTALL)
    body = re.sub(
        r' id="(?:figure|axes|patch|line2d|text|matplotlib\.axis|xtick|ytick)_?\d+"', "", body
    )
    body = re.sub(r"(font: [\d.]+px) [^;\"]+", r"\1 system-ui, sans-serif", body)
    body = body.replace("xlink:href", "href")
    for stand_in, css in _CSS.items():
        body = body.replace(stand_in, css)
    return (
        f'<svg class="chart" role="img" aria-label="{escape(alt)}" viewBox="{box[1]}">{body}</svg>'
    )
