"""One grid on the page of many: comparisons in one line each, details folded away."""

import pytest
from grid_scores import grid

from medstill.config import EvaluationConfig
from medstill.evaluation.grid import Asked, summarise_grid
from medstill.evaluation.keptpage import compared, folded

FOLDS = {"0": ("a", "b", "c", "d"), "1": ("e", "f", "g", "h")}
AXES = {"fold": ("0", "1"), "loss": ("none", "kl")}


def dice(patient, fold, seed, arm, loss):
    gain = (0.05 + 0.01 * "abcdefgh".index(patient)) * (arm == "distilled") * (loss == "kl")
    return 0.4 + gain, 0.3 + gain


@pytest.fixture(scope="module")
def lines():
    entries = grid(dice, folds=FOLDS, losses=("none", "kl"))
    config, asked = EvaluationConfig(resamples=199), Asked(against={"loss": "none"})
    summary = summarise_grid("g", AXES, ["fold"], entries, config, asked=asked)
    head, _, *rows = (
        [cell.strip() for cell in line.strip("|").split("|")] for line in compared(summary)
    )
    return head, rows


def test_every_comparison_has_one_line(lines):
    head, rows = lines
    assert [row[:3] for row in rows] == [
        ["none", "compact", "distilled - control"],
        ["kl", "compact", "distilled - control"],
        ["kl", "compact", "distilled - distilled of loss-none compact"],
    ]
    assert {len(row) for row in rows} == {len(head)}


def test_the_line_has_the_gain_its_counts_and_both_verdicts(lines):
    head, rows = lines
    row = dict(zip(head[:-3], rows[1], strict=False))
    assert row["Dice (95%)"].startswith("+0.085 (+0.0")
    assert row["better / worse"] == "8 / 0 of 8"
    assert row["verdict"] == "better"
    assert rows[1][-3].startswith("-8.5 (")
    assert rows[1][-1] == "better"
    assert rows[0][-1] == "no difference shown"


def test_what_holds_nothing_is_not_folded():
    assert folded("title", []) == []
    assert folded("title", ["| a |"])[0] == "<details><summary>title</summary>"
