"""One process at a time writes into a run folder, and others are told who it is."""

import os
import shutil
import subprocess
import sys
from contextlib import contextmanager

import pytest
from typer.testing import CliRunner

from medstill import cli, pipeline, stages
from medstill.errors import RunError
from medstill.lock import alone
from medstill.refs import TEACHER
from medstill.runs import DRAFT_PREFIX, LOCK_FILE, open_run
from medstill.study import grid_status
from medstill.study.folder import run_folder
from medstill.study.table import write_table

HOLD = """
import sys, time
from pathlib import Path
from medstill.lock import alone
with alone(Path(sys.argv[1])):
    print('mine', flush=True)
    time.sleep(600)
"""


@contextmanager
def held(folder):
    """Another process that computes into a folder; it ends by a kill."""
    command = [sys.executable, "-c", HOLD, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as other:
        try:
            assert other.stdout.readline() == b"mine\n"
            yield other
        finally:
            other.kill()


def contents(folder):
    return {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.name != LOCK_FILE}


COMMANDS = {
    "run": lambda run, tiny: pipeline.run(tiny.study, tiny.data, run),
    "prepare": lambda run, tiny: pipeline.prepare(tiny.study, tiny.data, run),
    "train-teacher": lambda run, _: pipeline.train_teacher(run),
    "distill": lambda run, _: pipeline.distill(run, arms=["control"]),
    "evaluate": lambda run, tiny: pipeline.evaluate(run, tiny.data),
}


@pytest.mark.skipif(sys.platform == "win32", reason="Windows reads no locked file")
def test_every_command_that_writes_is_refused_while_another_process_does(
    tiny, tmp_path, monkeypatch
):
    run = tiny.copy(tmp_path / "run")
    draft = run / "teacher" / f"{DRAFT_PREFIX}of-the-other" / "history.json"
    draft.parent.mkdir(parents=True)
    draft.write_text("half")
    with held(run) as other:
        before = contents(run)
        monkeypatch.setattr(pipeline, "check", None)
        for command in COMMANDS.values():
            with pytest.raises(RunError, match=rf"run' to be free.*\(process {other.pid} on "):
                command(run, tiny)
        assert contents(run) == before
    # It was killed.
    assert pipeline.prepare(tiny.study, tiny.data, run)
    assert pipeline.train_teacher(run)["best_step"]
    assert not draft.exists()


def test_the_command_ends_with_the_message(tiny, tmp_path):
    run = tiny.copy(tmp_path / "run")
    with alone(run):
        result = CliRunner().invoke(cli.app, ["train-teacher", str(run)])
    assert isinstance(result.exception, RunError)
    assert f"(process {os.getpid()} on " in str(result.exception)
    assert not TEACHER.folder(run).exists()


def test_a_lock_makes_no_folder_of_it_and_is_taken_in_none_of_others(tiny, tmp_path):
    with alone(tmp_path / "new"):
        open_run(tmp_path / "new", tiny.study)
    assert (tmp_path / "new" / LOCK_FILE).exists()
    (tmp_path / "letter").mkdir()
    (tmp_path / "letter" / "a.txt").touch()
    with pytest.raises(RunError, match="holds no medstill run"):
        pipeline.prepare(tiny.study, tiny.data, tmp_path / "letter")
    for command in ("train-teacher", "distill", "evaluate"):
        with pytest.raises(RunError, match=r"manifest\.json' cannot be read"):
            COMMANDS[command](tmp_path / "letter", tiny)
    assert [path.name for path in (tmp_path / "letter").iterdir()] == ["a.txt"]


def test_processes_of_one_training_work_beside_the_first(tiny, tmp_path, tiny_with, monkeypatch):
    run = tiny.copy(tmp_path / "run")
    monkeypatch.setattr(stages, "train", lambda *_: {"trained": True})
    monkeypatch.setenv("SLURM_PROCID", "1")
    with alone(run):
        with pytest.raises(RunError, match="to be free"):
            pipeline.train_teacher(run)
        open_run(run, tiny_with(engine={"devices": 2, "strategy": "ddp"}))
        assert pipeline.train_teacher(run) == {"trained": True}
        monkeypatch.setenv("SLURM_PROCID", "0")
        with pytest.raises(RunError, match="to be free"):
            pipeline.train_teacher(run)


@pytest.fixture
def grid(finished_grid, tmp_path):
    """A copy of a finished grid."""
    return shutil.copytree(finished_grid[0], tmp_path / "grid")


def test_a_run_of_a_study_is_not_trained_while_the_study_is(grid, phantom):
    run = run_folder(grid, "fold-0_loss-kl")
    with alone(grid), alone(grid / "shared"):
        with pytest.raises(RunError, match="shared' to be free"):
            pipeline.evaluate(run, phantom)
        assert {one.state for one in grid_status(grid).runs} == {"finished"}
        assert pipeline.report(run).exists()
        assert write_table(grid).rows
        assert pipeline.report(grid).exists()
