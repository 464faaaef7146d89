"""Where the variation of a difference comes from, and how small a difference could be found."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from medstill.errors import require

Source = Literal["patient", "fold", "seed", "rest"]
Values = NDArray[np.float64]
Levels = NDArray[np.int64]


@dataclass(frozen=True)
class Observation:
    """One patient's difference with one pair of networks."""

    patient: str
    fold: Hashable
    seed: Hashable
    difference: float


def detectable_difference(
    differences: Sequence[float], confidence: float = 0.95, power: float = 0.8
) -> float | None:
    """The smallest true mean difference that a paired test with so many patients would find.

    `(t(1 - alpha / 2, n - 1) + t(power, n - 1)) * s / sqrt(n)`, with the standard deviation `s` of
    the paired differences, t the quantiles of Student's t and alpha one minus the confidence. It
    does not count Holm's adjustment, which asks for more.

    Args:
        differences: One per patient.
        confidence: One minus the two-sided alpha.
        power: Probability of finding it.

    Returns:
        In the unit of the differences, > 0; None with fewer than two patients or without any
        spread, where nothing can be said.

    Raises:
        MissingExtraError: scipy is not installed.

    References:
        Bloom, Minimum Detectable Effects, Evaluation Review 19(5), 1995. Deviation: both multiples
        are quantiles of t, as there, with n - 1 degrees of freedom for one paired sample.
    """
    if len(differences) < 2 or max(differences) == min(differences):
        return None
    t = require("scipy.stats", "report").t
    n = len(differences)
    multiple = t.ppf((1 + confidence) / 2, n - 1) + t.ppf(power, n - 1)
    return float(multiple * np.std(differences, ddof=1) / math.sqrt(n))


def variance_split(observations: Sequence[Observation]) -> dict[Source, float]:
    """Standard deviation that each source makes in a single patient's difference.

    The model is a sum of independent random effects: of the patient, the fold (with its teacher),
    the training (a seed within its fold, since the same seed in two folds is two networks) and the
    rest. Sums of squares between the levels of each effect are set equal to their expectations.
    With one training per patient, patient and rest cannot be told apart and are called `patient`.

    Args:
        observations: Patients may be missing for some folds and seeds.

    Returns:
        Only sources with more than one level; empty where they cannot be told apart. An estimate
        below 0 is given as 0.

    References:
        Henderson, Estimation of Variance and Covariance Components, Biometrics 1953, method 1;
        Searle, Casella and McCulloch, Variance Components, 1992, chapter 5.
    """
    effects: dict[Source, list[Hashable]] = {
        "patient": [o.patient for o in observations],
        "fold": [o.fold for o in observations],
        "seed": [(o.fold, o.seed) for o in observations],
    }
    repeated = len(set(effects["patient"])) < len(observations)
    residual: Source = "rest" if repeated else "patient"
    if not repeated:
        del effects["patient"]
    if len(set(effects["seed"])) == len(set(effects["fold"])):
        del effects["seed"]
    levels = {name: _levels(labels) for name, labels in effects.items() if len(set(labels)) > 1}
    found = _components(np.array([o.difference for o in observations]), list(levels.values()))
    if found is None:
        return {}
    names = (*levels, residual)
    split = {name: math.sqrt(max(0.0, v)) for name, v in zip(names, found, strict=True)}
    order: tuple[Source, ...] = ("patient", "fold", "seed", "rest")
    return {name: split[name] for name in order if name in split}


def shares(split: Mapping[Source, float]) -> dict[Source, float]:
    """Source -> share of the variance; empty when there is none.

    >>> shares({"patient": 3.0, "fold": 4.0})
    {'patient': 0.36, 'fold': 0.64}
    """
    total = sum(deviation**2 for deviation in split.values())
    return {name: deviation**2 / total for name, deviation in split.items()} if total else {}


def _levels(labels: Sequence[Hashable]) -> Levels:
    """`(observations,)`: the number of each observation's level."""
    numbers = {label: number for number, label in enumerate(dict.fromkeys(labels))}
    return np.array([numbers[label] for label in labels])


def _components(values: Values, effects: Sequence[Levels]) -> Values | None:
    """Variances of the effects and of the residual; None when they cannot be told apart."""
    n = len(values)
    if n < 2:
        return None
    # The last part, every observation a level of its own, stands for the residual.
    parts = [*effects, np.arange(n)]
    centred = values - values.mean()
    sums = [(np.bincount(part, centred) ** 2 / np.bincount(part)).sum() for part in parts]
    expected = np.array([[_expected(rows, effect) for effect in parts] for rows in parts])
    if np.linalg.matrix_rank(expected) < len(parts):
        return None
    solved: Values = np.linalg.solve(expected, np.array(sums))
    return solved


def _expected(rows: Levels, effect: Levels) -> float:
    """How much a unit variance of `effect` adds to the sum of squares between `rows`."""
    cells, counts = np.unique(np.stack([rows, effect]), axis=1, return_counts=True)
    between = (counts**2 / np.bincount(rows)[cells[0]]).sum()
    return float(between - (np.bincount(effect) ** 2).sum() / len(rows))
