"""The teacher's third task: signed distances from its last decoder block."""

import json

import pytest
import torch

from medstill import pipeline, stages
from medstill.errors import ConfigError, UnknownNameError
from medstill.losses import signed_distances
from medstill.networks import run
from medstill.networks.taps import Taps
from medstill.refs import TEACHER
from medstill.training.checks import check_networks
from medstill.training.teaching import teacher_task

pytestmark = pytest.mark.usefixtures("one_thread")

PRETRAINED = {"pretraining": {"steps": 4}}
DISTANT = {"signed_distance": {"weight": 0.5, "limit_mm": 8.0}}


def same(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def batch(samples=4):
    image = torch.rand((samples, 1, 48, 48), generator=torch.Generator().manual_seed(1))
    return image, (image[:, 0] * 3).long()


def test_the_teacher_learns_the_distances_from_its_last_decoder_block(tiny, tiny_with):
    preparation = tiny.material().preparation
    task = teacher_task(tiny_with(teacher=DISTANT), preparation).eval()
    image, label = batch()
    label[0, :10] = 255
    result = task.compute(image, label, 0)
    with Taps(task.network, {"D": "segmentation.blocks.0"}) as taps:
        run(task.network, image)
        features = taps.features["D"]
    answer = task.distance.head(features).tanh()
    target, known = signed_distances(label, 3, preparation.spacing_zyx_mm[1:], 8.0)
    expected = ((answer - target).abs() * known).sum() / known.sum()
    assert result.terms["signed_distance"].item() == pytest.approx(expected.item(), rel=1e-5)
    plain = teacher_task(tiny_with(), preparation).eval().compute(image, label, 0)
    total = plain.total + 0.5 * expected
    assert result.total.item() == pytest.approx(total.item(), rel=1e-5)
    result.total.backward()
    assert all(parameter.grad is not None for parameter in task.parameters())


def test_the_head_changes_no_first_weight_and_stays_behind(tiny, tiny_with):
    preparation = tiny.material().preparation
    plain, distant = (teacher_task(tiny_with(teacher=one), preparation) for one in ({}, DISTANT))
    assert same(plain.network.state_dict(), distant.network.state_dict())
    assert any(name.startswith("distance.head") for name in distant.state_dict())


def test_a_third_task_in_3d(tiny, tiny_with):
    preparation = tiny.material().preparation.model_copy(
        update={"spatial_dims": 3, "patch_zyx": (16, 32, 48), "spacing_zyx_mm": (4.0, 2.0, 1.0)}
    )
    task = teacher_task(tiny_with(teacher=DISTANT), preparation)
    assert task.distance.spacing_mm == (4.0, 2.0, 1.0)
    image = torch.rand(1, 1, 16, 32, 48)
    result = task.compute(image, (image[:, 0] * 3).long(), 0)
    assert 0 < result.terms["signed_distance"].item() < 2


def test_a_teacher_of_monai_needs_the_layer_named(tiny, tiny_with):
    unet = {"name": "UNet", "width": 1.0, "options": {"channels": [4, 8], "strides": [2]}}
    settings = {"network": unet, "reconstruction": {"weight": 0.0}}
    features = {"features": {"B": {"weight": 0.0}}}
    study = tiny_with(teacher={**settings, **DISTANT}, distillation=features)
    with pytest.raises(
        ConfigError, match=r"the teacher is 'UNet'.*teacher\.signed_distance\.layer"
    ):
        check_networks(study, tiny.material().preparation)
    named = {"signed_distance": {"weight": 0.5, "layer": "model.2.cnov"}}
    study = tiny_with(teacher={**settings, **named}, distillation=features)
    with pytest.raises(UnknownNameError, match=r"Did you mean 'model\.2\.conv'"):
        check_networks(study, tiny.material().preparation)


def test_a_run_with_every_task_of_the_teacher_exports_it_without_them(tiny, tiny_with, tmp_path):
    study = tiny_with(teacher={**PRETRAINED, **DISTANT})
    out = tmp_path / "run"
    pipeline.prepare(study, tiny.data, out)
    pipeline.train_teacher(out)
    opened = stages.open_prepared(out)
    history = json.loads((out / "teacher" / "history.json").read_text())
    assert "train/signed_distance" in history[-1]["losses"]
    assert (out / "teacher" / "pretraining" / "last.ckpt").exists()
    network = stages.load_network(opened, TEACHER)
    assert not [name for name in network.state_dict() if "distance" in name]
    report = pipeline.export(out, tmp_path / "teacher.onnx", student="teacher")
    assert report.verification.label_agreement >= 0.9999
