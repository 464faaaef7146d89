"""The arms of a student, and which of them are compared."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from medstill.evaluation.scores import Metric

Arm = Literal[
    "teacher",
    "control",
    "distilled",
    "control+largest-component",
    "distilled+largest-component",
    "all-labels",
    "pseudo-labels",
]
FILTERED: Mapping[str, Arm] = {
    "control": "control+largest-component",
    "distilled": "distilled+largest-component",
}
"""Arm -> the same networks with the largest component of each class alone kept."""
SCORES_FILE = "scores.json"
FILTERED_SCORES_FILE = "scores-largest-component.json"
COMPARED: tuple[tuple[Arm, Arm], ...] = (
    ("distilled", "control"),
    ("distilled", "control+largest-component"),
    ("distilled+largest-component", "control+largest-component"),
    ("distilled", "all-labels"),
    ("distilled", "pseudo-labels"),
)
"""Arms of a student that are compared where it has both; `all-labels` saw more labels."""
TESTED: tuple[Metric, ...] = ("dice", "hd95_mm")
"""Metrics whose gain is tested; every further test would cost power in Holm's adjustment."""


def score_files(arm: str, folder: Path) -> dict[str, Path]:
    """Arm -> file of its scores, for all arms that the networks of one stand for.

    Distilled students were not always filtered: without the file they have the one arm.

    Args:
        arm: In which the networks were trained.
        folder: Their test scores.
    """
    files, filtered = {arm: folder / SCORES_FILE}, folder / FILTERED_SCORES_FILE
    if arm in FILTERED and (arm != "distilled" or filtered.exists()):
        files[FILTERED[arm]] = filtered
    return files
