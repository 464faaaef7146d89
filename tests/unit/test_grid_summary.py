"""Pooling of folds and seeds: known answers, and laws that hold for every grid."""

import random

import numpy as np
import pytest
from grid_scores import entry, grid
from hypothesis import given, settings
from hypothesis import strategies as st

from medstill.config import EvaluationConfig
from medstill.errors import DataError
from medstill.evaluation.arms import FILTERED
from medstill.evaluation.comparison import summarise
from medstill.evaluation.grid import Asked, GridEntry, GridSummary, compare_rows, summarise_grid

QUICK = EvaluationConfig(resamples=199)
FOLDS = {"0": ("a", "b", "c"), "1": ("d", "e"), "2": ("f", "g")}
AXES = {"fold": ("0", "1", "2"), "loss": ("none", "kl")}
GAINS = {"a": 0.01, "b": 0.02, "c": 0.06, "d": -0.02, "e": 0.04, "f": 0.1, "g": 0.07}


def dice(patient, fold, seed, arm, loss):
    base = 0.3 + 0.05 * "abcdefg".index(patient)
    if arm == "teacher":
        return 0.9, 0.8
    gain = 0.0 if arm != "distilled" or loss == "none" else GAINS[patient]
    return base + gain + 0.01 * seed, base + gain - 0.01 * seed


def summary(entries, **options):
    return summarise_grid("g", AXES, ["fold"], entries, QUICK, **options)


def gain(found, metric="dice", control="control", row="loss-kl compact"):
    (one,) = [g for g in found.gains if (g.metric, g.control, g.row) == (metric, control, row)]
    return one


def test_folds_are_pooled_into_one_row():
    found = summary(grid(dice, folds=FOLDS, losses=("kl", "none")))
    assert [row.name for row in found.rows] == ["loss-none compact", "loss-kl compact"]
    row = found.rows[1]
    assert (row.values, row.student) == ({"loss": "kl"}, "compact")
    assert [model.arm for model in row.models] == ["teacher", "control", "distilled"]
    assert {model.n_patients for model in row.models} == {7}
    means = {model.arm: model.intervals["dice"].mean for model in row.models}
    assert means["control"] == pytest.approx(0.3 + 0.05 * 3)
    assert means["distilled"] == pytest.approx(0.45 + np.mean(list(GAINS.values())))
    assert means["teacher"] == pytest.approx(0.85)
    assert found.comparisons == len(found.gains) == 4
    assert (found.notes, found.missing) == ((), ())


def test_a_gain_is_paired_by_patient_over_all_folds():
    one = gain(summary(grid(dice, folds=FOLDS)))
    assert one.comparison.n == 7
    assert one.comparison.difference.mean == pytest.approx(np.mean(list(GAINS.values())))
    assert (one.comparison.higher, one.comparison.lower) == (6, 1)
    assert (one.arm, one.control, one.control_row) == ("distilled", "control", one.row)
    hd95 = gain(summary(grid(dice, folds=FOLDS)), "hd95_mm")
    assert hd95.comparison.difference.mean == pytest.approx(-100 * np.mean(list(GAINS.values())))
    assert not hd95.higher_is_better


def test_levels_show_each_fold_and_each_seed():
    one = gain(summary(grid(dice, folds=FOLDS, seeds=(0, 1))))
    levels = {(level.axis, level.value): (level.n, level.difference) for level in one.levels}
    assert levels == {
        ("fold", "0"): (3, pytest.approx(0.03)),
        ("fold", "1"): (2, pytest.approx(0.01)),
        ("fold", "2"): (2, pytest.approx(0.085)),
        ("seed", "0"): (7, pytest.approx(0.04)),
        ("seed", "1"): (7, pytest.approx(0.04)),
    }


def test_seeds_are_averaged_before_patients():
    def noisy(patient, fold, seed, arm, loss):
        shift = 0.2 * (seed - 1) if arm == "distilled" else 0.0
        return tuple(value + shift for value in dice(patient, fold, 0, arm, loss))

    three = gain(summary(grid(noisy, folds=FOLDS, seeds=(0, 1, 2))))
    one = gain(summary(grid(noisy, folds=FOLDS, seeds=(1,))))
    assert three.comparison.n == one.comparison.n == 7
    assert three.comparison.difference.low == pytest.approx(one.comparison.difference.low)
    assert three.spread["seed"] == pytest.approx(0.2)
    assert three.spread["rest"] == pytest.approx(0, abs=1e-6)
    assert "seed" not in one.spread


def test_one_run_gives_the_numbers_of_its_own_comparison():
    entries = grid(dice, folds={"0": tuple("abcdefg")}, seeds=(0, 1))
    alone = summarise([e.entry for e in entries], QUICK)
    found = summary(entries)
    assert found.rows[0].models == alone.models
    assert [gain.comparison for gain in found.gains] == [gain.comparison for gain in alone.gains]


