"""Slices with outlines of truth and predictions, in millimetres, as parts of SVG.

The slice itself is stored once a patient; outlines are vectors, so that a page stays small.
Shape legend: Y rows, X columns.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medstill.errors import require
from medstill.reporting.reading import Slice

COLOURS = (
    *("#2fe0d6", "#ffb02e", "#ff6fae", "#9be15d", "#a893ff", "#ff7a45", "#5aa9ff", "#f6e65a"),
    *("#d98be8", "#2fd39a", "#ff9d9d", "#c3c7ff", "#dcb37d", "#a6ecff"),
)
MOST_PNG_BYTES = 120_000
AIR = 12
"""Gray values up to here are empty: margins of nothing else are cut off."""


@dataclass(frozen=True)
class Shape:
    """The outline of one class, in half pixels."""

    name: str
    colour: str
    path: str


@dataclass(frozen=True)
class View:
    """A slice in millimetres."""

    uri: str
    width_mm: float
    height_mm: float
    spacing_yx_mm: tuple[float, float]
    box: str
    """SVG `viewBox` of the part that is shown."""


def view_of(shown: Slice, labels_YX: Sequence[NDArray[Any]]) -> View:
    """The picture of a slice and the part of it that holds anything.

    Args:
        shown: The slice.
        labels_YX: Truth and predictions; nothing of them is cut off.
    """
    (y_mm, x_mm), (height, width) = shown.spacing_yx_mm, shown.image.shape[:2]
    gray_YX = shown.image.max(axis=-1) if shown.image.ndim == 3 else shown.image
    filled = np.logical_or.reduce([gray_YX > AIR, *(label > 0 for label in labels_YX)])
    (y0, y1), (x0, x1) = _extent(filled.any(axis=1)), _extent(filled.any(axis=0))
    numbers = (x0 * x_mm, y0 * y_mm, (x1 - x0) * x_mm, (y1 - y0) * y_mm)
    return View(
        uri=_uri(shown.image),
        width_mm=width * x_mm,
        height_mm=height * y_mm,
        spacing_yx_mm=shown.spacing_yx_mm,
        box=" ".join(f"{number:.2f}" for number in numbers),
    )


def shapes_of(label_YX: NDArray[Any], classes: Sequence[str]) -> tuple[Shape, ...]:
    """The outline of every class on a slice.

    Args:
        label_YX: Class values.
        classes: Names of the foreground classes in the order of their values 1, 2, ...
    """
    return tuple(
        Shape(name, colour_of(value), outline(label_YX == value))
        for value, name in enumerate(classes, start=1)
        if (label_YX == value).any()
    )


def colour_of(value: int) -> str:
    """The colour of a foreground class."""
    return COLOURS[(value - 1) % len(COLOURS)]


def outline(mask_YX: NDArray[np.bool_]) -> str:
    """The border of a mask as SVG path data in half pixels.

    The pixel `(y, x)` covers `2x..2x+2` and `2y..2y+2`; the border cuts its corners. Holes run the
    other way round.
    """
    contourpy = require("contourpy", "report")
    padded = np.pad(mask_YX, 1).astype(float)
    lines = contourpy.contour_generator(z=padded).lines(0.5)
    return "".join(_path(np.rint(2 * line - 1).astype(int)) for line in lines)


def _path(vertices_N2: NDArray[np.int_]) -> str:
    steps = np.diff(vertices_N2, axis=0)
    turns = np.flatnonzero((steps[1:] != steps[:-1]).any(axis=1)) + 1
    corners = vertices_N2[np.concatenate([[0], turns])]
    x, y = corners[0]
    moves = np.diff(corners, axis=0).ravel()
    return f"M{x} {y}l" + "".join(f"{move:d}" if move < 0 else f" {move:d}" for move in moves) + "z"


def _extent(filled: NDArray[np.bool_]) -> tuple[int, int]:
    """Start and stop of the filled part with a margin of 2 %; all of it when nothing is filled."""
    places = np.flatnonzero(filled)
    if not places.size:
        return 0, len(filled)
    margin = round(0.02 * len(filled))
    return max(0, int(places[0]) - margin), min(len(filled), int(places[-1]) + 1 + margin)


def _uri(image: NDArray[np.uint8]) -> str:
    """A data URI: PNG where that is small, else JPEG."""
    picture = require("PIL.Image", "report").fromarray(np.ascontiguousarray(image))
    content, kind = _encoded(picture, "png", optimize=True), "png"
    if len(content) > MOST_PNG_BYTES:
        content, kind = _encoded(picture, "jpeg", quality=85), "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _encoded(picture: Any, kind: str, **options: Any) -> bytes:
    target = io.BytesIO()
    picture.save(target, format=kind, **options)
    return target.getvalue()
