"""What a grid leaves: its table, and what can be deleted from it."""

import json
import shutil

import pytest
from rich.console import Console
from typer.testing import CliRunner

from grids import run_all, tiny_grid
from medstill import cli, pipeline, scoring, stages
from medstill.errors import RunError
from medstill.evaluation.arms import FILTERED
from medstill.refs import TEACHER, ModelRef
from medstill.study.cleaning import clean, leftovers
from medstill.study.folder import Failure, add_failure, run_folder
from medstill.study.status import ALIVE_FILE
from medstill.study.table import write_table
from medstill.terminal_study import show_rows

DISTILLED = ModelRef("distilled", "unet-s1", 0)


@pytest.fixture
def out(finished_grid, tmp_path):
    return shutil.copytree(finished_grid[0], tmp_path / "out")


def test_the_table_holds_every_row_with_the_patients_of_both_folds(out):
    summary = write_table(out)
    content = json.loads((out / "table.json").read_text(encoding="utf-8"))
    assert [row["name"] for row in content["rows"]] == ["loss-none unet-s1", "loss-kl unet-s1"]
    assert list(content["axes"].items()) == [("fold", ["0", "1"]), ("loss", ["none", "kl"])]
    assert content["pooled"] == ["fold"]
    assert (content["missing"], content["failures"]) == ([], {})
    assert set(content["facts"]) == {"unet-t1", "unet-s1"}
    for row in summary.rows:
        arms = {model.arm: model for model in row.models}
        assert set(arms) == {"teacher", "control", "distilled", *FILTERED.values()}
        assert {model.n_patients for model in arms.values()} == {6}
    text = (out / "table.md").read_text(encoding="utf-8")
    assert text.startswith("# tiny-grid\n\n")
    assert "57," in text


def test_rows_are_compared_as_the_grid_file_says(out):
    content = json.loads((out / "grid.json").read_text(encoding="utf-8"))
    content["grid"]["against"] = {"loss": "none"}
    (out / "grid.json").write_text(json.dumps(content))
    between = [g for g in write_table(out).gains if g.control_row != g.row]
    assert {(g.row, g.control_row) for g in between} == {("loss-kl unet-s1", "loss-none unet-s1")}


def test_the_page_of_a_study_shows_its_table(out):
    write_table(out)
    page = pipeline.report(out).read_text(encoding="utf-8")
    assert "tiny-grid" in page
    assert "loss kl · " in page


def test_a_pooled_value_is_that_of_the_runs(out):
    (row, _) = write_table(out).rows
    distilled = next(model for model in row.models if model.arm == "distilled")
    expected = {}
    for fold in (0, 1):
        run = run_folder(out, f"fold-{fold}_loss-none")
        opened = stages.open_prepared(run)
        (entry, filtered) = scoring.entries(opened, DISTILLED)
        assert (entry.arm, filtered.arm) == ("distilled", FILTERED["distilled"])
        expected |= entry.scores.per_patient_mean("dice")
    assert distilled.patients["dice"] == expected
    assert len(expected) == 6


def test_an_unfinished_grid_has_a_table_that_says_what_is_missing(tiny_with, phantom, tmp_path):
    out = tmp_path / "out"
    run_all(tiny_grid(tiny_with()), phantom, out, only=("fold=0", "loss=kl"))
    add_failure(run_folder(out, "fold-1_loss-kl"), Failure(job="teacher", message="It broke."))
    summary = write_table(out)
    assert [row.name for row in summary.rows] == ["loss-kl unet-s1"]
    assert summary.missing == ("fold-0_loss-none", "fold-1_loss-none", "fold-1_loss-kl")
    content = json.loads((out / "table.json").read_text(encoding="utf-8"))
    assert content["failures"] == {"fold-1_loss-kl": "It broke."}
    done = CliRunner().invoke(cli.app, ["study", "table", str(out)])
    assert done.exit_code == 0
    assert "3 not scored yet: fold-0_loss-none, fold-1_loss-none, fold-1_loss-kl." in done.output
    done = CliRunner().invoke(cli.app, ["study", "status", str(out)])
    assert "fold-1_loss-kl failed: teacher: It broke." in done.output
    many = summary.model_copy(update={"missing": tuple(f"run-{number}" for number in range(12))})
    console = Console(record=True, width=200)
    show_rows(console, many)
    text = console.export_text()
    assert "12 not scored yet: run-0, " in text
    assert "run-9 and 2 more." in text


def test_a_table_of_nothing_is_refused(tiny_with, phantom, tmp_path):
    out = tmp_path / "out"
    run_all(tiny_grid(tiny_with()), phantom, out, only=("fold=0", "loss=kl"))
    shutil.rmtree(out / "shared")
    with pytest.raises(RunError, match=r"None of the 4 runs .* is scored yet\. 'medstill study st"):
        write_table(out)


