"""Students with a name of their own, with a second task, and as smaller versions of the teacher."""

import json

import pytest
import torch

from medstill import deploy, pipeline, scoring, stages, training
from medstill.config import NetworkConfig
from medstill.errors import ConfigError
from medstill.networks import parameters, run
from medstill.refs import ModelRef, student_refs
from medstill.terminal import console, show_summary
from medstill.training.assembly import (
    build_network,
    build_student,
    build_teacher,
    student_task,
)
from medstill.training.checks import check_networks
from medstill.training.keys import student_key
from medstill.training.tasks import Place

SMALL = {"name": "unet-t1", "width": 0.03125, "alias": "small"}
MULTI = {"name": "unet-t1", "width": 0.03125, "alias": "multi", "reconstruction_weight": 0.5}


def batch(samples=4):
    image = torch.rand((samples, 1, 48, 48), generator=torch.Generator().manual_seed(1))
    return image, (image[:, 0] * 3).long()


@pytest.fixture(scope="module")
def study(tiny_with):
    return tiny_with(students=[SMALL, MULTI, {"name": "unet-s1"}])


def test_a_student_is_called_by_its_alias_or_its_network(study):
    names = [ref.name for ref in student_refs(study) if ref.arm == "control"]
    assert names == [f"students/{name}/control/seed-0" for name in ("small", "multi", "unet-s1")]


def test_an_alias_does_not_decide_the_weights(tiny, study, tiny_with):
    split = tiny.material().split
    renamed = tiny_with(students=[{**SMALL, "alias": "other"}])
    keys = [
        student_key(study, ModelRef("control", "small", 0), "data", split),
        student_key(renamed, ModelRef("control", "other", 0), "data", split),
        student_key(study, ModelRef("control", "multi", 0), "data", split),
    ]
    assert keys[0] == keys[1] != keys[2]


@pytest.fixture(scope="module")
def arms(tiny, study):
    """Control and distilled student with a second task."""
    preparation = tiny.material().preparation
    teacher = build_teacher(study, preparation)
    found = [
        student_task(study, preparation, ModelRef(arm, "multi", 5), guide)
        for arm, guide in (("control", None), ("distilled", teacher))
    ]
    for task in found:
        task.before_training(Place(torch.device("cpu"), 2), [batch()[0]])
    return found


@pytest.mark.parametrize("arm", [0, 1], ids=["control", "distilled"])
def test_the_second_task_adds_its_weighted_error_to_the_objective(arms, arm):
    task = arms[arm].eval()
    image, label = batch()
    result = task.compute(image, label, 0)
    error = ((run(task.network, image).reconstruction - image) ** 2).mean()
    assert result.terms["reconstruction"].item() == pytest.approx(error.item(), rel=1e-5)
    others = {name: value for name, value in result.terms.items() if name != "reconstruction"}
    expected = task.objective.total(others) + 0.5 * error
    assert result.total.item() == pytest.approx(expected.item(), rel=1e-5)


def test_both_arms_learn_the_second_task_from_the_labelled_images_alone(arms):
    control, distilled = (task.eval() for task in arms)
    image, label = batch(6)
    image[4:] += 1.0
    unlabelled = label.clone()
    unlabelled[3:] = 255
    bare = torch.arange(6) >= 4
    shown = distilled.compute(image, unlabelled, 0, bare_B=bare).terms["reconstruction"].item()
    expected = control.compute(image[:4], label[:4], 0).terms["reconstruction"].item()
    assert shown == pytest.approx(expected, rel=1e-5)
    assert distilled.compute(image, label, 0).terms["reconstruction"].item() > 1.1 * shown


def test_without_a_labelled_image_the_second_task_is_nothing(arms):
    image, label = batch(2)
    unlabelled = torch.full_like(label, 255)
    none = torch.ones(2, dtype=torch.bool)
    distilled = arms[1].train()
    result = distilled.compute(image, unlabelled, 0, bare_B=none)
    assert result.terms["reconstruction"].item() == 0
    result.total.backward()
    assert all(torch.isfinite(p.grad).all() for p in distilled.network.parameters())
    distilled.zero_grad()
    result = arms[0].eval().compute(image, unlabelled, 0)
    assert torch.isfinite(result.terms["reconstruction"])
    assert result.terms["reconstruction"] > 0


def test_a_second_task_needs_a_second_decoder(tiny, tiny_with):
    study = tiny_with(students=[{"name": "compact", "reconstruction_weight": 0.1}])
    with pytest.raises(ConfigError, match=r"network is 'compact'.*reconstruction_weight to 0"):
        check_networks(study, tiny.material().preparation)


@pytest.fixture(scope="module")
def finished(tiny, study, tmp_path_factory):
    out = tmp_path_factory.mktemp("students") / "run"
    pipeline.run(study, tiny.data, out)
    return out


def test_a_run_keeps_students_of_one_network_apart(finished):
    models = {path.name for path in (finished / "models").glob("*.onnx")}
    assert models == {"small.onnx", "multi.onnx", "unet-s1.onnx"}
    summary = json.loads((finished / "comparison.json").read_text())
    rows = {(model["student"], model["arm"]) for model in summary["models"]}
    assert {("multi", "distilled"), ("small", "control"), ("unet-t1", "teacher")} <= rows
    page = (finished / "report.html").read_text()
    assert all(f"<h4>{name}</h4>" in page for name in ("small", "multi", "unet-s1"))


def test_the_second_decoder_is_left_behind(finished, study):
    opened = stages.open_prepared(finished)
    preparation, ref = opened.prepared.preparation, ModelRef("distilled", "multi", 0)
    network = stages.load_network(opened, ref)
    plain = build_network(NetworkConfig(name="unet-t1", width=0.03125), preparation)
    result = stages.training_result(opened, ref)
    assert parameters(network) == result["facts"]["parameters"] == parameters(plain)
    assert result["weights"] == training.weights_hash(network)
    kept = build_student(study.students[1], preparation, 0)
    training.load_weights(kept, ref.folder(finished))
    with torch.no_grad():
        assert torch.equal(run(network, batch()[0]).logits, run(kept, batch()[0]).logits)
    files = {name: finished / "models" / f"{name}.onnx" for name in ("small", "multi")}
    small, multi = (file.stat().st_size for file in files.values())
    assert multi == pytest.approx(small, rel=0.01)
    assert deploy.load_model(files["multi"]).contract.network.name == "unet-t1"


def test_the_table_shows_the_parameters_of_each_student(finished):
    summary, facts = scoring.results(finished)
    assert set(facts) == {"teacher", "small", "multi", "unet-s1"}
    out = console()
    with out.capture() as text:
        show_summary(out, summary, facts)
    lines = {line.split("  ")[0].strip(): line for line in text.get().splitlines()}
    assert f"{facts['teacher']['parameters']:,}" in lines["teacher unet-t1"]
    assert f"{facts['multi']['parameters']:,}" in lines["multi distilled"]
