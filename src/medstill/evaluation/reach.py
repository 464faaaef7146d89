"""How many test patients a study needs before anything can be shown at all."""

from __future__ import annotations

from collections.abc import Sequence

from medstill.evaluation.arms import COMPARED, FILTERED, TESTED


def comparisons_of(students: int, arms: Sequence[str]) -> int:
    """Comparisons of a study's page, which Holm's adjustment is over.

    Args:
        students: Of the study.
        arms: In which each of them is trained.
    """
    scored = {*arms, *(FILTERED[arm] for arm in arms if arm in FILTERED)}
    return students * len(TESTED) * sum(scored.issuperset(pair) for pair in COMPARED)


def fewest_patients(comparisons: int, confidence: float) -> int:
    """The fewest patients with whom one of several comparisons can be shown to differ.

    With n patients who all gain, the sign-flip test gives p = 2 / 2^n; Holm's adjustment multiplies
    the smallest p by the number of comparisons.
    """
    patients = 1
    while comparisons * 2 / 2**patients >= 1 - confidence:
        patients += 1
    return patients


def beyond_reach(patients: int, comparisons: int, confidence: float) -> str:
    """What to say where a gain of every single test patient would show nothing; else nothing.

    Args:
        patients: Test patients.
        comparisons: See `comparisons_of`.
        confidence: Of the study's intervals and verdicts.
    """
    fewest = fewest_patients(comparisons, confidence)
    if patients >= fewest:
        return ""
    return (
        f"With {patients} test patient(s) nothing can be shown to be better or worse, even if "
        f"every single one gains: {comparisons} comparisons at a confidence of {confidence:g} "
        f"need {fewest}. Set split.test higher, or pool folds in a study of many runs "
        "(medstill study run), if the verdict matters."
    )
