import math
from pathlib import Path

import numpy as np
import pytest

from medstill.config import DataConfig, IntensityConfig
from medstill.errors import ConfigError, IntensityError, UnknownNameError
from medstill.volumes import intensity
from medstill.volumes.intensity import INTENSITIES, percentiles_of, resolve, sampled, scale
from medstill.volumes.records import ChannelIntensity, Dataset


def resolved(*modalities, **config):
    dataset = Dataset(Path("data"), "pairs", modalities, {}, None, ())
    intensity = IntensityConfig(
        **{key: config.pop(key) for key in ("kind", "low", "high") if key in config}
    )
    return resolve(DataConfig(intensity=intensity, **config), dataset)


def scaled(values, kind, low=0.0, high=1.0, dtype=np.float32):
    raw = np.array(values, dtype).reshape(1, 1, -1)
    found = scale(raw, ChannelIntensity(kind=kind, low=low, high=high))
    assert found.dtype == np.float32
    assert found.shape == raw.shape
    return found.ravel()


def test_the_kind_follows_the_modality():
    assert resolved("ct") == (ChannelIntensity(kind="ct-window", low=-160, high=240),)
    assert resolved("mr", "ct")[0] == ChannelIntensity(kind="percentiles", low=0.5, high=99.5)
    assert [c.kind for c in resolved("colour")] == ["colour"] * 3
    assert [c.kind for c in resolved("ct", "ct", modality="mr")] == ["percentiles"] * 2
    assert [c.kind for c in resolved("colour", kind="none")] == ["none"] * 3


def test_a_window_is_clipped_and_scaled():
    found = scaled([-1000, -160, 40, 240, 3000], "ct-window", -160, 240, np.int16)
    np.testing.assert_allclose(found, [0, 0, 0.5, 1, 1], atol=1e-6)


def test_percentiles_leave_a_zero_background_out():
    brain = np.concatenate([np.zeros(5000), np.arange(1000, 2001)])
    found = scaled(brain, "percentiles", 10, 90)
    np.testing.assert_allclose(found[5500], 0.5, atol=1e-3)
    assert (found == 0).mean() == pytest.approx((5000 + 101) / 6001, abs=1e-3)


@pytest.mark.parametrize("factor", [1.0, 1e4])
def test_percentiles_do_not_care_for_the_unit(factor):
    raw = np.random.default_rng(0).gamma(2.0, size=999) + 1
    np.testing.assert_allclose(
        scaled(raw * factor, "percentiles", 0.5, 99.5),
        scaled(raw, "percentiles", 0.5, 99.5),
        atol=1e-5,
    )


def test_a_nearly_constant_volume_uses_its_whole_range():
    found = scaled([5] * 999 + [9], "percentiles", 0.5, 99.5)
    assert (found[0], found[-1]) == (0, 1)


def test_colour_goes_by_the_range_of_the_type():
    np.testing.assert_allclose(scaled([0, 51, 255], "colour", dtype=np.uint8), [0, 0.2, 1])
    np.testing.assert_allclose(scaled([0, 65535], "colour", dtype=np.uint16), [0, 1])
    np.testing.assert_allclose(scaled([0.25, 0.5], "colour"), [0.25, 0.5])
    with pytest.raises(IntensityError, match=r"found float32 between 0 and 200.*Convert"):
        scaled([0, 200], "colour")
    with pytest.raises(IntensityError, match="found int16"):
        scaled([0, 1], "colour", dtype=np.int16)


def test_gray_goes_by_the_type_in_8_bits_and_by_percentiles_beyond():
    np.testing.assert_allclose(scaled([0, 51, 102], "gray", 0, 100, np.uint8), [0, 0.2, 0.4])
    np.testing.assert_allclose(scaled([100, 150, 200], "gray", 0, 100, np.uint16), [0, 0.5, 1])