def test_facts_that_differ_between_rows_stand_under_the_row(tiny_with, phantom, tmp_path):
    axes = {"width": {"key": "students.0.width", "values": [1.0, 0.5]}}
    run_all(tiny_grid(tiny_with(), axes), phantom, tmp_path / "out")
    write_table(tmp_path / "out")
    facts = json.loads((tmp_path / "out" / "table.json").read_text(encoding="utf-8"))["facts"]
    assert set(facts) == {"unet-t1", "width-1.0 unet-s1: unet-s1", "width-0.5 unet-s1: unet-s1"}
    wide, narrow = (facts[f"width-{w} unet-s1: unet-s1"]["parameters"] for w in ("1.0", "0.5"))
    assert wide > 3 * narrow
    text = (tmp_path / "out" / "table.md").read_text(encoding="utf-8")
    assert f"{wide:,}" in text
    assert f"{narrow:,}" in text


def kept(out):
    return {
        path.relative_to(out): path.read_bytes()
        for name in ("scores*.json", "history.json", "comparison.json", "stage.json")
        for path in out.rglob(name)
    }


def test_cleaning_deletes_what_can_be_computed_again_and_no_score(out, phantom, tiny_with):
    write_table(out)
    table, scores = (out / "table.json").read_bytes(), kept(out)
    found = leftovers(out)
    names = sorted({entry.path.name for entry in found})
    assert names == ["best.ckpt", "cases", "last.ckpt", "predictions"]
    assert all(entry.size_bytes > 0 for entry in found)
    clean(out, found)
    assert not any(entry.path.exists() for entry in found)
    assert leftovers(out) == ()
    assert kept(out) == scores
    assert len(list(out.rglob("best.ckpt"))) == 2
    write_table(out)
    assert (out / "table.json").read_bytes() == table
    pipeline.report(run_folder(out, "fold-0_loss-kl"))
    _, done = run_all(tiny_grid(tiny_with()), phantom, out)
    assert done == []


def test_a_cleaned_student_whose_folder_is_deleted_comes_back(out, phantom, tiny_with, tmp_path):
    run = run_folder(out, "fold-0_loss-kl")
    stage = (DISTILLED.folder(run) / "stage.json").read_bytes()
    clean(out, leftovers(out))
    with pytest.raises(RunError, match=r"no prepared cases .*cleaned away, delete the folder"):
        stages.load_network(stages.open_prepared(run), DISTILLED)
    shutil.rmtree(DISTILLED.folder(run))
    _, done = run_all(tiny_grid(tiny_with()), phantom, out)
    assert len(done) == 3
    assert (DISTILLED.folder(run) / "stage.json").read_bytes() == stage
    pipeline.export(run, tmp_path / "student.onnx")


def test_runs_can_be_added_to_a_cleaned_grid(out, phantom, tiny_with):
    import copy

    from grids import AXES

    clean(out, leftovers(out))
    more = copy.deepcopy(AXES)
    more["loss"]["points"]["cwd"] = {"distillation.maps": [{"loss": "cwd"}]}
    outcome, done = run_all(tiny_grid(tiny_with(), more), phantom, out, only=("fold=0",))
    assert len(outcome.finished) == 3
    assert len(done) == 3


def test_what_no_run_uses_goes_but_for_its_scores(out, phantom, tiny_with):
    axes = {"fold": {"key": "split.fold", "values": [0]}, "loss": AXES_LOSS}
    run_all(tiny_grid(tiny_with(), axes), phantom, out)
    other = run_folder(out, "fold-1_loss-kl")
    lost = TEACHER.folder(other)
    (out / "shared" / "control-0123456789abcdef").mkdir()
    scores = kept(out)
    found = {entry.path for entry in leftovers(out)}
    assert lost / "best.ckpt" in found
    assert out / "shared" / "control-0123456789abcdef" in found
    assert TEACHER.folder(run_folder(out, "fold-0_loss-kl")) / "best.ckpt" not in found
    clean(out, leftovers(out))
    assert kept(out) == scores


AXES_LOSS = {"points": {"kl": {"distillation.maps": [{"loss": "kl"}]}}}


def test_cleaning_asks_and_keeps_away_from_what_runs(out):
    size = sum(entry.size_bytes for entry in leftovers(out)) / 1e6
    asked = CliRunner().invoke(cli.app, ["study", "clean", str(out)], input="n\n")
    assert f"{size:.1f} MB in '" in asked.output
    assert "Delete them?" in asked.output
    assert leftovers(out)
    (out / ALIVE_FILE).touch()
    with pytest.raises(RunError, match=r"is being computed at present\. Clean it when"):
        leftovers(out)
    (out / ALIVE_FILE).unlink()
    assert CliRunner().invoke(cli.app, ["study", "clean", str(out), "--yes"]).exit_code == 0
    assert leftovers(out) == ()
