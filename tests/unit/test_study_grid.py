"""A study of many runs on a phantom of six patients: what is shared, skipped, kept going."""

import copy
import json
import shutil
import subprocess
import sys

import pytest

from grids import AXES, Inline, run_all, tiny_grid
from medstill import PredictOptions, deploy, pipeline, training
from medstill.errors import ConfigError, DataError, RunError
from medstill.links import follow
from medstill.lock import alone
from medstill.refs import TEACHER, ModelRef
from medstill.runs import is_finished
from medstill.study import GridOptions, expand, grid_status, run_grid
from medstill.study.cleaning import leftovers
from medstill.study.folder import read_grid, run_folder

RATES = {"key": "training.learning_rate", "values": [0.002, 0.003]}
CONTROL, DISTILLED = ModelRef("control", "unet-s1", 0), ModelRef("distilled", "unet-s1", 0)


@pytest.fixture
def grid(tiny_with):
    return lambda axes=None, **more: tiny_grid(tiny_with(), axes, **more)


@pytest.fixture(scope="module")
def finished(finished_grid):
    return finished_grid


def refuse(*_arguments, **_options):
    raise AssertionError("finished work was done again")


def test_every_run_is_finished_and_its_first_ones_come_first(finished):
    _, outcome, done = finished
    names = ["fold-0_loss-none", "fold-0_loss-kl", "fold-1_loss-none", "fold-1_loss-kl"]
    assert list(outcome.finished) == names
    assert outcome.failures == {}
    order = [name.split(" ")[0] for name in done]
    assert order == sorted(order, key=names.index)


def test_what_runs_share_is_trained_once(finished):
    out, _, done = finished
    first, second, other = (
        run_folder(out, name) for name in ("fold-0_loss-none", "fold-0_loss-kl", "fold-1_loss-kl")
    )
    for ref in (TEACHER, CONTROL):
        assert ref.folder(first) == ref.folder(second) != ref.folder(other)
    assert DISTILLED.folder(first) != DISTILLED.folder(second)
    kinds = sorted(path.name.rsplit("-", 1)[0] for path in (out / "shared").glob("*-*"))
    assert kinds == sorted(["prepared", *["gallery", "teacher", "control"] * 2, *["distilled"] * 4])
    assert len(done) == 2 * (2 + 2 + 4) + 4
    assert len(set(done)) == len(done)


def test_a_run_of_a_grid_is_an_ordinary_run_folder(finished, phantom, tmp_path):
    out, *_ = finished
    run = run_folder(out, "fold-1_loss-kl")
    pipeline.evaluate(run, phantom)
    page = pipeline.report(run)
    assert "<html" in page.read_text(encoding="utf-8")
    pipeline.export(run, tmp_path / "student.onnx")
    scan = sorted((phantom / "imagesTr").iterdir())[0]
    results = pipeline.predict(
        run, scan, tmp_path / "mask.nii.gz", options=PredictOptions(threads=1)
    )
    assert [result.error for result in results] == [None]
    assert deploy.load_model(tmp_path / "student.onnx").contract.network.name == "unet-s1"


def test_a_shared_run_ends_as_one_by_itself(finished, grid, phantom, tmp_path, one_thread):
    out, *_ = finished
    point = expand(grid())[3]
    pipeline.run(point.study, phantom, tmp_path / "run")
    mine, alone = run_folder(out, point.name), tmp_path / "run"
    assert (mine / "comparison.json").read_bytes() == (alone / "comparison.json").read_bytes()
    for ref in (TEACHER, CONTROL, DISTILLED):
        folders = [ref.folder(run) for run in (mine, alone)]
        found, expected = (json.loads((f / "stage.json").read_text()) for f in folders)
        assert found == expected


def test_a_repeat_does_nothing_again(finished, grid, phantom, monkeypatch):
    out, *_ = finished
    for name in ("train_teacher", "train_student"):
        monkeypatch.setattr(training, name, refuse)
    monkeypatch.setattr("medstill.study.grid.prepare_cases", refuse)
    outcome, done = run_all(grid(), phantom, out)
    assert done == []
    assert len(outcome.finished) == 4


