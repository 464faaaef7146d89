"""Intervals and tests against scipy's own numbers and counts by hand."""

import itertools

import numpy as np
import pytest
from scipy import stats

from medstill.errors import DataError
from medstill.evaluation.statistics import (
    Interval,
    bootstrap_interval,
    holm,
    mean_over_seeds,
    paired_comparison,
    verdict,
)

VALUES = [0.81, 0.93, 0.12, 0.77, 0.95, 0.88, 0.54]


def by_name(values):
    return {f"p{i:02d}": v for i, v in enumerate(values)}


def slow_bca(values, resamples, seed):
    values = np.array(values)
    rng = np.random.default_rng(seed)
    means = rng.choice(values, (resamples, len(values))).mean(axis=1)
    below, equal = (means < values.mean()).mean(), (means == values.mean()).mean()
    z0 = stats.norm.ppf(below + equal / 2)
    left_out = np.array([np.delete(values, i).mean() for i in range(len(values))])
    off = left_out.mean() - left_out
    a = (off**3).sum() / (6 * (off**2).sum() ** 1.5)
    ends = []
    for z in stats.norm.ppf([0.025, 0.975]):
        ends.append(np.quantile(means, stats.norm.cdf(z0 + (z0 + z) / (1 - a * (z0 + z)))))
    return ends


def test_the_interval_is_bca():
    found = bootstrap_interval(VALUES, 0.95, 9999, seed=1)
    assert (found.method, found.n, found.confidence) == ("bca", 7, 0.95)
    assert found.mean == pytest.approx(np.mean(VALUES))
    np.testing.assert_allclose([found.low, found.high], slow_bca(VALUES, 99_999, 5), atol=0.02)
    plain = np.quantile(np.random.default_rng(0).choice(VALUES, (9999, 7)).mean(1), [0.025, 0.975])
    assert abs(found.low - plain[0]) > 0.02


def test_the_same_seed_gives_the_same_interval():
    assert bootstrap_interval(VALUES, seed=3) == bootstrap_interval(VALUES, seed=3)
    assert bootstrap_interval(VALUES, seed=3) != bootstrap_interval(VALUES, seed=4)


def test_a_greater_confidence_is_a_wider_interval():
    narrow, wide = bootstrap_interval(VALUES, 0.8), bootstrap_interval(VALUES, 0.99)
    assert wide.low < narrow.low < narrow.high < wide.high


@pytest.mark.parametrize("values", [[0.5], [0.3, 0.3, 0.3]])
def test_without_spread_the_interval_is_a_point_and_says_so(values):
    found = bootstrap_interval(values)
    assert (found.low, found.high, found.method) == (found.mean, found.mean, "point")


@pytest.mark.parametrize("values", [[0.1, 0.2], [0, 0, 0, 0, 0, 0, 1], [1.0, 1.0 + 1e-15]])
def test_samples_of_little_spread_give_no_warning_and_finite_ends(values):
    found = bootstrap_interval(values)
    assert found.low <= found.mean <= found.high
    assert found.method in ("bca", "percentile", "point")


def test_an_undefined_bca_interval_falls_back_to_the_percentile_one(monkeypatch):
    real = stats.bootstrap

    def bootstrap(*args, method, **options):
        found = real(*args, method=method, **options)
        if method == "BCa":
            found.confidence_interval = type(found.confidence_interval)(np.nan, np.nan)
        return found

    monkeypatch.setattr("scipy.stats.bootstrap", bootstrap)
    found = bootstrap_interval(VALUES)
    assert found.method == "percentile"
    assert found.low < found.mean < found.high


@pytest.mark.parametrize("values", [[], [0.5, float("nan")], [float("inf")]])
def test_no_value_and_values_that_are_not_finite_are_refused(values):
    with pytest.raises(DataError, match="at least one finite number"):
        bootstrap_interval(values)


