"""Where a scan lies outside of what training saw."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from numpy.typing import NDArray

from medstill.volumes.arriving import Arriving
from medstill.volumes.geometry import canonical_spacing_zyx_mm
from medstill.volumes.intensity import percentiles_of, sampled
from medstill.volumes.records import Geometry, Seen

SPACING_TOLERANCE: Final = 0.05
"""Share by which spacing may leave the range of training before there is a warning."""
INTENSITY_TOLERANCE: Final = 0.1
"""The same for intensities, as a share of that range's width."""


def warnings_of(scan: Arriving, seen: Seen | None) -> tuple[str, ...]:
    """What a reader of the labels has to know; nothing where training noted nothing.

    Raises:
        DataError: The voxels cannot be read.
    """
    raw_CZYX = scan.whole()
    return (*_spacing_warnings(scan.geometry, seen), *_intensity_warnings(raw_CZYX, seen))


def _spacing_warnings(geometry: Geometry, seen: Seen | None) -> Iterator[str]:
    if seen is None:
        return
    steps = canonical_spacing_zyx_mm(geometry)
    for axis, step, (least, most) in zip("zyx", steps, seen.spacing_zyx_mm, strict=True):
        if not least / (1 + SPACING_TOLERANCE) <= step <= most * (1 + SPACING_TOLERANCE):
            yield (
                f"The spacing along {axis} is {step:.3g} mm, but training saw {least:.3g} to "
                f"{most:.3g} mm: the labels may be less exact than the scores say."
            )


def _intensity_warnings(raw_CZYX: NDArray[Any], seen: Seen | None) -> Iterator[str]:
    if seen is None:
        return
    for channel, (raw_ZYX, (least, most)) in enumerate(zip(raw_CZYX, seen.intensity, strict=True)):
        low, high = percentiles_of(sampled(raw_ZYX), (1.0, 99.0))
        slack = INTENSITY_TOLERANCE * (most - least)
        if low < least - slack or high > most + slack:
            yield (
                f"The intensities of channel {channel} reach from {low:.4g} to {high:.4g} (1st to "
                f"99th percentile), but training saw {least:.4g} to {most:.4g}: check the "
                "modality and the units; the labels may be wrong."
            )
