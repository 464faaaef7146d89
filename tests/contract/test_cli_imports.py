"""The command line: quick to start, helpful, and with the exit codes that scripts rely on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
import typer.main
from typer.testing import CliRunner

from medstill import cli

HEAVY = ("torch", "monai", "pytorch_lightning", "scipy", "matplotlib", "jinja2", "onnx")
GROUP = typer.main.get_command(cli.app)
COMMANDS = sorted(GROUP.commands)
PATIENCE_S = 60.0


def python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "statement",
    [
        "import medstill",
        "import medstill.cli",
        "import medstill.pipeline",
        "import medstill.study.runner",
        "import medstill.study.grid",
        "from medstill.study.status import grid_status",
        "from medstill import prepare, run, train_teacher, distill, evaluate, predict, report",
    ],
)
def test_nothing_heavy_is_imported(statement):
    done = python(f"{statement}\nimport sys\nprint(*sorted(sys.modules))")
    assert done.returncode == 0, done.stderr
    modules = set(done.stdout.split())
    assert "medstill" in modules
    assert sorted(modules.intersection(HEAVY)) == []


def test_help_imports_nothing_that_it_does_not_need():
    done = python(
        "import sys\nfrom medstill.cli import main\nsys.argv = ['medstill', '--help']\n"
        "try:\n    main()\nfinally:\n    sys.stderr.write(' '.join(sys.modules))"
    )
    assert done.returncode == 0
    assert "Distil a large medical image segmentation network" in done.stdout
    modules = set(done.stderr.split())
    assert "typer" in modules
    assert sorted(modules.intersection((*HEAVY, "numpy", "SimpleITK", "onnxruntime"))) == []


def test_every_stage_has_a_command():
    stages = {"run", "prepare", "train-teacher", "distill", "evaluate", "export", "report"}
    others = {"inspect", "predict", "benchmark", "serve", "networks", "phantom", "info", "study"}
    assert stages | others == set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command):
    result = CliRunner().invoke(cli.app, [command, "--help"])
    assert result.exit_code == 0
    assert f"medstill {command}" in result.output or f" {command} " in result.output


@pytest.mark.parametrize("command", sorted(GROUP.commands["study"].commands))
def test_every_command_of_studies_has_help(command):
    result = CliRunner().invoke(cli.app, ["study", command, "--help"])
    assert result.exit_code == 0
    assert f" study {command} " in result.output


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["no-such-command"], "no-such-command"),
        (["run"], "STUDY.yaml"),
        (["run", "study.yaml"], "--data"),
        (["prepare", "study.yaml", "--data", "x"], "--out"),
        (["run", "study.yaml", "--data", "x", "--out", "y", "--no-such-option"], "--no-such"),
        (["predict", "model.onnx", "in"], "OUTPUT"),
        (["predict", "model.onnx", "in", "out", "--overlap", "1.5"], "--overlap"),
        (["phantom", "out", "--patients", "0"], "--patients"),
        (["networks", "--dims", "4"], "--dims"),
        (["export", "run"], "--output"),
        (["serve", "model.onnx"], "--config"),
    ],
)
def test_wrong_usage_ends_with_two_and_says_where(arguments, told):
    result = CliRunner().invoke(cli.app, arguments)
    assert result.exit_code == 2
    assert told in result.output


def test_the_version_is_told():
    result = CliRunner().invoke(cli.app, ["--version"])
    assert result.exit_code == 0
    assert result.output.startswith("medstill ")


ENDINGS = [
    (getattr(signal, name), code)
    for name, code in (("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129))
    if hasattr(signal, name)
]


@pytest.fixture
def _own_handler():
    before = {sent: signal.getsignal(sent) for sent, _ in ENDINGS}
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests themselves may run under nohup
    yield
    for sent, handler in before.items():
        signal.signal(sent, handler)


@pytest.mark.usefixtures("_own_handler")
@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows knows no SIGHUP")
def test_a_lost_terminal_ends_nothing_that_nohup_started(monkeypatch):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    monkeypatch.setattr(sys, "argv", ["medstill", "--version"])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert (caught.value.code, signal.getsignal(signal.SIGHUP)) == (0, signal.SIG_IGN)


@pytest.mark.usefixtures("_own_handler")
@pytest.mark.parametrize(("sent", "code"), ENDINGS)
def test_an_interrupt_says_how_to_go_on(monkeypatch, capsys, sent, code):
    def interrupt(*_, **__):
        signal.raise_signal(sent)

    monkeypatch.setattr("medstill.volumes.inspect.inspect", interrupt)
    monkeypatch.setattr(sys, "argv", ["medstill", "inspect", "."])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == code
    assert capsys.readouterr().err == INTERRUPTED


INTERRUPTED = "Interrupted. What was finished is kept; repeat the command to go on from there.\n"
SLOWLY = """
import time
from medstill.cli import main
from medstill.volumes import prepare
at_once = prepare.prepare_case
def in_time(job):
    found = at_once(job)
    time.sleep(0.2)
    return found
prepare.prepare_case = in_time
main()
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for one process")
def test_ctrl_c_while_cases_are_prepared_leaves_a_state_to_go_on_from(tmp_path, phantom):
    study, out = tmp_path / "study.yaml", tmp_path / "run"
    study.write_text("name: one\ndata: {patch_size: [48, 48]}\nengine: {workers: 1}\n")
    arguments = ["prepare", str(study), "--data", str(phantom), "--out", str(out)]
    running = subprocess.Popen(
        [sys.executable, "-c", SLOWLY, *arguments], stderr=subprocess.PIPE, text=True
    )
    end = time.monotonic() + PATIENCE_S
    while not list(out.glob("prepared/cases/*/case.json")):
        assert time.monotonic() < end, "no case was prepared"
        time.sleep(0.01)
    running.send_signal(signal.SIGINT)
    _, stderr = running.communicate(timeout=PATIENCE_S)
    assert (running.returncode, stderr) == (130, INTERRUPTED)
    assert list(out.rglob(".partial-*")) == []
    assert not (out / "split.json").exists()
    (first, *_) = out.glob("prepared/cases/*/case.json")
    written = first.stat().st_mtime_ns
    assert CliRunner().invoke(cli.app, arguments).exit_code == 0
    assert (out / "split.json").exists()
    assert first.stat().st_mtime_ns == written
