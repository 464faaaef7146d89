"""Quantisation-aware distillation: what it trains, what it leaves alone, and what leaves."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import medstill
from medstill import cli, deploy, handover, pipeline, stages, training
from medstill.errors import ConfigError, ModelFileError, RunError
from medstill.networks import FakeQuantised
from medstill.refs import TEACHER, ModelRef
from medstill.training import checkpoint
from medstill.training.checkpoint import BEST, LAST, weights_hash
from medstill.training.tuning import tuning_recipe

pytestmark = pytest.mark.usefixtures("one_thread")

DISTILLED = ModelRef("distilled", "unet-s1", 0)
CONTROL = ModelRef("control", "unet-s1", 0)
INT8_UNSEEN = deploy.ExportOptions("int8", verify=False)
RECIPE = {"steps": 60, "batch_size": 4, "warmup_steps": 2, "validate_every": 30, "views": 2}


@pytest.fixture(scope="module")
def run(tiny, tiny_with, tmp_path_factory):
    """A run with a teacher and the two students of interest, trained for a moment."""
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("tuning") / "run"
    study = tiny_with(training={**RECIPE, "learning_rate": 1e-2}, distillation={"cache": "float32"})
    pipeline.prepare(study, tiny.data, out)
    pipeline.train_teacher(out)
    pipeline.distill(out, arms=["control", "distilled"])
    return stages.open_prepared(out)


def pupil(run, ref, teacher=None):
    return training.Pupil(ref, stages.load_network(run, ref), teacher, ref.folder(run.out))


def tuned(run, ref, scratch, steps=20, teacher=None, **changes):
    images = handover.inputs_of(run, run.split.train, 2)
    material = stages.material_of(run)
    return training.tune_student(material, pupil(run, ref, teacher), images, steps, scratch)


def tree(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def losses(scratch):
    history = json.loads((scratch / "history.json").read_text())
    return [entry["losses"] for entry in history]


def test_it_is_a_touch_up_in_full_precision(tiny_with):
    recipe = tiny_with(training={**RECIPE, "precision": "bf16-mixed"}).training
    found = tuning_recipe(recipe, 100)
    assert (found.steps, found.warmup_steps, found.validate_every) == (100, 10, 20)
    assert found.learning_rate == pytest.approx(recipe.learning_rate / 10)
    assert found.precision == "32-true"
    assert (found.views, found.batch_size) == (recipe.views, recipe.batch_size)


def test_it_lowers_the_loss_of_the_network_that_rounds_and_changes_nothing_else(run, tmp_path):
    before = tree(run.out)
    teacher = stages.load_network(run, TEACHER)
    known = weights_hash(teacher)
    found = tuned(run, DISTILLED, tmp_path / "scratch", steps=30, teacher=teacher)
    terms = losses(tmp_path / "scratch")
    assert terms[-1]["train/total"] < terms[0]["train/total"]
    assert {"train/B/supcon", "train/maps/kl"} <= set(terms[0])
    assert weights_hash(teacher) == known
    assert tree(run.out) == before
    assert found.dice_after >= found.dice_before
    assert (found.best_step == 0) == (found.dice_after == found.dice_before)


def test_a_control_is_tuned_by_the_labels_alone(run, tmp_path):
    tuned(run, CONTROL, tmp_path / "scratch", steps=2)
    assert {name.removeprefix("train/") for name in losses(tmp_path / "scratch")[0]} == {
        "segmentation/dice",
        "segmentation/cross_entropy",
        "total",
    }


def test_the_projectors_are_those_of_the_training(run, tmp_path, monkeypatch):
    from medstill.training import tuning

    seen = {}
    monkeypatch.setattr(tuning, "fit", lambda task, _: seen.update(task=task) or done())

    def done():
        raise InterruptedError

    teacher = stages.load_network(run, TEACHER)
    with pytest.raises(InterruptedError):
        tuned(run, DISTILLED, tmp_path, teacher=teacher)
    state = checkpoint.load(DISTILLED.folder(run.out) / LAST)["task"]
    kept = {name: value for name, value in state.items() if name.startswith("objective.features")}
    task = seen["task"]
    assert isinstance(task.network, FakeQuantised)
    assert task.layers["B"] == "network.encoder.bottleneck"
    assert kept
    assert all(torch.equal(task.state_dict()[name], value) for name, value in kept.items())


def test_without_the_kept_views_the_teacher_answers_itself(run, tmp_path):
    copy = stages.open_prepared(Path(shutil.copytree(run.out, tmp_path / "run")))
    teacher = stages.load_network(copy, TEACHER)
    results = []
    for folder in ("with", "without"):
        tuned(copy, DISTILLED, tmp_path / folder, steps=2, teacher=teacher)
        results.append(losses(tmp_path / folder)[-1]["train/maps/kl"])
        shutil.rmtree(stages.cache_folder(copy.out), ignore_errors=True)
    assert not stages.cache_folder(copy.out).exists()
    assert results[0] == pytest.approx(results[1], rel=1e-2)


def test_a_missing_teacher_is_said(run, tmp_path):
    copy = Path(shutil.copytree(run.out, tmp_path / "run"))
    (TEACHER.folder(copy) / BEST).unlink()
    options = medstill.ExportOptions("int8", tune=2)
    with pytest.raises(RunError, match=r"no checkpoint .*teacher"):
        medstill.export(copy, tmp_path / "m.onnx", options=options)
    assert not (tmp_path / "m.onnx").exists()


def test_the_teacher_itself_is_not_tuned(run, tmp_path):
    options = medstill.ExportOptions("int8", tune=2)
    with pytest.raises(ConfigError, match="Only students can be tuned"):
        medstill.export(run.out, tmp_path / "m.onnx", student="teacher", options=options)


@pytest.mark.parametrize("options", [("fp32", 3), ("int8", -1)])
def test_steps_that_make_no_sense_are_refused_before_any_work(options, tmp_path):
    precision, steps = options
    asked = medstill.ExportOptions(precision, tune=steps)
    with pytest.raises(ConfigError, match=r"Tuning is for int8 .*--precision int8"):
        medstill.export(tmp_path / "no-run", tmp_path / "m.onnx", options=asked)


def test_the_network_that_rounds_gives_the_labels_of_the_file(run, tmp_path):
    network = stages.load_network(run, DISTILLED)
    calibration = handover.inputs_of(run, run.split.train, 2)
    fake = FakeQuantised(network, [torch.tensor(image_BC) for image_BC in calibration]).eval()
    tuning = deploy.Tuning(steps=1, chosen_step=0, dice_before=0.5, dice_after=0.5)
    shown = handover.inputs_of(run, (*run.split.validation, *run.split.test), 8)
    evidence = deploy.Evidence(
        shown, calibration=calibration, tuned=deploy.Tuned(network, fake.grids(), tuning)
    )
    path, contract = tmp_path / "m.onnx", handover.contract_of(run, DISTILLED)
    deploy.export_onnx(network, contract, path, evidence, INT8_UNSEEN)
    model, rounds = deploy.load_model(path, threads=1), training.logits_function(fake)
    equal = [(model(image_BC).argmax(1) == rounds(image_BC).argmax(1)).mean() for image_BC in shown]
    assert np.mean(equal) >= 0.999


def make_hard(out, factor=100.0):
    """One channel of a huge range: the same network in float, hardly any steps left in 8 bits."""
    path = DISTILLED.folder(out) / BEST
    content = checkpoint.load(path)
    weights = content["network"]
    for name in ("weight", "bias"):
        weights[f"encoder.blocks.0.1.{name}"][0] *= factor
    # Its readers: the next level, and the decoder's last block, where it is the first of the skip.
    weights["encoder.blocks.1.0.weight"][:, 0] /= factor
    weights["segmentation.blocks.0.0.weight"][:, 16] /= factor
    checkpoint.save(path, content)


def test_what_is_too_hard_for_static_quantisation_leaves_after_tuning(run, tmp_path):
    out = Path(shutil.copytree(run.out, tmp_path / "run"))
    opened = stages.open_prepared(out)
    images = torch.tensor(handover.inputs_of(opened, opened.split.validation)[0])
    easy = stages.load_network(opened, DISTILLED)(images)
    make_hard(out)
    torch.testing.assert_close(
        stages.load_network(opened, DISTILLED)(images), easy, atol=1e-3, rtol=1e-3
    )
    file = tmp_path / "m.onnx"
    asked = ["export", str(out), "-o", str(file), "--precision", "int8"]
    refused = CliRunner().invoke(cli.app, asked)
    assert isinstance(refused.exception, ModelFileError)
    assert re.search(r"Dice is .*--tune 300: it then learns for 300 steps", str(refused.exception))
    assert not file.exists()
    done = CliRunner().invoke(cli.app, [*asked, "--tune", "60"])
    assert done.exit_code == 0, done.exception
    assert "Tuned for 60 steps" in done.output
    found = deploy.load_model(file).contract
    assert found.tuning.steps == 60
    assert found.tuning.chosen_step > 0
    assert found.tuning.dice_after > found.tuning.dice_before
    assert found.verification.dice_change >= -0.005
    assert found.verification.dice == pytest.approx(found.tuning.dice_after, abs=2e-2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.onnx", "run"]