def test_a_failure_is_kept_and_the_others_go_on(grid, phantom, tmp_path):
    axes = {
        "rate": {"key": "training.learning_rate", "values": [0.001, 0.002]},
        "loss": AXES["loss"],
    }
    many = grid(axes)
    crew, broken = Inline(), []

    def break_one(jobs, on_failure=None):
        for job in jobs:
            if job.name == "rate-0.001_loss-none students/unet-s1/control/seed-0":
                broken.append(job)
                object.__setattr__(job, "function", diverge)
        crew(jobs, on_failure)

    outcome = run_grid(many, phantom, tmp_path, options=GridOptions(workers=1), perform=break_one)
    assert len(broken) == 1
    assert outcome.finished == ("rate-0.002_loss-none", "rate-0.002_loss-kl")
    both = ("rate-0.001_loss-none", "rate-0.001_loss-kl")
    assert set(outcome.failures) == set(both)
    (failure,) = outcome.failures["rate-0.001_loss-kl"]
    assert failure.job == "rate-0.001_loss-none students/unet-s1/control/seed-0"
    assert failure.message == "The loss is not finite."
    assert failure.skipped == (
        "rate-0.001_loss-none students/unet-s1/control/seed-0 scores",
        "rate-0.001_loss-kl comparison",
    )
    found = grid_status(tmp_path)
    assert [run.state for run in found.runs] == ["failed", "failed", "finished", "finished"]
    assert "The loss is not finite." in found.runs[0].message
    assert is_finished(DISTILLED.folder(run_folder(tmp_path, both[0])))

    again, done = run_all(many, phantom, tmp_path)
    assert len(again.finished) == 4
    assert again.failures == {}
    assert done == [
        "rate-0.001_loss-none students/unet-s1/control/seed-0",
        "rate-0.001_loss-none students/unet-s1/control/seed-0 scores",
        "rate-0.001_loss-none comparison",
        "rate-0.001_loss-kl comparison",
    ]


def diverge(*_arguments):
    from medstill.errors import TrainingError

    raise TrainingError("The loss is not finite.")


def test_runs_are_chosen_and_others_wait(grid, phantom, tmp_path):
    outcome, _ = run_all(grid(), phantom, tmp_path, only=("fold=1", "loss=kl"))
    assert outcome.finished == ("fold-1_loss-kl",)
    found = grid_status(tmp_path)
    assert [run.state for run in found.runs] == ["waiting"] * 3 + ["finished"]
    # The other run of fold 1 shares the teacher and the control.
    assert [run.trained for run in found.runs] == [0, 0, 2, 3]
    assert (len(found.trainings), found.count("finished")) == (2 * 4, 3)


def test_a_network_is_told_to_be_shared_before_it_is_trained(finished):
    out = finished[0]
    listed = [
        (key, follow(run_folder(out, run.name) / name))
        for run in read_grid(out).runs
        for name, key in zip(run.networks, run.keys, strict=True)
    ]
    assert len(listed) == 4 * 3
    assert len({key for key, _ in listed}) == len(set(listed)) == 8


def test_another_study_in_the_same_folder_is_refused(finished, grid, phantom, tmp_path):
    out, *_ = finished
    with pytest.raises(RunError, match="holds the study 'tiny-grid', not 'other'"):
        run_all(grid(name="other"), phantom, out)
    changed = grid()
    changed.base["label_fraction"] = 1.0
    with pytest.raises(RunError, match=r"fold-0_loss-none' belongs to another study: .*fraction"):
        run_all(changed, phantom, out)
    (tmp_path / "letter.txt").touch()
    with pytest.raises(RunError, match="is not empty and holds no study of many runs"):
        run_all(grid(), phantom, tmp_path)
    with pytest.raises(RunError, match=r"'grid\.json' is missing\. Give the folder"):
        grid_status(tmp_path)


