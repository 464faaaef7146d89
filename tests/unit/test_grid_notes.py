"""What a table says of rows that differ in what they were scored on."""

from grid_scores import grid
from test_grid_summary import FOLDS, dice, summary


def test_a_row_of_fewer_folds_is_told_once_for_all_its_arms():
    entries = [
        e
        for e in grid(dice, folds=FOLDS, losses=("kl", "none"))
        if not (e.values["loss"] == "none" and e.values["fold"] == "2")
    ]
    assert summary(entries).notes == ("loss-none compact: not scored for fold 2.",)
