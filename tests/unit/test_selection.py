"""Choice by validation scores: overall, per axis and fold by fold."""

import pytest
from grid_scores import grid

from medstill.config import EvaluationConfig
from medstill.errors import DataError, RunError
from medstill.evaluation.grid import summarise_grid
from medstill.evaluation.selection import (
    Validation,
    load_selection,
    nested_entries,
    save_selection,
    select_rows,
    selection_markdown,
)

SCORES = {
    ("kl", "E", "0"): 0.70,
    ("kl", "E", "1"): 0.80,
    ("kl", "B", "0"): 0.60,
    ("kl", "B", "1"): 0.60,
    ("cwd", "E", "0"): 0.79,
    ("cwd", "E", "1"): 0.75,
    ("cwd", "B", "0"): 0.71,
    ("cwd", "B", "1"): 0.71,
}


def validation(loss, scale, fold, dice, *, seed=0, student="compact", arm="distilled"):
    values = {"fold": fold, "loss": loss, "scale": scale}
    name = f"fold-{fold}_loss-{loss}_scale-{scale}"
    return Validation(point=name, values=values, student=student, arm=arm, seed=seed, dice=dice)


def validations(**options):
    return [validation(*place, dice, **options) for place, dice in SCORES.items()]


def test_the_row_with_the_best_mean_over_folds_and_seeds_is_chosen():
    found = select_rows("g", ["fold"], [*validations(), *validations(seed=1)])
    assert [(c.row, round(c.mean, 3), c.n) for c in found.candidates] == [
        ("loss-cwd_scale-E compact", 0.77, 4),
        ("loss-kl_scale-E compact", 0.75, 4),
        ("loss-cwd_scale-B compact", 0.71, 4),
        ("loss-kl_scale-B compact", 0.60, 4),
    ]
    (choice,) = found.choices
    assert (choice.row, choice.values) == (found.candidates[0].row, {"loss": "cwd", "scale": "E"})


def test_each_fold_chooses_by_its_own_validation_patients():
    (choice,) = select_rows("g", ["fold"], validations()).choices
    assert choice.by_fold == {
        "fold 0": "loss-cwd_scale-E compact",
        "fold 1": "loss-kl_scale-E compact",
    }


def test_each_axis_names_its_best_value():
    (choice,) = select_rows("g", ["fold"], validations()).choices
    assert choice.by_axis == {"loss": "cwd", "scale": "E"}


def test_control_scores_decide_nothing():
    better = [v.model_copy(update={"arm": "control", "dice": 1.0}) for v in validations()[2:4]]
    assert select_rows("g", ["fold"], [*better, *validations()]) == select_rows(
        "g", ["fold"], validations()
    )


def test_the_order_of_networks_decides_nothing():
    assert select_rows("g", ["fold"], validations()[::-1]) == select_rows(
        "g", ["fold"], validations()
    )


def test_a_row_that_lacks_a_fold_is_listed_but_not_chosen():
    fewer = [v for v in validations() if v.point != "fold-1_loss-cwd_scale-E"]
    found = select_rows("g", ["fold"], fewer)
    assert found.candidates[0].row == "loss-cwd_scale-E compact"
    assert found.candidates[0].lacking == ("fold 1, seed 0",)
    (choice,) = found.choices
    assert choice.row == "loss-kl_scale-E compact"
    assert choice.by_fold["fold 0"] == "loss-cwd_scale-B compact"


def test_a_run_by_itself_is_ranked_and_takes_no_choice_away():
    lone = Validation(
        point="all-patients",
        values={"run": "all-patients"},
        student="compact",
        arm="distilled",
        seed=0,
        dice=0.9,
    )
    found = select_rows("g", ["fold"], [*validations(), lone])
    (choice,) = found.choices
    assert choice == select_rows("g", ["fold"], validations()).choices[0]
    assert found.candidates[0].row == "run-all-patients compact"
    assert found.candidates[0].lacking == ("fold 0, seed 0", "fold 1, seed 0")
    assert not any(one.lacking for one in found.candidates[1:])
    alone = select_rows("g", ["fold"], [lone, lone.model_copy(update={"values": {"run": "b"}})])
    assert [one.row for one in alone.choices] == ["run-all-patients compact"]


def test_students_choose_for_themselves():
    other = [v.model_copy(update={"student": "unet-s1", "dice": 1 - v.dice}) for v in validations()]
    found = select_rows("g", ["fold"], [*other, *validations()])
    assert {c.student: c.row for c in found.choices} == {
        "compact": "loss-cwd_scale-E compact",
        "unet-s1": "loss-kl_scale-B unet-s1",
    }


def test_the_chosen_networks_are_tested_as_one_row():
    def dice(patient, fold, seed, arm, loss):
        base = {"control": 0.5, "teacher": 0.9}.get(arm, 0.6 if loss == "kl" else 0.7)
        return base + int(fold) / 10, base

    entries = grid(dice, folds={"0": "ab", "1": "cd"}, losses=("kl", "cwd"))
    seen = [
        Validation(
            point=e.point,
            values=e.values,
            student=e.entry.student,
            arm=e.entry.arm,
            seed=e.entry.seed,
            dice=1.0 if (e.values["fold"] == "0") == (e.values["loss"] == "kl") else 0.5,
        )
        for e in entries
    ]
    selection = select_rows("g", ["fold"], seen)
    chosen = nested_entries(entries, ["fold"], selection)
    assert {(e.values["fold"], e.point.split("-")[-1]) for e in chosen} == {
        ("0", "kl"),
        ("1", "cwd"),
    }
    summary = summarise_grid(
        "g", {"fold": ("0", "1")}, ["fold"], chosen, EvaluationConfig(resamples=99)
    )
    (row,) = summary.rows
    assert row.name == "recipe-chosen compact"
    assert summary.gains[0].comparison.difference.mean == pytest.approx((0.1 + 0.2) / 2)


def test_a_selection_survives_the_disk_and_another_file_is_refused(tmp_path):
    found = select_rows("g", ["fold"], validations())
    save_selection(found, tmp_path / "selection.json")
    assert load_selection(tmp_path / "selection.json") == found
    (tmp_path / "selection.json").write_text("[]")
    with pytest.raises(RunError, match="does not hold a selection"):
        load_selection(tmp_path / "selection.json")


def test_the_candidates_stand_in_a_table_best_first():
    lines = selection_markdown(select_rows("g", ["fold"], validations())).splitlines()
    assert lines[0] == "| student | row | mean validation Dice | fold 0 | fold 1 | networks |"
    assert lines[2] == "| compact | loss-cwd_scale-E compact | 0.770 | 0.790 | 0.750 | 2 |"
    assert lines[-1] == "* Chosen for compact: **loss-cwd_scale-E compact**."


def test_nothing_to_choose_by_is_refused():
    with pytest.raises(DataError, match="no validation score of a distilled network"):
        select_rows("g", ["fold"], [])
    with pytest.raises(DataError, match="two validation scores for fold 0, seed 0"):
        select_rows("g", ["fold"], [*validations(), validations()[0]])