def test_a_patient_of_two_folds_counts_once_with_its_mean_and_that_is_said():
    folds = {"0": ("a", "b"), "1": ("b", "c")}

    def by_fold(patient, fold, seed, arm, loss):
        return (0.5 + 0.1 * int(fold) * (arm == "distilled"),) * 2

    found = summary(grid(by_fold, folds=folds))
    one = gain(found)
    assert one.comparison.n == 3
    assert one.comparison.difference.mean == pytest.approx((0 + 0.05 + 0.1) / 3)
    assert found.notes == (
        "Patients tested in more than one fold have the mean over these as their value: b (1).",
    )


def test_arms_scored_in_different_folds_are_compared_on_the_common_ones():
    entries = [
        e
        for e in grid(dice, folds=FOLDS)
        if not (e.entry.arm == "control" and e.values["fold"] == "2")
    ]
    found = summary(entries, missing=["fold-2_loss-kl"])
    one = gain(found)
    assert one.comparison.n == 5
    assert one.comparison.difference.mean == pytest.approx(np.mean([0.01, 0.02, 0.06, -0.02, 0.04]))
    assert one.unmatched == ("fold 2, seed 0",)
    assert found.missing == ("fold-2_loss-kl",)
    assert found.notes == ("loss-kl compact, control: not scored for fold 2.",)


def test_a_patient_that_one_arm_cannot_score_is_named():
    def absent(patient, fold, seed, arm, loss):
        if patient == "c":
            return (None, None) if arm == "control" else (0.0, None)
        return dice(patient, fold, seed, arm, loss)

    one = gain(summary(grid(absent, folds=FOLDS)))
    assert (one.unpaired, one.comparison.n) == (("c",), 6)


def test_every_reference_that_exists_is_compared():
    arms = ("control", *FILTERED.values(), "all-labels", "pseudo-labels", "distilled")
    found = summary(grid(dice, folds=FOLDS, arms=arms))
    assert [(g.arm, g.control) for g in found.gains if g.metric == "dice"] == [
        ("distilled", "control"),
        ("distilled", "control+largest-component"),
        ("distilled+largest-component", "control+largest-component"),
        ("distilled", "all-labels"),
        ("distilled", "pseudo-labels"),
    ]
    assert found.comparisons == 10
    # A reference more asks another question: it leaves the answer to the first as it is.
    assert [(g.family, g.p_holm) for g in found.gains] == [
        (1, g.comparison.p_value) for g in found.gains
    ]


def test_rows_are_compared_with_a_chosen_row():
    entries = grid(dice, folds=FOLDS, losses=("none", "kl"), students=("compact", "unet-s1"))
    found = summary(entries, asked=Asked(against={"loss": "none"}))
    rows = [g for g in found.gains if g.control_row != g.row]
    assert [(g.row, g.control_row, g.metric) for g in rows[:2]] == [
        ("loss-kl compact", "loss-none compact", "dice"),
        ("loss-kl compact", "loss-none compact", "hd95_mm"),
    ]
    assert len(rows) == 4
    assert found.comparisons == 12
    alone = compare_rows(entries, ["fold"], {"loss": "kl"}, {"loss": "none"}, QUICK)
    assert [g.comparison for g in alone] == [g.comparison for g in rows]
    assert rows[0].comparison.difference.mean == pytest.approx(np.mean(list(GAINS.values())))
    back = compare_rows(entries, ["fold"], {"loss": "none"}, {"loss": "kl"}, QUICK)
    assert back[0].comparison.difference.mean == pytest.approx(-np.mean(list(GAINS.values())))


def test_a_row_that_is_not_there_is_answered_with_those_that_are():
    entries = grid(dice, folds=FOLDS, losses=("none", "kl"))
    with pytest.raises(DataError, match=r"counterpart with \{'loss': 'mse'\}.*loss-none compact"):
        compare_rows(entries, ["fold"], {"loss": "kl"}, {"loss": "mse"}, QUICK)
    with pytest.raises(DataError, match=r"no rows of pair 't1' to compare: expected .*'loss'"):
        summary(entries, asked=Asked(against={"pair": "t1"}))


def test_a_row_to_compare_with_that_is_not_scored_yet_is_said():
    found = summary(grid(dice, folds=FOLDS, losses=("kl",)), asked=Asked(against={"loss": "none"}))
    assert found.comparisons == 2
    assert found.notes == (
        "No row can be compared with that of loss none: one of the two is not scored yet.",
    )


def test_controls_of_rows_are_compared_where_they_are_not_the_same():
    def by_recipe(patient, fold, seed, arm, loss):
        return tuple(value + 0.1 * (loss == "kl") for value in dice(patient, fold, seed, arm, loss))

    entries = grid(by_recipe, folds=FOLDS, losses=("none", "kl"))
    found = summary(entries, asked=Asked(against={"loss": "none"}))
    between = [(g.arm, g.control) for g in found.gains if g.control_row != g.row]
    assert between == [("distilled", "distilled")] * 2 + [("control", "control")] * 2
    control = next(g for g in found.gains if g.arm == "control")
    assert control.comparison.difference.mean == pytest.approx(0.1)


