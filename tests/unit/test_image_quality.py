"""PSNR and SSIM against closed forms and a loop over windows."""

import math

import numpy as np
import pytest

from medstill.errors import ShapeError
from medstill.evaluation.image_quality import psnr, ssim


def images(shape=(17, 23), seed=0):
    rng = np.random.default_rng(seed)
    first = rng.random(shape)
    return first, np.clip(first + rng.normal(0, 0.2, shape), 0, 1)


def slow_ssim(first, second, data_range):
    offsets = range(-5, 6)
    weights = {(i, j): math.exp(-(i * i + j * j) / (2 * 1.5**2)) for i in offsets for j in offsets}
    total = sum(weights.values())
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    found = []
    for y in range(5, first.shape[0] - 5):
        for x in range(5, first.shape[1] - 5):
            window = [
                (w / total, first[y + i, x + j], second[y + i, x + j])
                for (i, j), w in weights.items()
            ]
            m1 = sum(w * a for w, a, _ in window)
            m2 = sum(w * b for w, _, b in window)
            v1 = sum(w * (a - m1) ** 2 for w, a, _ in window)
            v2 = sum(w * (b - m2) ** 2 for w, _, b in window)
            cov = sum(w * (a - m1) * (b - m2) for w, a, b in window)
            found.append(
                (2 * m1 * m2 + c1) * (2 * cov + c2) / ((m1**2 + m2**2 + c1) * (v1 + v2 + c2))
            )
    return sum(found) / len(found)


@pytest.mark.parametrize("data_range", [1.0, 255.0])
def test_ssim_equals_a_loop_over_windows(data_range):
    first, second = (data_range * image for image in images())
    expected = slow_ssim(first, second, data_range)
    assert ssim(first, second, data_range=data_range) == pytest.approx(expected, abs=1e-12)


def test_equal_images():
    first, _ = images()
    assert ssim(first, first) == pytest.approx(1)
    assert psnr(first, first) == math.inf


def test_a_constant_shift_of_a_constant_image():
    low, high = np.full((12, 13), 0.4), np.full((12, 13), 0.6)
    assert ssim(low, high) == pytest.approx((2 * 0.24 + 1e-4) / (0.16 + 0.36 + 1e-4))
    assert psnr(low, high) == pytest.approx(10 * math.log10(1 / 0.04))


def test_psnr_does_not_depend_on_the_unit():
    first, second = images()
    assert psnr(255 * first, 255 * second, data_range=255.0) == pytest.approx(psnr(first, second))


def test_channels_and_slices_are_averaged():
    first, second = images((2, 3, 17, 23))
    each = [ssim(first[c, z], second[c, z]) for c in range(2) for z in range(3)]
    assert ssim(first, second) == pytest.approx(np.mean(each))


def test_values_beyond_the_range_are_clipped_and_do_not_wrap_round():
    """Fault 13 of the published scripts: a cast to 8 bits turned 1.01 into almost black."""
    first, _ = images()
    first[:8] = 1.0
    first[8:10] = 0.0
    overshot = np.where(first == 1.0, 1.01, np.where(first == 0.0, -0.01, first))
    wrapped = (255 * overshot).astype(np.int64).astype(np.uint8) / 255
    assert psnr(first, wrapped) < 10
    assert psnr(first, overshot) == math.inf
    assert ssim(first, overshot) == pytest.approx(1)
    assert psnr(first.astype(np.float32), overshot.astype(np.float16)) > 60


def test_different_shapes_and_images_smaller_than_a_window_are_refused():
    first, second = images()
    with pytest.raises(ShapeError, match=r"\(17, 23\) and \(17, 22\)"):
        psnr(first, second[:, :-1])
    with pytest.raises(ShapeError, match=r"at least 11 x 11 pixels.*\(10, 23\)"):
        ssim(first[:10], second[:10])
