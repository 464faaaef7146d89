"""Intervals and paired tests over patients.

n is always the number of patients: cases of one patient, and seeds of one recipe, are averaged
before anything here is called.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from medstill.config import Record
from medstill.errors import DataError, require

Verdict = Literal["better", "no difference shown", "worse"]

_FLIPS_PER_RESAMPLE = 20
"""A p is compared with thresholds like .05 / 15: of 9,999 flips its error there is a sixth."""
_FLIPS_AT_ONCE = 16_384
_SUM_ROUNDING = 1e-12


class Interval(Record):
    """A mean over patients with its bootstrap interval."""

    mean: float
    low: float
    high: float
    n: int
    confidence: float
    method: Literal["bca", "percentile", "point"]
    """`bca`: bias-corrected and accelerated. `percentile`: the plain one, where BCa is undefined.
    `point`: fewer than two values, or all equal, so that resampling shows no spread."""


class Comparison(Record):
    """Two models on the same patients; differences are treated minus control."""

    n: int
    difference: Interval
    p_value: float
    """Two-sided, not adjusted for other comparisons."""
    test: Literal["exact sign-flip permutation", "random sign-flip permutation"]
    higher: int
    """Patients whose value is higher for the treated model."""
    lower: int
    equal: int


def bootstrap_interval(
    values: Sequence[float], confidence: float = 0.95, resamples: int = 9999, seed: int = 0
) -> Interval:
    """Bootstrap interval of a mean.

    Args:
        values: One number per patient.
        confidence: Share of such intervals that should cover the truth, in (0, 1).
        resamples: Bootstrap samples.
        seed: Of the resampling.

    Raises:
        DataError: No values, or one that is not finite.
        MissingExtraError: scipy is not installed.

    References:
        Efron, Better Bootstrap Confidence Intervals, JASA 1987.
    """
    sample = np.asarray(values, float)
    if not sample.size or not np.isfinite(sample).all():
        raise DataError(
            f"A bootstrap interval needs at least one finite number, but got {list(values)[:8]}. "
            "Were any patients scored?"
        )
    mean = math.fsum(sample) / sample.size
    if sample.size < 2 or np.ptp(sample) == 0:
        low, high, method = mean, mean, "point"
    else:
        low, high, method = _bootstrap(sample, confidence, resamples, seed)
    return Interval.model_validate(
        {
            "mean": mean,
            "low": low,
            "high": high,
            "n": sample.size,
            "confidence": confidence,
            "method": method,
        }
    )


def paired_comparison(
    treated: Mapping[str, float],
    control: Mapping[str, float],
    *,
    confidence: float = 0.95,
    resamples: int = 9999,
    seed: int = 0,
) -> Comparison:
    """Compare two models patient by patient.

    The test flips the signs of the differences: under the null hypothesis either model could have
    given either value. All flips are tried when there are no more of them than twenty times
    `resamples` (up to 17 patients with 9,999), else so many random ones. It tests the very mean
    that is reported, and unlike Wilcoxon's signed ranks it needs no rule for ties and zeros.

    Args:
        treated: Patient -> value.
        control: Patient -> value, of the same patients.
        confidence: Of the interval of the mean difference.
        resamples: Bootstrap samples; sign flips are at most twenty times as many.
        seed: Of both.

    Raises:
        DataError: The patients differ, or there are none.
        MissingExtraError: scipy is not installed.
    """
    if set(treated) != set(control):
        only = sorted(set(treated) ^ set(control))
        raise DataError(
            f"A paired comparison needs the same patients on both sides, but {len(only)} are on "
            f"one side only: {', '.join(only[:5])}. Score both models on the same patients."
        )
    patients = sorted(treated)
    differences = np.array([treated[p] - control[p] for p in patients])
    interval = bootstrap_interval(differences.tolist(), confidence, resamples, seed)
    flips = min(_FLIPS_PER_RESAMPLE * resamples, 2 ** len(patients))
    exact = flips == 2 ** len(patients)
    return Comparison(
        n=len(patients),
        difference=interval,
        p_value=_sign_flip(differences, flips, None if exact else np.random.default_rng(seed)),
        test="exact sign-flip permutation" if exact else "random sign-flip permutation",
        higher=int((differences > 0).sum()),
        lower=int((differences < 0).sum()),
        equal=int((differences == 0).sum()),
    )


def mean_over_seeds(seeds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Patient -> mean over the seeds that scored the patient.

    A seed leaves a patient out only where truth and its prediction are both empty.

    >>> mean_over_seeds([{"a": 1.0, "b": 0.5}, {"a": 0.0}])
    {'a': 0.5, 'b': 0.5}
    """
    patients = sorted({patient for seed in seeds for patient in seed})
    found = {p: [seed[p] for seed in seeds if p in seed] for p in patients}
    return {p: math.fsum(values) / len(values) for p, values in found.items()}


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Holm's adjusted p-values, in the order given.

    References:
        Holm, A Simple Sequentially Rejective Multiple Test Procedure, 1979.

    >>> [round(p, 6) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return tuple(adjusted)


def verdict(interval: Interval, p_adjusted: float, *, higher_is_better: bool) -> Verdict:
    """What a comparison shows.

    A difference is shown only when the interval of the mean difference leaves out 0 and the
    adjusted p-value is below one minus the confidence.
    """
    clear = interval.low > 0 or interval.high < 0
    if not clear or p_adjusted >= 1 - interval.confidence:
        return "no difference shown"
    return "better" if (interval.mean > 0) == higher_is_better else "worse"


def _bootstrap(
    sample: np.ndarray[Any, np.dtype[np.float64]], confidence: float, resamples: int, seed: int
) -> tuple[float, float, str]:
    stats = require("scipy.stats", "report")
    for method in ("BCa", "percentile"):
        with warnings.catch_warnings():
            # A degenerate sample is seen by its interval of NaN and answered below.
            warnings.simplefilter("ignore", RuntimeWarning)
            found = stats.bootstrap(
                (sample,),
                np.mean,
                n_resamples=resamples,
                confidence_level=confidence,
                method=method,
                random_state=np.random.default_rng(seed),
            ).confidence_interval
        if np.isfinite([found.low, found.high]).all():
            break
    return float(found.low), float(found.high), method.lower()


def _sign_flip(
    differences: np.ndarray[Any, np.dtype[np.float64]],
    flips: int,
    generator: np.random.Generator | None,
) -> float:
    """Two-sided p: the share of sign flips whose mean lies as far from 0 as the one observed.

    Without a generator all `flips` that there are; of random ones the one observed counts as one,
    so that p is never 0. scipy's `permutation_test` takes 20 s for as many with 160 patients.
    """
    n = len(differences)
    if n < 2 or not differences.any():
        return 1.0
    # Sums that differ by rounding alone are equal.
    least = abs(differences.sum()) - _SUM_ROUNDING * np.abs(differences).sum()
    extreme = 0
    for start in range(0, flips, _FLIPS_AT_ONCE):
        rows = min(_FLIPS_AT_ONCE, flips - start)
        if generator is None:
            kept = (np.arange(start, start + rows)[:, None] >> np.arange(n)) & 1
        else:
            kept = generator.integers(0, 2, (rows, n), np.int8)
        extreme += int((np.abs((2.0 * kept - 1) @ differences) >= least).sum())
    return extreme / flips if generator is None else (extreme + 1) / (flips + 1)