def test_a_shared_teacher_counts_once_when_seeds_are_an_axis():
    entries = [
        GridEntry(point=f"seed-{s}", values={"seed": str(s)}, entry=one)
        for s in (0, 1)
        for one in (
            entry("unet-t1", "teacher", 0, {"a": (0.9, 0.9), "b": (0.0, 0.8)}),
            entry("compact", "control", s, {"a": (0.5, 0.5), "b": (0.6, 0.6)}),
            entry("compact", "distilled", s, {"a": (0.6 + s / 10, 0.6), "b": (0.7, 0.7)}),
        )
    ]
    found = summarise_grid("g", {"seed": ("0", "1")}, ["seed"], entries, QUICK)
    teacher, control, _ = found.rows[0].models
    assert (teacher.seeds, teacher.counts["missed"]) == ((0,), 1)
    assert (control.seeds, control.mean_by_seed["dice"]) == ((0, 1), (0.55, 0.55))
    levels = {(v.axis, v.value): v.difference for v in gain(found, row="compact").levels}
    assert levels == {("seed", "0"): pytest.approx(0.1), ("seed", "1"): pytest.approx(0.125)}


def test_a_class_that_died_is_named_with_its_network():
    entries = grid(dice, folds=FOLDS)
    changed = [
        e.model_copy(update={"entry": e.entry.model_copy(update={"collapsed": ("spleen",)})})
        if e.values["fold"] == "1" and e.entry.arm == "distilled"
        else e
        for e in entries
    ]
    assert summary(changed).rows[0].collapsed == ("distilled, fold 1, seed 0: spleen",)


def test_what_no_table_can_hold_is_refused():
    entries = grid(dice, folds=FOLDS)
    other = entry("compact", "control", 0, {"z": (0.5,)}, classes=("liver",))
    strange = GridEntry(point="x", values={"fold": "9", "loss": "kl"}, entry=other)
    with pytest.raises(DataError, match=r"'x' are scored with different class names"):
        summary([*entries, strange])
    twice = entries[1].model_copy(update={"entry": entry("compact", "control", 0, {"a": (0, 0)})})
    with pytest.raises(DataError, match="control of 'compact' is there twice for fold 0, seed 0"):
        summary([*entries, twice])
    with pytest.raises(DataError, match="no network to summarise"):
        summary([])


def test_a_summary_survives_json():
    found = summary(grid(dice, folds=FOLDS, seeds=(0, 1)))
    assert GridSummary.model_validate_json(found.model_dump_json()) == found


def drawn(numbers):
    """A Dice function of a list of numbers, one per patient, arm and seed."""

    def value(patient, fold, seed, arm, loss):
        place = "abcdefg".index(patient) * 4 + 2 * (arm == "distilled") + seed % 2
        return numbers[place], numbers[place] / 2

    return value


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.floats(0.1, 1.0), min_size=28, max_size=28),
    st.randoms(use_true_random=False),
)
def test_the_order_of_networks_and_patients_changes_nothing(numbers, chance: random.Random):
    entries = grid(drawn(numbers), folds=FOLDS, seeds=(0, 1))
    mixed = {
        fold: tuple(chance.sample(patients, len(patients))) for fold, patients in FOLDS.items()
    }
    shuffled = grid(drawn(numbers), folds=mixed, seeds=(0, 1))
    chance.shuffle(shuffled)
    assert summary(shuffled) == summary(entries)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.floats(0.1, 1.0), min_size=28, max_size=28))
def test_a_fold_without_any_difference_shrinks_the_gain(numbers):
    def value(patient, fold, seed, arm, loss):
        return (0.5, 0.5) if fold == "3" else drawn(numbers)(patient, fold, seed, arm, loss)

    without = gain(summary(grid(value, folds=FOLDS))).comparison.difference.mean
    more = gain(summary(grid(value, folds={**FOLDS, "3": ("h", "i")}))).comparison.difference.mean
    assert more == pytest.approx(without * 7 / 9)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.floats(0.1, 1.0), min_size=28, max_size=28))
def test_exchanging_the_arms_turns_the_sign(numbers):
    entries = grid(drawn(numbers), folds=FOLDS)
    swap = {"control": "distilled", "distilled": "control", "teacher": "teacher"}
    swapped = [
        e.model_copy(update={"entry": e.entry.model_copy(update={"arm": swap[e.entry.arm]})})
        for e in entries
    ]
    ours, theirs = gain(summary(entries)), gain(summary(swapped))
    assert theirs.comparison.difference.mean == pytest.approx(-ours.comparison.difference.mean)
    assert theirs.spread == pytest.approx(ours.spread)
    assert theirs.detectable == pytest.approx(ours.detectable)
