"""A picture of a label map on its images: the slices with the largest areas, and a legend.

Axes: Y rows, X columns, 3 red green blue.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from medstill.volumes.records import LabelArray

Picture = NDArray[np.uint8]
Colour = tuple[int, int, int]

TILE_PIXELS: Final = 512
"""Length of the longer side of a slice in the picture."""
MOST_TILES: Final = 4
_FILLED: Final = 0.3
"""Share of the colour inside an outline."""
_LINE: Final = 26
_PAPER: Final = (12, 12, 12)
_INK: Final = (230, 230, 230)


@dataclass(frozen=True)
class Entry:
    """One class in the legend."""

    text: str
    colour: Colour


def areas(label_ZYX: LabelArray) -> NDArray[np.int64]:
    """Voxels of each class in each slice, `(Z, 256)`."""
    # Slice by slice, since bincount makes eight bytes of each voxel.
    return np.stack([np.bincount(plane.ravel(), minlength=256) for plane in label_ZYX])


def largest_slices(area_ZC: NDArray[np.int64], most: int = MOST_TILES) -> list[int]:
    """The slices in which each class has its largest area, of the largest classes first.

    Args:
        area_ZC: See `areas`.
        most: How many slices at most.

    Returns:
        Indices in ascending order; the middle slice where there is nothing.
    """
    volume_C = area_ZC.sum(axis=0)
    by_volume = [int(value) for value in np.argsort(-volume_C, kind="stable")]
    found = [value for value in by_volume if value and volume_C[value]]
    chosen = [int(area_ZC[:, value].argmax()) for value in found[:most]]
    return sorted(set(chosen)) or [len(area_ZC) // 2]


def tile(
    gray_YX: NDArray[Any], label_YX: LabelArray, spacing_yx_mm: Sequence[float], legend: list[Entry]
) -> Picture:
    """One slice with its labels, pixels made square.

    Args:
        gray_YX: Brightness in `[0, 1]`.
        label_YX: Class values.
        spacing_yx_mm: Size of a pixel.
        legend: The foreground classes in the order of their values.
    """
    size_mm = np.array(gray_YX.shape) * np.array(spacing_yx_mm)
    height, width = np.maximum(1, np.rint(size_mm / size_mm.max() * TILE_PIXELS)).astype(int)
    gray = Image.fromarray(np.rint(255.0 * gray_YX).astype(np.uint8)).resize((width, height))
    label = np.asarray(Image.fromarray(label_YX).resize((width, height), Image.Resampling.NEAREST))
    colours = np.array([(0, 0, 0), *(entry.colour for entry in legend)], dtype=np.float64)
    share = np.where(label > 0, _FILLED, 0.0)
    share[_edge(label)] = 1.0
    shades = np.repeat(np.asarray(gray, dtype=np.float64)[..., None], 3, axis=2)
    mixed = shades + (colours[label] - shades) * share[..., None]
    drawn: Picture = np.rint(mixed).astype(np.uint8)
    return drawn


def montage(tiles: Sequence[Picture], legend: Sequence[Entry], note: str) -> Picture:
    """Slices beside each other (two in a row) above their legend."""
    columns = min(2, len(tiles))
    rows = -(-len(tiles) // columns)
    height, width = np.max([picture.shape[:2] for picture in tiles], axis=0)
    font = ImageFont.load_default(size=16)
    entry_width = max((int(font.getlength(entry.text)) for entry in legend), default=0) + 40
    paper_width = max(int(columns * width), entry_width)
    across = paper_width // entry_width
    notes = _wrapped(note, font.getlength, paper_width - 16)
    top = int(rows * height) + 6
    below = top + -(-len(legend) // across) * _LINE
    paper = Image.new("RGB", (paper_width, below + len(notes) * _LINE + 2), _PAPER)
    for index, picture in enumerate(tiles):
        place = (int(index % columns * width), int(index // columns * height))
        paper.paste(Image.fromarray(picture), place)
    pen = ImageDraw.Draw(paper)
    for index, entry in enumerate(legend):
        x, y = index % across * entry_width + 8, top + index // across * _LINE
        pen.rectangle((x, y + 2, x + 14, y + 16), fill=entry.colour)
        pen.text((x + 22, y), entry.text, fill=_INK, font=font)
    for index, line in enumerate(notes):
        pen.text((8, below + index * _LINE), line, fill=_INK, font=font)
    return np.asarray(paper)


def _wrapped(text: str, length: Callable[[str], float], width: float) -> list[str]:
    """A text in lines that are no longer than a width, as far as its words allow."""
    lines: list[str] = []
    for word in text.split():
        if lines and length(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def _edge(label_YX: NDArray[Any]) -> NDArray[np.bool_]:
    """Pixels of a class beside a pixel of another."""
    padded = np.pad(label_YX, 1)
    inner = padded[1:-1, 1:-1]
    neighbours = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
    differs = np.logical_or.reduce([inner != other for other in neighbours])
    edge: NDArray[np.bool_] = differs & (inner > 0)
    return edge
