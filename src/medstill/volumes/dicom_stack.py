"""Whether slices form a rectangular grid, and in which order."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medstill.errors import GeometryError
from medstill.volumes.dicom_headers import RESCALE, Slice

STEP_TOLERANCE = 0.1
"""How far a step between slices may differ from the median step, as a share of it."""
DUPLICATE_TOLERANCE_MM = 0.01
"""Slices nearer than this have the same position."""
DIRECTION_TOLERANCE = 1e-3
"""How far a direction cosine may differ between the slices of a series."""
SPACING_TOLERANCE = 1e-3
"""How far the pixel spacing may differ between the slices of a series, as a share of it."""
SHIFT_TOLERANCE = 0.5
"""How far a slice may lie beside the normal through the first, in units of the pixel spacing."""


def check_alike(slices: Sequence[Slice], folder: Path) -> None:
    """Demand one size, one pixel spacing, one orientation and one frame of reference.

    And that a rescale is stated by all of them or by none.

    Raises:
        GeometryError: They differ, or a header does not state them.
    """
    first = slices[0]
    orientation = np.array(first.numbers("orientation", 6))
    for item in slices[1:]:
        if item.size != first.size or not np.allclose(
            item.numbers("spacing", 2), first.numbers("spacing", 2), rtol=SPACING_TOLERANCE
        ):
            raise GeometryError(
                f"'{folder}' mixes slices of different size or pixel spacing: expected "
                f"{first.size[:2]} of {first.tags.get('spacing')} mm as in '{first.name}', "
                f"found {item.size[:2]} of {item.tags.get('spacing')} mm in '{item.name}'. "
                "Remove the slices that do not belong to the series (such as a scout view)."
            )
        frames = [one.tags.get("frame_of_reference", "") for one in (first, item)]
        if all(frames) and frames[0] != frames[1]:
            raise GeometryError(
                f"'{folder}' has slices of two frames of reference: expected one, found "
                f"{frames[0]} in '{first.name}' and {frames[1]} in '{item.name}', so their "
                "positions cannot be compared. Give the slices of each a folder of their own."
            )
        if np.abs(item.numbers("orientation", 6) - orientation).max() > DIRECTION_TOLERANCE:
            raise GeometryError(
                f"'{folder}' has mixed orientations: expected direction cosines equal to "
                f"{DIRECTION_TOLERANCE:g}, found {first.tags['orientation']} in "
                f"'{first.name}' and {item.tags['orientation']} in '{item.name}'. "
                "Remove the slices that do not belong to the series (such as a scout view)."
            )
    _check_rescaled(slices, folder)


def _check_rescaled(slices: Sequence[Slice], folder: Path) -> None:
    for name, tag in RESCALE.items():
        with_it = [item for item in slices if item.tags.get(name)]
        without = [item for item in slices if not item.tags.get(name)]
        if with_it and without:
            raise GeometryError(
                f"'{folder}' mixes slices with and without a {tag}: expected all or none, found "
                f"{with_it[0].tags[name]} in '{with_it[0].name}' and none in '{without[0].name}' "
                f"({len(without)} of {len(slices)} lack it), so their intensities cannot be "
                "compared. Export the series again, or remove the slices that do not belong to it."
            )


def sorted_along_normal(slices: Sequence[Slice], folder: Path) -> tuple[list[Slice], float]:
    """The slices in order along their normal, and the step between two of them in mm.

    Raises:
        GeometryError: There are gaps, equal positions or a tilted gantry.
    """
    orientation = np.array(slices[0].numbers("orientation", 6))
    normal = np.cross(orientation[:3], orientation[3:])
    positions = np.array([item.numbers("position", 3) for item in slices])
    along = positions @ normal
    order = np.argsort(along, kind="stable")
    ordered = [slices[index] for index in order]
    steps = np.diff(along[order])
    _check_steps(steps, ordered, folder)
    pixel_mm = min(slices[0].numbers("spacing", 2))
    _check_tilt(positions[order], normal, pixel_mm, folder)
    return ordered, float(steps.mean())


def _check_steps(steps: NDArray[np.float64], ordered: Sequence[Slice], folder: Path) -> None:
    same = np.flatnonzero(steps < DUPLICATE_TOLERANCE_MM)
    if len(same):
        first, second = ordered[same[0]], ordered[same[0] + 1]
        raise GeometryError(
            f"'{folder}' has slices at the same position ({len(same)} times): expected one slice "
            f"per position, found '{first.name}' and '{second.name}' at "
            f"{first.tags['position']}. If these are phases or repeats, give each a folder of its "
            "own; otherwise remove the copies."
        )
    median = float(np.median(steps))
    uneven = np.flatnonzero(np.abs(steps - median) > STEP_TOLERANCE * median)
    if len(uneven):
        first, second = ordered[uneven[0]], ordered[uneven[0] + 1]
        raise GeometryError(
            f"'{folder}' has a gap or uneven slices ({len(uneven)} of {len(steps)} steps): "
            f"expected steps of {median:g} mm within {STEP_TOLERANCE:.0%}, found "
            f"{steps[uneven[0]]:g} mm between '{first.name}' and '{second.name}'. "
            "Add the missing slices, or resample the series to an even spacing."
        )
    drift = np.abs(np.cumsum(steps) - steps.mean() * np.arange(1, len(steps) + 1)) / steps.mean()
    if drift.max() > STEP_TOLERANCE:
        worst = ordered[int(drift.argmax()) + 1]
        raise GeometryError(
            f"'{folder}' has uneven slices: expected each within {STEP_TOLERANCE:.0%} of a step of "
            f"its place on a grid of {steps.mean():g} mm, found '{worst.name}' {drift.max():.0%} "
            "of a step away. Resample the series to an even spacing."
        )


def _check_tilt(
    positions: NDArray[np.float64], normal: NDArray[np.float64], pixel_mm: float, folder: Path
) -> None:
    offsets = positions - positions[0]
    beside_mm = np.linalg.norm(offsets - np.outer(offsets @ normal, normal), axis=1)
    worst = int(beside_mm.argmax())
    if beside_mm[worst] <= SHIFT_TOLERANCE * pixel_mm:
        return
    angle = math.degrees(math.atan2(beside_mm[worst], abs(float(offsets[worst] @ normal))))
    raise GeometryError(
        f"'{folder}' was taken with a tilted gantry: expected slices stacked along their normal, "
        f"at most {SHIFT_TOLERANCE:g} pixel beside it, found {beside_mm[worst]:.3g} mm "
        f"({angle:.1f} degrees). Correct the tilt first (for example with dcm2niix)."
    )