def test_runs_can_be_added(finished, grid, phantom, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(finished[0], out)
    more = copy.deepcopy(AXES)
    more["loss"]["points"]["cwd"] = {"distillation.maps": [{"loss": "cwd"}]}
    _, done = run_all(grid(more), phantom, out, only=("fold=0",))
    assert done == [
        "fold-0_loss-cwd students/unet-s1/distilled/seed-0",
        "fold-0_loss-cwd students/unet-s1/distilled/seed-0 scores",
        "fold-0_loss-cwd comparison",
    ]


def test_a_wrong_run_is_told_before_any_work(grid, phantom, tmp_path):
    axes = {"size": {"key": "data.patch_size", "values": [[48, 48], [50, 48]]}}
    with pytest.raises(ConfigError, match=r"Run 'size-50-48': data\.patch_size is \[50, 48\]"):
        run_all(grid(axes), phantom, tmp_path / "out")
    axes = {"validation": {"key": "split.validation", "values": [1, 9]}}
    with pytest.raises(DataError, match=r"Run 'validation-9': "):
        run_all(grid(axes), phantom, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_when_no_run_can_be_prepared_the_reason_is_raised(grid, phantom, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(phantom, data)
    (sorted((data / "imagesTr").iterdir())[0]).write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"is truncated or damaged"):
        run_all(grid(), data, tmp_path / "out")
    assert {run.state for run in grid_status(tmp_path / "out").runs} == {"failed"}


def test_the_folder_can_be_moved(finished, tmp_path):
    shutil.copytree(finished[0], tmp_path / "moved")
    run = run_folder(tmp_path / "moved", "fold-0_loss-kl")
    assert follow(run / "teacher").is_relative_to(tmp_path / "moved")
    assert [one.state for one in grid_status(tmp_path / "moved").runs] == ["finished"] * 4


def test_two_studies_share_their_networks(grid, phantom, tmp_path, monkeypatch):
    shared = tmp_path / "shared"
    losses = {"loss": AXES["loss"]}
    _, first = run_all(grid(losses), phantom, tmp_path / "one", shared=shared)
    assert any("students/" in name for name in first)
    monkeypatch.setattr(training, "train_teacher", refuse)
    other = {"loss": {"points": {"kl": AXES["loss"]["points"]["kl"]}}, "rate": RATES}
    outcome, second = run_all(grid(other, name="other"), phantom, tmp_path / "two", shared=shared)
    assert outcome.failures == {}
    assert not [name for name in second if name.endswith("teacher")]
    runs = [
        run_folder(tmp_path / "one", "loss-kl"),
        *(run_folder(tmp_path / "two", f"loss-kl_rate-{rate}") for rate in RATES["values"]),
    ]
    assert {TEACHER.folder(run).parent for run in runs} == {shared}
    assert DISTILLED.folder(runs[0]) == DISTILLED.folder(runs[1]) != DISTILLED.folder(runs[2])
    assert json.loads((shared / "users.json").read_text()) == ["../one", "../two"]
    taken = {entry.path for entry in leftovers(tmp_path / "one")}
    assert taken
    assert {path.name for path in taken} == {"last.ckpt", "predictions"}


def test_a_shared_folder_is_used_by_one_study_at_a_time(grid, phantom, tmp_path):
    shared = tmp_path / "shared"
    with alone(shared), pytest.raises(RunError, match="shared' to be free, but another process"):
        run_all(grid(), phantom, tmp_path / "one", shared=shared)


def test_a_folder_is_computed_into_by_one_process_at_a_time(finished, grid, phantom):
    out, *_ = finished
    with alone(out), pytest.raises(RunError, match="to be free, but another process computes"):
        run_all(grid(), phantom, out)
    assert len(run_all(grid(), phantom, out)[0].finished) == 4


@pytest.mark.skipif(sys.platform == "win32", reason="Windows knows no SIGKILL")
def test_a_killed_process_frees_its_folder_at_once(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from medstill.lock import alone\n"
        "with alone(Path(sys.argv[1])): print('mine', flush=True); time.sleep(600)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as other:
        try:
            assert other.stdout.readline() == b"mine\n"
            with pytest.raises(RunError, match="to be free"), alone(tmp_path):
                raise AssertionError("two were let in")
        finally:
            other.kill()
    with alone(tmp_path):
        pass


def test_a_study_with_networks_of_its_own_does_not_share_them_later(finished, grid, phantom):
    out, *_ = finished
    with pytest.raises(RunError, match="Expected no folder"):
        run_all(grid(), phantom, out, shared=out.parent / "elsewhere")