def test_none_leaves_the_values():
    np.testing.assert_array_equal(scaled([-7, 3000], "none", dtype=np.int16), [-7, 3000])


def test_large_integers_keep_their_digits():
    base = 2_000_000_000
    found = scaled([base, base + 1, base + 4], "ct-window", base, base + 4, np.int32)
    np.testing.assert_allclose(found, [0, 0.25, 1])


@pytest.mark.parametrize(("dtype", "most"), [(np.float32, 3e38), (np.float64, 1.7e308)])
@pytest.mark.parametrize(("kind", "low", "high"), [("percentiles", 0, 100), ("gray", 0, 100)])
def test_a_range_that_overflows_its_type_is_scaled(dtype, most, kind, low, high):
    found = scaled([-most, -most / 2, 0, 1, most / 2, most], kind, low, high, dtype)
    np.testing.assert_allclose(found, [0, 0.25, 0.5, 0.5, 0.75, 1], atol=1e-6)


@pytest.mark.parametrize("dtype", [np.int16, np.float32, np.float64])
def test_a_window_that_overflows_is_scaled(dtype):
    found = scaled([-100, 0, 100], "ct-window", -1e308, 1e308, dtype)
    np.testing.assert_array_equal(found, [0.5, 0.5, 0.5])


def test_outliers_beyond_every_difference_are_clipped():
    found = scaled([-3e38, *range(1, 1000), 3e38], "percentiles", 0.5, 99.5)
    assert (found[0], found[-1]) == (0, 1)
    np.testing.assert_allclose(found[500], 0.5, atol=1e-3)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_percentiles_between_far_values_are_finite(dtype):
    most = np.finfo(dtype).max
    assert percentiles_of(np.array([-most, most], dtype), (25, 75)) == (-most / 2, most / 2)


@pytest.mark.parametrize("kind", sorted(set(INTENSITIES) - {"none"}))
def test_every_kind_gives_values_between_0_and_1(kind):
    raw = np.random.default_rng(1).integers(0, 200, size=(3, 5, 7)).astype(np.uint8)
    numbers = INTENSITIES[kind].numbers or (0.0, 1.0)
    found = scale(raw, ChannelIntensity(kind=kind, low=numbers[0], high=numbers[1]))
    assert found.min() >= 0
    assert found.max() <= 1
    assert found.std() > 0.05


def test_wrong_numbers_and_names_are_refused():
    with pytest.raises(ConfigError, match=r"low below high .*found low 300 and high 240"):
        resolved("ct", low=300)
    with pytest.raises(ConfigError, match=r"within \(0.0, 100.0\).*high 101"):
        resolved("mr", high=101)
    with pytest.raises(ConfigError, match=r"'colour' takes no data.intensity.low"):
        resolved("colour", low=3)
    with pytest.raises(ConfigError, match="channels differ: ct-window, percentiles"):
        resolved("ct", "mr", low=3)
    with pytest.raises(UnknownNameError, match="Did you mean 'percentiles'"):
        resolved("mr", kind="percentile")
    with pytest.raises(ConfigError, match="ct, mr, colour, gray, found 'pet'"):
        resolved("pet")


@pytest.mark.parametrize("shape", [(977, 8, 8), (60, 16, 12), (31, 10, 50), (7, 9, 11)])
def test_a_sample_has_its_share_of_every_row_and_column(shape, monkeypatch):
    monkeypatch.setattr(intensity, "SAMPLED", math.prod(shape) // 8)
    for axis in range(3):
        counts = np.bincount(sampled(np.indices(shape)[axis]), minlength=shape[axis])
        assert counts.max() - counts.min() <= 2
        assert math.prod(shape) // 16 <= counts.sum() <= math.prod(shape) // 4


def test_the_sample_of_a_small_volume_is_all_of_it():
    raw = np.arange(7 * 9 * 11).reshape(7, 9, 11)
    np.testing.assert_array_equal(sampled(raw), raw.ravel())
