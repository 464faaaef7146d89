"""The recipe of a grid is chosen by validation patients; test patients only judge the choice."""

import json
import shutil

import pytest
from typer.testing import CliRunner

from medstill import cli
from medstill.errors import DataError, RunError
from medstill.evaluation.arms import FILTERED
from medstill.evaluation.selection import load_selection
from medstill.links import follow
from medstill.refs import ModelRef
from medstill.study import choosing
from medstill.study.choosing import choose, judge
from medstill.study.folder import run_folder

DISTILLED = ModelRef("distilled", "unet-s1", 0)
SCORES = {
    "fold-0_loss-none": 0.6,
    "fold-1_loss-none": 0.5,
    "fold-0_loss-kl": 0.4,
    "fold-1_loss-kl": 0.9,
}


@pytest.fixture
def out(finished_grid, tmp_path):
    root = shutil.copytree(finished_grid[0], tmp_path / "out")
    for name, dice in SCORES.items():
        path = DISTILLED.folder(run_folder(root, name)) / "stage.json"
        content = json.loads(path.read_text(encoding="utf-8"))
        content["result"]["best_dice"] = dice
        path.write_text(json.dumps(content), encoding="utf-8")
    return root


def test_validation_scores_decide_and_no_test_score_is_read(out, monkeypatch):
    for path in out.glob("shared/*/test/*scores*.json"):
        path.unlink()
    selection = choose(out)
    (choice,) = selection.choices
    assert choice.row == "loss-kl unet-s1"
    assert choice.by_fold == {"fold 0": "loss-none unet-s1", "fold 1": "loss-kl unet-s1"}
    assert [round(one.mean, 3) for one in selection.candidates] == [0.65, 0.55]
    assert load_selection(out / "selection.json") == selection
    assert "Chosen for unet-s1: **loss-kl unet-s1**" in (out / "selection.md").read_text()
    with pytest.raises(RunError):
        judge(out, selection)


def test_the_choice_is_judged_by_the_test_patients_of_each_fold(out):
    summary = judge(out, choose(out))
    (row,) = summary.rows
    models = {model.arm: model for model in row.models}
    assert set(models) == {"control", "distilled", *FILTERED.values()}
    expected = {}
    for name in ("fold-0_loss-none", "fold-1_loss-kl"):
        comparison = json.loads((run_folder(out, name) / "comparison.json").read_text())
        (model,) = (one for one in comparison["models"] if one["arm"] == "distilled")
        expected.update(model["patients"]["dice"])
    assert models["distilled"].patients["dice"] == pytest.approx(expected)


def test_a_row_without_a_fold_is_listed_but_not_chosen(out):
    shutil.rmtree(follow(run_folder(out, "fold-0_loss-kl") / DISTILLED.name))
    selection = choose(out)
    assert [one.lacking for one in selection.candidates] == [("fold 0, seed 0",), ()]
    assert [choice.row for choice in selection.choices] == ["loss-none unet-s1"]


def test_nothing_trained_is_told(out, monkeypatch):
    monkeypatch.setattr(choosing, "is_finished", lambda _: False)
    with pytest.raises(DataError, match="Train the grid first"):
        choose(out)


@pytest.mark.parametrize("options", [(), ("--test",)])
def test_the_command_prints_the_choice(out, options):
    answer = CliRunner().invoke(cli.app, ["study", "select", str(out), *options])
    assert answer.exit_code == 0, answer.output
    assert "Chosen for unet-s1: loss-kl unet-s1." in answer.output
    assert ("recipe-chosen" in answer.output) is bool(options)
