"""What bad data get: the file, what was expected and found, what to do; exit code 2, no traces."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from bad_data import (
    SHAPE_ZYX,
    STUDY,
    Answer,
    assert_nothing_half_written,
    assert_refused,
    each_bad_case,
    truncated,
    write,
)


def test_the_good_data_set_is_prepared(world, medstill):
    answer = medstill(*world.command("prepare"))
    assert (answer.code, answer.err) == (0, "")
    assert "6 cases prepared" in answer.out
    assert "left out" not in answer.out
    assert_nothing_half_written(world.out, "prepared/index.json", "split.json")


@each_bad_case
def test_prepare_refuses_a_bad_case(world, medstill, damage, words):
    path = damage(world)
    assert_refused(medstill(*world.command("prepare")), path, *words)
    assert_nothing_half_written(world.out)


@each_bad_case
def test_prepare_leaves_a_bad_case_out_and_lists_it(world, medstill, damage, words):
    path = damage(world)
    options = ("--skip-bad", "--set", "split.train=2")
    answer = medstill(*world.command("prepare", *options))
    assert answer.code == 0, answer
    told = " ".join(answer.out.split())
    assert "5 cases prepared" in told
    assert "1 left out:" in told
    (entry,) = json.loads((world.out / "prepared" / "skipped.json").read_text())
    for text in (told, entry["reason"]):
        assert [word for word in (str(path), *words) if word not in text] == []
    assert not (world.out / "prepared" / "cases" / "case_2").exists()
    assert_nothing_half_written(world.out, "prepared/index.json", "split.json")


@each_bad_case
def test_inspect_lists_a_bad_case(world, medstill, monkeypatch, damage, words):
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    path = damage(world)
    answer = medstill("inspect", world.data)
    assert answer.code == 2, answer
    told = " ".join(answer.out.split())
    assert [word for word in (str(path), *words) if word not in told] == [], told
    assert "1 problem(s) found" in told


def test_bad_cases_of_worker_processes_and_of_the_layout_are_listed_together(world, medstill):
    broken, missing = truncated(world), world.label(4)
    missing.unlink()
    options = ("--skip-bad", "--set", "split.train=1", "--set", "engine.workers=2")
    answer = medstill(*world.command("prepare", *options))
    assert answer.code == 0, answer
    assert "2 left out:" in answer.out
    reasons = {
        entry["id"]: entry["reason"]
        for entry in json.loads((world.out / "prepared" / "skipped.json").read_text())
    }
    assert str(broken) in reasons["case_2"]
    assert str(missing) in reasons["layout"]


def two_of_one_name(world):
    world.describe([0, 1, 2, 3, 4, 5, 2])
    return "case_2"


def no_data(world):
    (world.data / "dataset.json").unlink()
    (world.data / "imagesTr").rename(world.data / "somewhere")
    return world.data


def no_folder(world):
    world.data.rename(world.folder / "moved")
    return world.data


def no_json(world):
    (world.data / "dataset.json").write_text('{"training": [')
    return world.data / "dataset.json"


def overlapping_regions(world):
    path = world.data / "dataset.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "labels": {"background": 0, "whole": [1, 2]}}))
    return path


def nothing_labelled(world):
    for case in range(6):
        write(world.label(case), np.zeros(SHAPE_ZYX, np.uint8))
    return "spleen"


BAD_SETS = {
    two_of_one_name: ("case_2", "one"),
    no_data: ("of no known layout: expected one of", "found", "Arrange the files"),
    no_folder: ("does not exist: expected a data set. Check the path",),
    no_json: ("cannot be read: expected JSON, found", "Correct the file"),
    overlapping_regions: ("overlapping regions (whole)", "expected one value per label", "Declare"),
    nothing_labelled: ("found", "xpected"),
}


@pytest.mark.parametrize(
    ("damage", "words"), BAD_SETS.items(), ids=[damage.__name__ for damage in BAD_SETS]
)
def test_prepare_refuses_a_bad_data_set(world, medstill, damage, words):
    place = damage(world)
    assert_refused(medstill(*world.command("prepare")), place, *words)
    assert_nothing_half_written(world.out)


def test_one_patient_is_too_few(world, medstill):
    world.describe([3])
    answer = medstill(*world.command("prepare"))
    assert_refused(answer, "Expected at least 3 patients", "found 1 (case_3)", "Add cases")
    assert_nothing_half_written(world.out, "prepared/index.json")


def test_several_scans_of_one_patient_are_too_few(world, medstill):
    rows = "".join(f"case_{case},anna\n" for case in range(6))
    (world.data / "patients.csv").write_text("case,patient\n" + rows)
    answer = medstill(*world.command("prepare"))
    assert_refused(answer, "Expected at least 3 patients", "found 1 (")


def test_more_patients_asked_for_than_there_are(world, medstill):
    answer = medstill(*world.command("prepare", "--set", "split.train=30"))
    assert_refused(answer, "asks for 30 patients", "but 3 are left", "Ask for fewer in split.train")
    assert_nothing_half_written(world.out, "prepared/index.json")


def test_students_need_some_foreground(world, medstill):
    answer = medstill(*world.command("prepare"))
    assert answer.code == 0
    chosen = json.loads((world.out / "split.json").read_text())["student"]
    for name in chosen:
        write(world.label(name.removeprefix("case_")), np.zeros(SHAPE_ZYX, np.uint8))
    out = world.folder / "again"
    words = [word.replace(str(world.out), str(out)) for word in world.command("prepare")]
    assert_refused(medstill(*words), "the students' training cases", "spleen")
    assert_nothing_half_written(out, "prepared/index.json")


def installed(*words):
    script = Path(sys.executable).with_name("medstill")
    done = subprocess.run([script, *words], capture_output=True, text=True, check=False)
    return Answer(done.returncode, done.stdout, done.stderr)


def test_the_installed_command_ends_in_the_same_way(world):
    path = truncated(world)
    answer = installed(*world.command("prepare", "--set", "engine.workers=2"))
    assert_refused(answer, path, "truncated")
    assert_nothing_half_written(world.out)
    world.study.write_text(STUDY + "sedes: [1]\n")
    assert_refused(installed(*world.command("run")), "Did you mean 'seeds'?")
