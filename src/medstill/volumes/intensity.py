"""From raw intensities to network input between 0 and 1.

Intensities are scaled on the raw grid, before resampling, and per volume; 0 is what lies outside.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from medstill.config import DataConfig
from medstill.errors import ConfigError, IntensityError, unknown_name
from medstill.volumes.records import ChannelIntensity, Dataset, FloatArray

Bounds = tuple[float, float]

SAMPLED: Final = 500_000
"""Voxels that stand for a volume; see `sampled`."""


@dataclass(frozen=True)
class Intensity:
    """One way to scale a channel: which raw values become 0 and 1."""

    bounds: Callable[[NDArray[Any], Bounds], Bounds] | None
    """From the raw volume and the two numbers of the configuration to the raw values that become 0
    and 1; what lies beyond is clipped. None leaves the channel as it is."""
    numbers: Bounds | None
    """Default of the two numbers; None when it takes none."""
    allowed: Bounds = (-np.inf, np.inf)
    """Range of the two numbers."""
    fixed: bool = False
    """Whether the raw values are the two numbers, whatever the volume is."""


def _window(raw_ZYX: NDArray[Any], window_hu: Bounds) -> Bounds:  # noqa: ARG001
    return window_hu


def _percentiles(raw_ZYX: NDArray[Any], percent: Bounds) -> Bounds:
    """Percentiles of the volume; where its background is exactly zero, of all other voxels."""
    values = raw_ZYX.ravel()
    if values.min() == 0:
        values = values[values != 0]
    if not values.size:
        return 0.0, 1.0
    low, high = percentiles_of(values, percent)
    return (low, high) if high > low else (float(raw_ZYX.min()), float(raw_ZYX.max()))


def percentiles_of(values: NDArray[Any], percent: Bounds) -> Bounds:
    """Two percentiles, finite where the values are."""
    with np.errstate(over="ignore", invalid="ignore"):
        found = np.percentile(values, percent)
    if not np.isfinite(found).all():
        # The difference of two neighbours overflows their type; that of their halves fits.
        found = np.percentile(values.astype(np.float64) / 2, percent) * 2
    return float(found[0]), float(found[1])


def sampled(raw_ZYX: NDArray[Any]) -> NDArray[Any]:
    """Every n-th voxel, about `SAMPLED` of them: enough for percentiles that no label depends on.

    n has no factor in common with the number of voxels, so that each row and column has its share.
    """
    step = max(1, raw_ZYX.size // SAMPLED)
    while math.gcd(step, raw_ZYX.size) > 1:
        step += 1
    return raw_ZYX.ravel()[::step]


def _type_range(raw_ZYX: NDArray[Any], _: Bounds) -> Bounds:
    """0 to the largest value of an unsigned type; floating point must lie in [0, 1] already."""
    if np.issubdtype(raw_ZYX.dtype, np.unsignedinteger):
        return 0.0, float(np.iinfo(raw_ZYX.dtype).max)
    least, most = float(raw_ZYX.min()), float(raw_ZYX.max())
    if np.issubdtype(raw_ZYX.dtype, np.floating) and least >= 0 and most <= 1:
        return 0.0, 1.0
    raise IntensityError(
        "Expected a colour channel of an unsigned integer type, or floating point between 0 and "
        f"1; found {raw_ZYX.dtype} between {least:g} and {most:g}. "
        "Convert the images to 8 bits, or set data.intensity.kind=percentiles."
    )


def _gray(raw_ZYX: NDArray[Any], percent: Bounds) -> Bounds:
    """0 to 255 for 8 bits; percentiles for all others, whose range says little (12 in 16 bits)."""
    return (0.0, 255.0) if raw_ZYX.dtype == np.uint8 else _percentiles(raw_ZYX, percent)


INTENSITIES: dict[str, Intensity] = {
    "ct-window": Intensity(_window, (-160.0, 240.0), fixed=True),
    "percentiles": Intensity(_percentiles, (0.5, 99.5), (0.0, 100.0)),
    "colour": Intensity(_type_range, None),
    "gray": Intensity(_gray, (0.5, 99.5), (0.0, 100.0)),
    "none": Intensity(None, None),
}
"""What a channel may be scaled by."""

KIND_OF_MODALITY = {"ct": "ct-window", "mr": "percentiles", "colour": "colour", "gray": "gray"}
_LEAST_RANGE = 1e-30
_COMPONENTS = {"colour": 3}


def scale(raw_ZYX: NDArray[Any], intensity: ChannelIntensity) -> FloatArray:
    """Scale one raw channel as `intensity` says.

    Args:
        raw_ZYX: Raw volume `(Z, Y, X)` of any type.
        intensity: Kind and numbers.

    Returns:
        float32 volume, between 0 and 1 except for the kind `none`.

    Raises:
        UnknownNameError: No such kind.
        IntensityError: The volume does not suit the kind.
    """
    return scale_between(raw_ZYX, bounds_of(raw_ZYX, intensity))


def bounds_of(raw_ZYX: NDArray[Any], intensity: ChannelIntensity) -> Bounds | None:
    """The raw values that become 0 and 1 in one volume; None where nothing is scaled.

    Raises:
        UnknownNameError: No such kind.
        IntensityError: The volume does not suit the kind.
    """
    chosen = _kind(intensity.kind)
    if chosen.bounds is None:
        return None
    return chosen.bounds(raw_ZYX, (intensity.low, intensity.high))


def needs_voxels(intensity: ChannelIntensity) -> bool:
    """Whether `bounds_of` has to see the whole volume.

    Raises:
        UnknownNameError: No such kind.
    """
    chosen = _kind(intensity.kind)
    return chosen.bounds is not None and not chosen.fixed


def suits(intensity: ChannelIntensity) -> bool:
    """Whether the two numbers ascend within what the kind allows, or it takes none.

    Raises:
        UnknownNameError: No such kind.
    """
    chosen = _kind(intensity.kind)
    least, most = chosen.allowed
    return chosen.numbers is None or least <= intensity.low < intensity.high <= most


def scale_between(raw_ZYX: NDArray[Any], bounds: Bounds | None) -> FloatArray:
    """A volume, or a part of it, with `bounds` at 0 and 1, clipped; as it is for None."""
    if bounds is None:
        return raw_ZYX.astype(np.float32)
    low, high = bounds
    # 32-bit integers and doubles keep their digits; for all others float32 is exact already.
    exact = np.result_type(raw_ZYX.dtype, np.float32)
    if max(abs(low), abs(high), high - low) > float(np.finfo(exact).max):
        # The range overflows the type, and of doubles itself: its half fits.
        exact, raw_ZYX = np.dtype(np.float64), raw_ZYX.astype(np.float64) / 2
        low, high = low / 2, high / 2
    with np.errstate(over="ignore"):  # far outside of the range, where it is clipped
        scaled = raw_ZYX.astype(exact) - exact.type(low)
        scaled /= exact.type(max(high - low, _LEAST_RANGE))
    clipped: FloatArray = np.clip(scaled, 0.0, 1.0, out=scaled).astype(np.float32, copy=False)
    return clipped


def resolve(config: DataConfig, dataset: Dataset) -> tuple[ChannelIntensity, ...]:
    """What is done to each channel, every number written out.

    Args:
        config: `modality` and `intensity` win over what the data set says.
        dataset: Its modalities stand in where the configuration says `auto`.

    Returns:
        One entry per channel; a colour image has three.

    Raises:
        UnknownNameError: No such kind of intensity.
        ConfigError: The modality is unknown, or the numbers do not suit the kind.
    """
    modalities = dataset.modalities
    if config.modality != "auto":
        modalities = (config.modality,) * len(modalities)
    kinds = [_kind_of(modality, config.intensity.kind) for modality in modalities]
    given = config.intensity.low is not None or config.intensity.high is not None
    if given and len(set(kinds)) > 1:
        raise ConfigError(
            "data.intensity.low and high hold for all channels, but the channels differ: "
            f"{', '.join(kinds)}. Leave both out, or set data.intensity.kind for all channels."
        )
    return tuple(
        _numbered(kind, config)
        for kind, modality in zip(kinds, modalities, strict=True)
        for _ in range(_COMPONENTS.get(modality, 1))
    )


def _kind(name: str) -> Intensity:
    if name not in INTENSITIES:
        raise unknown_name("intensity", name, INTENSITIES)
    return INTENSITIES[name]


def _kind_of(modality: str, asked: str) -> str:
    if asked != "auto":
        _kind(asked)
        return asked
    if modality not in KIND_OF_MODALITY:
        raise ConfigError(
            f"Expected a modality out of {', '.join(KIND_OF_MODALITY)}, found '{modality}'. "
            "Set data.modality, or data.intensity.kind."
        )
    return KIND_OF_MODALITY[modality]


def _numbered(kind: str, config: DataConfig) -> ChannelIntensity:
    numbers, allowed = INTENSITIES[kind].numbers, INTENSITIES[kind].allowed
    low, high = config.intensity.low, config.intensity.high
    if numbers is None:
        if low is not None or high is not None:
            raise ConfigError(
                f"The intensity '{kind}' takes no data.intensity.low and high, found {low} and "
                f"{high}. Leave both out."
            )
        return ChannelIntensity(kind=kind)
    low = numbers[0] if low is None else low
    high = numbers[1] if high is None else high
    found = ChannelIntensity(kind=kind, low=low, high=high)
    if not suits(found):
        raise ConfigError(
            f"Expected data.intensity.low below high within {allowed} for '{kind}', found low "
            f"{low:g} and high {high:g}. Change one of them."
        )
    return found
