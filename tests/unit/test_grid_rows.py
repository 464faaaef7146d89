"""The rows of a grid: in which order their axes are named, and which are adjusted together."""

import numpy as np
import pytest
from grid_scores import entry, grid
from test_grid_summary import FOLDS, GAINS, QUICK, dice, gain, summary

from medstill.evaluation.grid import Asked, GridEntry, summarise_grid


def test_rows_of_one_comparison_in_one_metric_are_adjusted_together():
    entries = grid(dice, folds=FOLDS, losses=("none", "kl"), students=("compact", "unet-s1"))
    found = summary(entries, asked=Asked(against={"loss": "none"}))
    sizes = {(g.control, g.control_row == g.row, g.metric): g.family for g in found.gains}
    assert sizes == {
        (control, within, metric): size
        for control, within, size in (("control", True, 4), ("distilled", False, 2))
        for metric in ("dice", "hd95_mm")
    }
    family = [g for g in found.gains if g.control == "control" and g.metric == "dice"]
    ordered = sorted(family, key=lambda g: g.comparison.p_value)
    highest = 0.0
    for rank, one in enumerate(ordered):
        highest = max(highest, min(1.0, (4 - rank) * one.comparison.p_value))
        assert one.p_holm == pytest.approx(highest)
    primary = summary(entries, asked=Asked(primary={"loss": "kl"}))
    assert primary.primary == {"loss": "kl"}
    assert {g.family for g in primary.gains} == {2}
    assert gain(primary).p_holm == pytest.approx(min(1.0, 2 * gain(primary).comparison.p_value))
    assert gain(primary).p_holm < gain(found).p_holm


def test_axes_keep_their_order_in_the_names_of_rows():
    entries = [
        GridEntry(point="", values={"width": "2", "fold": "0", "loss": loss}, entry=one)
        for loss in ("none", "kl")
        for one in (
            entry("compact", "control", 0, {"a": (0.5, 0.5), "b": (0.6, 0.6)}),
            entry("compact", "distilled", 0, {"a": (0.6, 0.6), "b": (0.7, 0.7)}),
        )
    ]
    axes = {"width": ("2",), "fold": ("0",), "loss": ("none", "kl")}
    found = summarise_grid("g", axes, ["fold"], entries, QUICK, asked=Asked({"loss": "none"}))
    names = ["width-2_loss-none compact", "width-2_loss-kl compact"]
    assert [row.name for row in found.rows] == names
    assert list(found.rows[0].values) == ["width", "loss"]
    assert {g.row for g in found.gains} == set(names)


def test_rows_whose_axis_chooses_the_student_are_compared_across_students():
    none = grid(dice, folds=FOLDS, losses=("none",), students=("compact",))
    entries = [*none, *grid(dice, folds=FOLDS, losses=("kl",), students=("compact-dw",))]
    found = summary(entries, asked=Asked(against={"loss": "none"}))
    between = [g for g in found.gains if g.control_row != g.row]
    assert {(g.row, g.control_row) for g in between} == {
        ("loss-kl compact-dw", "loss-none compact")
    }
    distilled = next(g for g in between if (g.arm, g.metric) == ("distilled", "dice"))
    assert distilled.comparison.difference.mean == pytest.approx(np.mean(list(GAINS.values())))


def test_another_student_of_several_is_no_counterpart():
    none = grid(dice, folds=FOLDS, losses=("none",), students=("compact",))
    entries = [*none, *grid(dice, folds=FOLDS, losses=("kl",), students=("compact", "unet-s1"))]
    found = summary(entries, asked=Asked(against={"loss": "none"}))
    between = {(g.row, g.control_row) for g in found.gains if g.control_row != g.row}
    assert between == {("loss-kl compact", "loss-none compact")}


def test_a_run_by_itself_is_no_further_fold_of_the_others():
    def same(patient, fold, seed, arm, loss):
        return (0.5, 0.6)

    entries = grid(same, folds={"0": ("a", "b"), "1": ("c", "d")})
    lone = [
        one.model_copy(update={"point": "all", "values": {"run": "all"}})
        for one in entries
        if one.values["fold"] == "0"
    ]
    axes = {"fold": ["0", "1"], "loss": ["kl"], "run": ["all"]}
    found = summarise_grid("g", axes, ["fold"], [*entries, *lone], QUICK)
    assert [row.name for row in found.rows] == ["loss-kl compact", "run-all compact"]
    assert found.notes == ()
