"""JSON of a run folder that is whole, but not what should stand there."""

import shutil

import pytest

from medstill.errors import RunError
from medstill.refs import TEACHER, ModelRef
from medstill.runs import Stage, is_finished, read_study
from medstill.study import grid_status
from medstill.study.cleaning import leftovers
from medstill.study.folder import run_folder
from medstill.study.live import PROGRESS_FILE, read_report
from medstill.study.status import alive, view
from medstill.study.table import write_table
from medstill.training.boundary import Best, result_of

CONTENTS = ["null", "[]", "3", "[3]", '"text"']


@pytest.fixture
def out(finished_grid, tmp_path):
    """A copy of a finished grid."""
    return shutil.copytree(finished_grid[0], tmp_path / "out")


@pytest.fixture
def teacher(out):
    return TEACHER.folder(run_folder(out, "fold-0_loss-kl"))


@pytest.mark.parametrize("text", [*CONTENTS, "{}", '{"result": []}'])
@pytest.mark.parametrize("look", [grid_status, leftovers, write_table])
def test_a_damaged_stage_is_told(out, teacher, look, text):
    (teacher / "stage.json").write_text(text)
    with pytest.raises(RunError, match=r"teacher-.*stage\.json' is damaged .* Delete its folder"):
        look(out)


@pytest.mark.parametrize("text", CONTENTS)
def test_no_function_of_a_stage_takes_another_for_one(tmp_path, text):
    (tmp_path / "stage.json").write_text(text)
    stage = Stage(tmp_path, {"a": 1})
    for call in (stage.finished, stage.begin, stage.result, lambda: is_finished(tmp_path)):
        with pytest.raises(RunError, match=r"stage\.json' is damaged"):
            call()


@pytest.mark.parametrize("text", [*CONTENTS, "{}", "[{}]", '[{"steps_per_s": null, "step": 1}]'])
def test_a_damaged_history_leaves_the_pace_unknown(out, teacher, text):
    (teacher / "history.json").write_text(text)
    found = grid_status(out).trainings[teacher]
    assert (found.state, found.duration_s) == ("finished", None)


@pytest.mark.parametrize("text", [*CONTENTS, "{}", "[{}]"])
def test_a_damaged_history_ends_no_training_as_if_it_were_whole(tmp_path, text):
    (tmp_path / "history.json").write_text(text)
    with pytest.raises(RunError, match=r"history\.json' (is damaged|should hold)"):
        result_of(tmp_path, Best(step=4, dice=0.5))


@pytest.mark.parametrize("text", [*CONTENTS, "{}", '{"step": "4", "steps": 4, "steps_per_s": 1}'])
def test_a_damaged_report_is_taken_for_none(out, text):
    student = ModelRef("distilled", "unet-s1", 0).folder(run_folder(out, "fold-0_loss-kl"))
    (student / "stage.json").unlink()
    (student / PROGRESS_FILE).write_text(text)
    with alive(out):
        assert grid_status(out).trainings[student].state == "waiting"
        assert view(out).bars == {}
    with pytest.raises(RunError, match=r"progress\.json' is damaged: expected step, steps"):
        read_report(student / PROGRESS_FILE)


@pytest.mark.parametrize("name", ["manifest.json", "failure.json"])
@pytest.mark.parametrize("text", ["null", "3", "[3]"])
def test_other_damaged_files_of_a_run_are_told(out, name, text):
    (run_folder(out, "fold-0_loss-kl") / name).write_text(text)
    with pytest.raises(RunError, match=rf"{name}' is damaged"):
        grid_status(out)


def test_a_manifest_without_a_study_is_told(tmp_path):
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(RunError, match=r"manifest\.json' is damaged .*expected an object with a"):
        read_study(tmp_path)
