"""The live view of trainings in other processes."""

import io
import shutil
import time

import pytest
from rich.console import Console

from medstill.runs import write_json
from medstill.study import live, watch


def console(*, terminal):
    return Console(file=io.StringIO(), force_terminal=terminal, width=120, height=20)


def report(folder, step=25, steps=100, rate=0.5):
    write_json(folder / "progress.json", {"step": step, "steps": steps, "steps_per_s": rate})


def shown(screen):
    return screen.file.getvalue()


def until(condition):
    end = time.monotonic() + 20.0
    while not condition():
        assert time.monotonic() < end, "nothing was shown in 20 s"
        time.sleep(0.01)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(live, "INTERVAL_S", 0.01)


def test_a_file_gets_a_line_for_each_training_now_and_then(tmp_path, monkeypatch):
    report(tmp_path / "teacher")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "progress.json").write_text("{")
    screen = console(terminal=False)
    with watch(tmp_path, screen):
        pass
    assert shown(screen) == "", "a short command says nothing"
    monkeypatch.setattr(live, "LINES_S", 0.01)
    with watch(tmp_path, screen):
        until(lambda: shown(screen).count("\n") > 1)
    lines = set(shown(screen).splitlines())
    assert lines == {"teacher: step 25 of 100, 0.50 steps/s, 2:30 left"}


def test_a_file_gets_the_whole_study_too(tmp_path, monkeypatch):
    monkeypatch.setattr(live, "LINES_S", 0.01)
    screen = console(terminal=False)
    view = live.View({}, live.Headline("smoke", done=3, total=24, running=1, left_s=61.0))
    with watch(tmp_path, screen, lambda: view):
        until(lambda: shown(screen))
    assert shown(screen).splitlines()[0] == "smoke: 3 of 24 trainings, 1:01 left"


def test_a_training_gets_a_bar_with_rate_and_time_left(tmp_path):
    report(tmp_path / "students" / "compact")
    screen = console(terminal=True)
    with watch(tmp_path, screen):
        until(lambda: "students/compact" in shown(screen))
    text = shown(screen)
    assert "25/100" in text
    assert "0.50 steps/s" in text
    assert "2:30 left" in text


def test_folders_that_do_not_exist_yet_are_waited_for(tmp_path):
    screen = console(terminal=True)
    with watch(tmp_path / "run", screen):
        report(tmp_path / "run" / "teacher", rate=0.0)
        until(lambda: "teacher" in shown(screen))
    assert "teacher" in shown(screen)


def test_a_bar_goes_with_its_training_and_damage_is_overlooked(tmp_path):
    report(tmp_path / "teacher")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "progress.json").write_text("{")
    screen = console(terminal=True)
    with watch(tmp_path, screen):
        until(lambda: "teacher" in shown(screen))
        shutil.rmtree(tmp_path / "teacher")
        report(tmp_path / "next")
        until(lambda: "next" in shown(screen))
        last = len(shown(screen))
        until(lambda: "next" in shown(screen)[last:])
    assert "teacher" not in shown(screen)[last:]
    assert "other" not in shown(screen)


def test_drafts_are_no_trainings(tmp_path):
    report(tmp_path / "teacher" / ".partial-x")
    report(tmp_path / "teacher")
    screen = console(terminal=True)
    with watch(tmp_path, screen):
        until(lambda: "teacher" in shown(screen))
    assert ".partial" not in shown(screen)


def test_a_tree_that_changes_under_the_walk_is_walked_again(tmp_path, monkeypatch):
    report(tmp_path / "teacher")
    calls = []
    walk = type(tmp_path).rglob

    def vanish(path, pattern):
        calls.append(pattern)
        if len(calls) == 1:
            raise FileNotFoundError(".partial-x")
        return walk(path, pattern)

    monkeypatch.setattr(type(tmp_path), "rglob", vanish)
    screen = console(terminal=True)
    with watch(tmp_path, screen):
        until(lambda: "teacher" in shown(screen))
    assert len(calls) > 1


def test_the_view_ends_with_an_error_in_the_block(tmp_path):
    def fail():
        with watch(tmp_path, console(terminal=True)):
            raise ValueError("inside")

    with pytest.raises(ValueError, match="inside"):
        fail()