def test_few_patients_are_tested_with_all_sign_flips():
    control = by_name([0.5, 0.6, 0.7, 0.4, 0.9, 0.55])
    treated = {k: v + d for (k, v), d in zip(control.items(), [4, 5, -1, 7, 2, 8], strict=True)}
    found = paired_comparison(treated, control)
    differences = np.array([4, 5, -1, 7, 2, 8])
    flips = [abs((differences * s).sum()) for s in itertools.product((-1, 1), repeat=6)]
    assert found.p_value == pytest.approx(np.mean([f >= 25 - 1e-9 for f in flips]))
    assert found.test == "exact sign-flip permutation"
    assert (found.n, found.higher, found.lower, found.equal) == (6, 5, 1, 0)
    assert found.difference.mean == pytest.approx(25 / 6)


def test_many_patients_are_tested_with_random_sign_flips():
    differences = np.random.default_rng(0).normal(0.4, 1, 40)
    found = paired_comparison(by_name(differences), by_name(np.zeros(40)))
    assert found.test == "random sign-flip permutation"
    assert found.p_value == pytest.approx(stats.ttest_1samp(differences, 0).pvalue, abs=0.02)


def test_random_sign_flips_agree_with_all_of_them():
    differences = np.random.default_rng(3).normal(0.9, 1, 16)
    zeros = by_name(np.zeros(16))
    exact = paired_comparison(by_name(differences), zeros)
    random = paired_comparison(by_name(differences), zeros, resamples=3000)
    assert (exact.test[:5], random.test[:6]) == ("exact", "random")
    assert 0.01 < exact.p_value < 0.1
    assert random.p_value == pytest.approx(exact.p_value, rel=0.08)
    assert random.p_value != exact.p_value


def test_random_sign_flips_never_find_a_chance_of_0():
    found = paired_comparison(by_name(np.ones(60)), by_name(np.zeros(60)), resamples=50)
    assert found.p_value == pytest.approx(1 / 1001)


def test_a_clear_gain_of_every_patient_has_the_least_p_value_there_is():
    found = paired_comparison(by_name([1.0] * 7), by_name([0.5, 0.6, 0.7, 0.4, 0.9, 0.55, 0.3]))
    assert found.p_value == pytest.approx(2 / 2**7)


@pytest.mark.parametrize("values", [[0.5], [0.5, 0.7, 0.9]])
def test_equal_models_have_no_difference(values):
    found = paired_comparison(by_name(values), by_name(values))
    assert (found.p_value, found.equal, found.difference.high) == (1, len(values), 0)


def test_one_patient_shows_nothing():
    found = paired_comparison({"a": 0.9}, {"a": 0.1})
    assert (found.p_value, found.difference.method) == (1, "point")


def test_patients_are_paired_by_name_and_not_by_order():
    treated = {"b": 0.9, "a": 0.2}
    control = {"a": 0.1, "b": 0.8}
    assert paired_comparison(treated, control).difference.low == pytest.approx(0.1)


def test_different_patients_are_refused():
    with pytest.raises(DataError, match="2 are on one side only: b, c"):
        paired_comparison({"a": 1.0, "b": 1.0}, {"a": 1.0, "c": 1.0})


def test_seeds_are_averaged_by_patient():
    assert mean_over_seeds([{"a": 0.2, "b": 1.0}, {"b": 0.0, "a": 0.4}]) == {
        "a": pytest.approx(0.3),
        "b": 0.5,
    }


def test_holm_on_the_textbook_example():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx((0.03, 0.06, 0.06, 0.02))
    assert holm([0.9, 0.8]) == (1, 1)
    assert holm([]) == ()


@pytest.mark.parametrize(
    ("low", "high", "p", "higher_is_better", "expected"),
    [
        (0.1, 0.3, 0.01, True, "better"),
        (0.1, 0.3, 0.01, False, "worse"),
        (-0.3, -0.1, 0.01, True, "worse"),
        (-0.3, -0.1, 0.01, False, "better"),
        (0.1, 0.3, 0.06, True, "no difference shown"),
        (-0.1, 0.3, 0.01, True, "no difference shown"),
    ],
)
def test_the_verdict_needs_both_the_interval_and_the_adjusted_test(
    low, high, p, higher_is_better, expected
):
    interval = Interval(
        mean=(low + high) / 2, low=low, high=high, n=7, confidence=0.95, method="bca"
    )
    assert verdict(interval, p, higher_is_better=higher_is_better) == expected
