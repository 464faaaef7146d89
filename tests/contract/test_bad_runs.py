"""What wrong studies, full disks and folders of others get; and what --check finds beforehand."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from bad_data import (
    STUDY,
    assert_nothing_half_written,
    assert_refused,
    label_of_other_shape,
    nan,
    truncated,
    undeclared_value,
)

WRONG_NAMES = {
    "trainign.steps=3": ("trainign", "Did you mean 'training'?"),
    "training.setps=3": ("training.setps", "Did you mean 'steps'?"),
    "training.steps=-3": ("training.steps", "greater than 0 (got -3)"),
    "data.labels={liver: [livver]}": ("label", "'livver'", "There are: spleen"),
    "data.intensity.kind=ct-windwo": ("'ct-windwo'", "Did you mean 'ct-window'?"),
}
"""What can be told before any image is read."""


@pytest.mark.parametrize(("override", "words"), WRONG_NAMES.items())
def test_prepare_refuses_a_wrong_key_value_or_name(world, medstill, override, words):
    assert_refused(medstill(*world.command("prepare", "--set", override)), *words)
    assert_nothing_half_written(world.out)


WRONG_PARTS = {
    "students.0.name=unet-z1": ("No network is called 'unet-z1'", "Did you mean 'unet-"),
    "teacher.network.name=UNett": ("No network is called 'UNett'", "Did you mean"),
    "distillation.maps.0.loss=kll": ("'kll'", "Did you mean 'kl'?", "There are: "),
    "distillation.features.B.loss=supcno": ("'supcno'", "Did you mean 'supcon'?"),
    "distillation.features.B.student_layer=decoder.9": ("No layer is called 'decoder.9'",),
    "data.patch_size=[20, 16]": ("data.patch_size is [20, 16]", "multiples of", "Use ["),
}


@pytest.mark.parametrize(("override", "words"), WRONG_PARTS.items())
@pytest.mark.parametrize("options", [(), ("--check",)], ids=["run", "check"])
def test_run_refuses_a_wrong_part_before_any_work(world, medstill, options, override, words):
    world.study.write_text(STUDY + "distillation: {features: {B: {}}, maps: [{}]}\n")
    assert_refused(medstill(*world.command("run", *options, "--set", override)), *words)
    assert not world.out.exists()


@pytest.mark.parametrize("damage", [truncated, label_of_other_shape, undeclared_value, nan])
def test_check_reads_the_data(world, medstill, damage):
    path = damage(world)
    assert_refused(medstill(*world.command("run", "--check")), path)
    assert not world.out.exists()


def test_check_lists_what_would_be_left_out_and_estimates(world, medstill):
    path = truncated(world)
    answer = medstill(*world.command("run", "--check", "--skip-bad"))
    assert answer.code == 0, answer
    told = " ".join(answer.out.split())
    assert "1 would be left out:" in told
    assert str(path) in told
    assert "Everything checked" in told
    assert not world.out.exists()


def test_check_finds_too_few_patients_even_when_bad_cases_may_go(world, medstill):
    world.describe([1, 2, 3])
    truncated(world)
    smaller = ("--set", "split={train: 1, validation: 1, test: 1}")
    answer = medstill(*world.command("run", "--check", "--skip-bad", *smaller))
    assert_refused(answer, "2 patient(s)", "expected at least 3", "Add patients")


@pytest.mark.parametrize("text", ["", "- a", "name: [1", "name: one\nsedes: 3\n"])
def test_a_broken_study_file_is_named(world, medstill, text):
    world.study.write_text(text)
    assert_refused(medstill(*world.command("prepare")), world.study)
    assert not world.out.exists()


def test_a_full_disk_while_cases_are_stored(world, medstill, monkeypatch):
    def full(path, *_, **__):
        Path(path).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("numpy.save", full)
    answer = medstill(*world.command("prepare"))
    assert_refused(answer, "No space left while writing", "case_0", "Free some space")
    assert_nothing_half_written(world.out)
    monkeypatch.undo()
    assert not (world.out / "prepared" / "cases" / "case_0").exists()


def test_a_full_disk_at_the_first_file(world, medstill, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    answer = medstill(*world.command("prepare"))
    assert_refused(answer, "No space left while writing", world.out)
    assert_nothing_half_written(world.out)


def test_the_folder_of_another_study_is_left_as_it_is(world, medstill):
    assert medstill(*world.command("prepare")).code == 0
    before = {path: path.stat().st_mtime_ns for path in world.out.rglob("*") if path.is_file()}
    answer = medstill(*world.command("prepare", "--set", "training.steps=9"))
    assert_refused(
        answer,
        f"'{world.out}' belongs to another study",
        "study.training.steps is 4000 there and 9 now",
        "Choose another output folder, or delete this one",
    )
    assert before == {path: path.stat().st_mtime_ns for path in before}
    assert_nothing_half_written(world.out, "prepared/index.json", "split.json")


def test_a_folder_of_other_files_is_left_as_it_is(world, medstill):
    world.out.mkdir()
    (world.out / "thesis.tex").write_text("years of work")
    answer = medstill(*world.command("prepare"))
    assert_refused(answer, f"'{world.out}' is not empty", "Choose a new output folder")
    assert [path.name for path in world.out.iterdir()] == ["thesis.tex"]


def test_the_data_folder_is_no_output_folder(world, medstill):
    words = [str(world.data) if word == str(world.out) else word for word in world.command("run")]
    assert_refused(medstill(*words), f"'{world.data}' is not empty")


@pytest.mark.parametrize("command", ["train-teacher", "distill", "report"])
def test_commands_on_a_folder_without_a_run(world, medstill, command):
    assert_refused(medstill(command, world.folder), "manifest.json", "medstill run")
    assert_nothing_half_written(world.out)


def test_an_unfinished_run_says_what_is_missing(world, medstill):
    assert medstill(*world.command("prepare")).code == 0
    file = world.folder / "model.onnx"
    assert_refused(medstill("export", world.out, "-o", file), "training", "is not finished")
    assert not file.exists()
