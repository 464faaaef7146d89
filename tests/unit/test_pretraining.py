"""The teacher's pre-training: reconstruction alone, without labels."""

import json
import logging

import numpy as np
import pytest
import torch

from medstill import stages, training
from medstill.config import NetworkConfig
from medstill.losses import mask_blocks
from medstill.networks import build, run
from medstill.training import checkpoint
from medstill.training.assembly import build_teacher
from medstill.training.checkpoint import BEST, LAST
from medstill.training.costs import estimate
from medstill.training.data import PatchSamples
from medstill.training.keys import teacher_key
from medstill.training.seeds import torch_generator
from medstill.training.teaching import (
    adopt,
    pretrain,
    pretraining_recipe,
    pretraining_task,
)

pytestmark = pytest.mark.usefixtures("one_thread")

PRETRAINED = {"pretraining": {"steps": 4, "mask_ratio": 0.5, "mask_block": 8}}


class CutError(Exception):
    """Ends a training where a power cut would."""


def same(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def batch(samples=4):
    image = torch.rand((samples, 1, 48, 48), generator=torch.Generator().manual_seed(1))
    return image, (image[:, 0] * 3).long()


@pytest.fixture
def pretrained(tiny, tiny_with, tmp_path):
    """Pre-trains the teacher of a changed study into a folder."""

    def start(folder="one", material=None, **teacher):
        study = tiny_with(teacher={**PRETRAINED, **teacher})
        material = material or tiny.material(study)
        return pretrain(material, tmp_path / folder, {"key": 1})

    return start


def test_the_pretraining_gives_the_clean_image_back_from_a_masked_one(tiny, tiny_with):
    study = tiny_with(teacher=PRETRAINED)
    task = pretraining_task(study, tiny.material().preparation).eval()
    image, label = batch()
    result = task.compute(image, label, step=5)
    seen = mask_blocks(image, 0.5, 8, torch_generator("pretraining", 0, 5))
    with torch.no_grad():
        expected = ((run(task.network, seen).logits - image) ** 2).mean()
    assert result.total.item() == pytest.approx(expected.item(), rel=1e-6)
    assert task.compute(image, label, step=6).total.item() != result.total.item()


def test_labels_do_not_reach_the_pretraining(tiny, tiny_with, tmp_path, pretrained):
    out = tiny.copy(tmp_path / "other")
    changed = 0
    for path in sorted((out / "prepared").rglob("label.npy")):
        label = np.load(path)
        np.save(path, np.where(label > 0, 0, 1).astype(label.dtype))
        changed += 1
    assert changed == 6
    study = tiny_with(teacher=PRETRAINED)
    opened = stages.open_prepared(out)

    def validate(_):
        raise AssertionError("a pre-training is not scored")

    material = training.Material(study, opened.prepared, opened.split, validate)
    assert same(pretrained("one"), pretrained("two", material))


def test_the_pretraining_sees_training_patients_and_unlabelled_cases_alone(tiny, tiny_with):
    study = tiny_with(teacher=PRETRAINED)
    material = tiny.material(study)
    split = material.split
    spare = split.test[0]
    sources = []

    def spy(_task, plan):
        sources.append(plan.source)

    changed = split.model_copy(update={"unlabelled": (spare,)})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("medstill.training.teaching.fit", spy)
        pretrain(training.Material(study, material.prepared, changed, None), tiny.out, {})
    (source,) = sources
    assert (source.labelled, source.unlabelled) == ((), tuple(sorted({*split.train, spare})))
    image, label = PatchSamples(source)[3]
    assert image.shape == (1, 48, 48)
    assert (label == 255).all()


def test_its_recipe_is_the_teachers_with_its_own_steps(tiny_with):
    study = tiny_with(teacher={**PRETRAINED, "training": {"views": 2, "learning_rate": 0.01}})
    recipe = pretraining_recipe(study)
    assert (recipe.steps, recipe.learning_rate, recipe.batch_size) == (4, 0.01, 4)
    assert (recipe.foreground_share, recipe.views) == (0.0, 0)
    other = tiny_with(teacher={"pretraining": {"steps": 9, "learning_rate": 0.5}})
    assert pretraining_recipe(other).learning_rate == 0.5


def test_an_interrupted_pretraining_ends_in_the_same_weights(pretrained, monkeypatch, tmp_path):
    whole = pretrained("whole")
    calls = []
    really = checkpoint.save

    def save(path, content):
        calls.append(path)
        if len(calls) > 2:
            raise CutError
        really(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", save)
        with pytest.raises(CutError):
            pretrained("cut")
    assert checkpoint.load(tmp_path / "cut" / LAST)["step"] == 2
    assert same(pretrained("cut"), whole)
    assert same(pretrained("cut"), whole)


def test_the_last_weights_are_kept_and_the_loss_is_logged(pretrained, tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="medstill"):
        weights = pretrained()
    state = checkpoint.load(tmp_path / "one" / LAST)
    assert checkpoint.load(tmp_path / "one" / BEST)["step"] == state["step"] == 4
    assert all(torch.equal(state["task"][f"network.{name}"], w) for name, w in weights.items())
    history = json.loads((tmp_path / "one" / "history.json").read_text())
    assert [set(entry["losses"]) for entry in history] == [
        {"train/reconstruction", "train/total"}
    ] * 2
    lines = [record.getMessage() for record in caplog.records]
    assert sum("teacher pretraining: step" in line and ", loss 0." in line for line in lines) == 2


@pytest.mark.parametrize("second", [True, False], ids=["both decoders", "one decoder"])
def test_encoder_and_decoders_start_from_the_pretrained_weights(
    pretrained, tiny, tiny_with, second
):
    weights = pretrained()
    study = tiny_with(teacher={"reconstruction": {"weight": 0.2 if second else 0.0}})
    network = build_teacher(study, tiny.material().preparation)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    taken = adopt(network, weights)
    after = network.state_dict()
    kept = {"segmentation.head.weight", "segmentation.head.bias"}
    assert set(after) - set(taken) == kept
    assert all(torch.equal(after[name], before[name]) for name in kept)
    for name, value in weights.items():
        if name.startswith("encoder"):
            assert torch.equal(after[name], value)
        if name.startswith("segmentation.") and name not in kept:
            assert torch.equal(after[name], value)
        if second and name.startswith("segmentation."):
            assert torch.equal(after[name.replace("segmentation", "reconstruction")], value)


def test_a_network_that_is_not_ours_takes_what_fits():
    options = {"channels": [4, 8], "strides": [2], "norm": "batch"}

    def unet(classes, seed):
        torch.manual_seed(seed)
        config = NetworkConfig(name="UNet", options=options)
        return build(config, spatial_dims=2, in_channels=1, out_channels=classes)

    images, network = unet(1, 0), unet(3, 1)
    taken = adopt(network, images.state_dict())
    left = set(network.state_dict()) - set(taken)
    assert left
    assert all(images.state_dict()[n].shape != network.state_dict()[n].shape for n in left)


def test_a_teacher_that_was_pretrained_starts_so_and_resumes_exactly(tiny, tiny_with, tmp_path):
    study = tiny_with(teacher={**PRETRAINED, "training": {"steps": 4}})

    def train(folder, validate=lambda _: {"liver": 0.5}):
        material = tiny.material(study, validate=validate)
        return training.train_teacher(material, tmp_path / folder, {})

    def cut(_):
        if cut.calls:
            raise CutError
        cut.calls += 1
        return {"liver": 0.5}

    cut.calls = 0
    train("whole")
    with pytest.raises(CutError):
        train("cut", cut)
    train("cut")
    one, two = (checkpoint.load(tmp_path / name / LAST)["task"] for name in ("whole", "cut"))
    assert same(one, two)
    plain = tiny.material(tiny_with(), validate=lambda _: {"liver": 0.5})
    training.train_teacher(plain, tmp_path / "plain", {})
    other = checkpoint.load(tmp_path / "plain" / LAST)["task"]
    assert not same(one, other)


def test_pretraining_and_distances_are_part_of_the_key_and_their_defaults_are_not(tiny, tiny_with):
    split = tiny.material().split
    changes = [
        {},
        {"pretraining": {"mask_ratio": 0.5}},
        PRETRAINED,
        {"pretraining": {"steps": 5}},
        {"signed_distance": {"weight": 0.1}},
    ]
    keys = [teacher_key(tiny_with(teacher=one), "data", split) for one in changes]
    assert keys[0] == keys[1]
    assert "pretraining" not in keys[0]["teacher"]
    assert len({json.dumps(key, default=str) for key in keys}) == 4


def test_the_estimate_counts_the_pretraining(tiny, tiny_with):
    found = estimate(tiny_with(teacher=PRETRAINED), tiny.material().preparation, 1)
    assert found.step_s["teacher pretraining"] > 0
    assert list(found.step_s)[:2] == ["teacher", "teacher pretraining"]
