"""Variance components against the textbook's analysis of variance; power against its definition."""

import time

import numpy as np
import pytest
from scipy import stats

from medstill.evaluation.spread import (
    Observation,
    detectable_difference,
    shares,
    variance_split,
)


@pytest.mark.parametrize("n", [5, 8, 22, 40])
def test_the_detectable_difference_is_found_with_80_percent_power(n):
    differences = np.random.default_rng(n).normal(0.01, 0.05, n)
    found = detectable_difference(differences.tolist())
    shift = found / (differences.std(ddof=1) / np.sqrt(n))
    critical = stats.t.ppf(0.975, n - 1)
    power = stats.nct.sf(critical, n - 1, shift) + stats.nct.cdf(-critical, n - 1, shift)
    assert power == pytest.approx(0.8, abs=0.025)


def test_the_detectable_difference_by_tables():
    """t(.975, 10) = 2.228 and t(.8, 10) = 0.879 with n = 11 and s = sqrt(1.1)."""
    assert detectable_difference([-1.0, 1.0] * 5 + [0.0]) == pytest.approx(
        (2.228 + 0.879) * np.sqrt(10 / 10) / np.sqrt(11), abs=1e-3
    )


def test_more_patients_and_less_confidence_find_less():
    values = [0.1, -0.2, 0.4, 0.0, 0.3]
    assert detectable_difference(values * 3) < detectable_difference(values) / 1.7
    assert detectable_difference(values, 0.9) < detectable_difference(values)
    assert detectable_difference(values, power=0.9) > detectable_difference(values)


@pytest.mark.parametrize("values", [[], [0.3], [0.2, 0.2, 0.2]])
def test_nothing_is_said_without_spread(values):
    assert detectable_difference(values) is None


def test_folds_of_unequal_size_as_the_textbook_has_it():
    """One-way random effects: (MSB - MSW) / n0, n0 = (N - sum n^2 / N) / (k - 1)."""
    groups = [[3.0, 5.0], [8.0, 9.0, 10.0], [1.0, 2.0, 3.0, 4.0]]
    sizes = np.array([len(g) for g in groups])
    pooled = np.concatenate(groups)
    within = sum(((np.array(g) - np.mean(g)) ** 2).sum() for g in groups) / (len(pooled) - 3)
    between = (sizes * (np.array([np.mean(g) for g in groups]) - pooled.mean()) ** 2).sum() / 2
    n0 = (sizes.sum() - (sizes**2).sum() / sizes.sum()) / 2
    found = variance_split(
        [
            Observation(f"{fold}-{i}", fold, 0, value)
            for fold, group in enumerate(groups)
            for i, value in enumerate(group)
        ]
    )
    assert list(found) == ["patient", "fold"]
    assert found["patient"] == pytest.approx(np.sqrt(within))
    assert found["fold"] == pytest.approx(np.sqrt((between - within) / n0))


def test_patients_crossed_with_seeds_as_the_textbook_has_it():
    """Two-way random effects, one value a cell: (MSA - MSE) / b, (MSB - MSE) / a, MSE."""
    values = np.random.default_rng(3).normal(0, 1, (7, 4))
    values += np.arange(7)[:, None] + 2 * np.arange(4)
    rows, columns = values.mean(1, keepdims=True), values.mean(0, keepdims=True)
    ms_patient = 4 * rows.var(ddof=1)
    ms_seed = 7 * columns.var(ddof=1)
    ms_rest = ((values - rows - columns + values.mean()) ** 2).sum() / (6 * 3)
    found = variance_split(
        [Observation(f"p{i}", "0", j, values[i, j]) for i in range(7) for j in range(4)]
    )
    assert found == {
        "patient": pytest.approx(np.sqrt((ms_patient - ms_rest) / 4)),
        "seed": pytest.approx(np.sqrt((ms_seed - ms_rest) / 7)),
        "rest": pytest.approx(np.sqrt(ms_rest)),
    }


def test_every_source_is_found_again_in_unequal_folds_with_gaps():
    truth = {"patient": 0.5, "fold": 2.0, "seed": 1.0, "rest": 0.25}
    rng = np.random.default_rng(0)
    observations, patient = [], 0
    for fold in range(60):
        fold_effect, seed_effects = rng.normal(0, 2), rng.normal(0, 1, 3)
        for _ in range(3 + fold % 3):
            patient += 1
            own = rng.normal(0, 0.5)
            for seed in range(3):
                if (patient + seed) % 7:
                    value = fold_effect + seed_effects[seed] + own + rng.normal(0, 0.25)
                    observations.append(Observation(f"p{patient}", fold, seed, value))
    found = variance_split(observations)
    for source, deviation in truth.items():
        assert found[source] == pytest.approx(deviation, rel=0.25), source


def by_indicators(values, designs):
    """The sums of squares as the textbook writes them: with a matrix of 0 and 1 for each effect."""
    parts = [*designs, np.eye(len(values))]
    centred = values - values.mean()
    sums = [((part.T @ centred) ** 2 / part.sum(axis=0)).sum() for part in parts]

    def expected(rows, effect):
        between = ((rows.T @ effect) ** 2).sum(axis=1) / rows.sum(axis=0)
        return between.sum() - (effect.sum(axis=0) ** 2).sum() / len(rows)

    matrix = [[expected(rows, effect) for effect in parts] for rows in parts]
    return np.sqrt(np.maximum(0, np.linalg.solve(matrix, sums)))


@pytest.mark.parametrize("seed", range(5))
def test_group_sums_give_what_matrices_give(seed):
    rng = np.random.default_rng(seed)
    places = [(p, p % 3, s) for p in range(20) for s in range(3) if rng.random() < 0.8]
    values = rng.normal(0, 1, len(places)) + [0.5 * p % 3 + s for p, _, s in places]
    found = variance_split(
        [Observation(f"p{p}", f, s, v) for (p, f, s), v in zip(places, values, strict=True)]
    )
    labels = [list(one) for one in zip(*((p, f, (f, s)) for p, f, s in places), strict=True)]
    designs = [
        np.array([[a == b for b in dict.fromkeys(one)] for a in one], float) for one in labels
    ]
    expected = by_indicators(values, designs)
    assert [found[name] for name in ("patient", "fold", "seed", "rest")] == pytest.approx(
        expected, abs=1e-9
    )


def test_many_patients_take_no_time():
    rng = np.random.default_rng(0)
    many = [Observation(f"p{i}", i % 5, s, rng.normal()) for i in range(4000) for s in range(3)]
    started = time.perf_counter()
    variance_split(many)
    assert time.perf_counter() - started < 10


def test_an_estimate_below_zero_is_zero():
    """Patients of equal means whose seeds go opposite ways: less between them than chance gives."""
    values = {("a", 0): 1.0, ("a", 1): -1.0, ("b", 0): -1.0, ("b", 1): 1.0}
    found = variance_split([Observation(p, "0", s, v) for (p, s), v in values.items()])
    assert (found["patient"], found["seed"]) == (0, 0)
    assert found["rest"] == pytest.approx(2.0)


def test_what_cannot_be_told_apart_is_not_split():
    alone = [Observation(f"p{fold}", fold, 0, float(fold)) for fold in range(4)]
    assert variance_split(alone) == {}
    assert variance_split(alone[:1]) == {}
    assert variance_split([]) == {}


def test_shares_add_up_and_are_none_without_variation():
    found = shares({"patient": 0.3, "fold": 0.1, "rest": 0.2})
    assert sum(found.values()) == pytest.approx(1)
    assert found["patient"] == pytest.approx(9 / 14)
    assert shares({"patient": 0.0}) == {}
