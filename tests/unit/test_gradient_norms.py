"""Norms of each term's gradient: the right numbers, and no trace in the training."""

import csv

import pytest
import torch
from torch import nn

from medstill.refs import TEACHER, ModelRef
from medstill.training import checkpoint
from medstill.training.assembly import student_task
from medstill.training.checkpoint import LAST
from medstill.training.gradients import gradient_norms
from medstill.training.tasks import Place, StepResult

DISTILLED = ModelRef("distilled", "unet-s1", 0)

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_norm_is_that_of_the_weighted_gradient():
    network = nn.Linear(2, 1, bias=False)
    x = torch.tensor([3.0, 4.0])
    y = network(x).squeeze()
    terms = {"up": y, "down": -2 * y, "free": 0.5 * y, "still": torch.tensor(7.0)}
    total = 0.1 * terms["up"] + 0.2 * terms["down"] + terms["free"] + terms["still"]
    found = gradient_norms(StepResult(total, terms, {"up": 0.1, "down": 0.2}), network)
    expected = {"up": 0.1 * 5, "down": 0.4 * 5, "free": 0.5 * 5, "still": 0.0, "total": 0.2 * 5}
    assert found == pytest.approx(expected)
    assert network.weight.grad is None
    total.backward()
    assert network.weight.grad.norm().item() == pytest.approx(1.0)


def test_gradients_that_are_there_and_frozen_weights_are_left_alone():
    network = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False))
    network[0].requires_grad_(False)
    with torch.no_grad():
        network[0].weight.fill_(2.0)
    network[1].weight.grad = torch.tensor([[9.0]])
    y = network(torch.ones(1)).sum()
    assert gradient_norms(StepResult(y, {"y": y}), network) == {"y": 2.0, "total": 2.0}
    assert network[1].weight.grad.item() == 9.0


def test_the_terms_of_a_student_add_up_to_its_total(tiny, tiny_with, teacher):
    study = tiny_with(distillation={"maps": [{"loss": "kl", "weight": 0.3, "ramp_steps": 10}]})
    task = student_task(study, tiny.material().preparation, DISTILLED, teacher)
    image = torch.rand(4, 1, 48, 48, generator=torch.Generator().manual_seed(1))
    task.before_training(Place(torch.device("cpu"), 2), [image])
    label = torch.zeros(4, 48, 48, dtype=torch.long)
    label[:, :24, :16], label[:, :24, 16:32] = 1, 2
    result = task.compute(image, label, 5)
    assert result.weights["maps/kl"] == pytest.approx(0.15)
    added = sum(result.weights[name] * value for name, value in result.terms.items())
    assert result.total.item() == pytest.approx(added.item(), rel=1e-6)
    norms = gradient_norms(result, task.network)
    assert norms.keys() == {*result.terms, "total"}
    assert all(norm > 0 for norm in norms.values())
    result.total.backward()
    squares = sum(p.grad.square().sum() for p in task.network.parameters())
    assert norms["total"] == pytest.approx(squares.sqrt().item(), rel=1e-5)
    assert norms["total"] <= sum(norms.values()) - norms["total"]


@pytest.mark.parametrize("ref", [TEACHER, DISTILLED], ids=lambda ref: ref.arm)
def test_measuring_changes_no_weight(trained, tmp_path, ref):
    plain = trained(ref, folder="plain")
    seen = trained(ref, folder="seen", engine={"gradient_norms_every": 1})
    one, two = (checkpoint.load(tmp_path / name / LAST)["task"] for name in ("plain", "seen"))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert [e["losses"] for e in plain.history] == [e["losses"] for e in seen.history]
    assert [e["gradients"] for e in plain.history] == [{}, {}]


def test_norms_are_logged_by_name_at_their_steps_and_kept_in_the_history(trained, tmp_path):
    result = trained(DISTILLED, engine={"gradient_norms_every": 2}, training={"steps": 6})
    terms = {"segmentation/dice", "segmentation/cross_entropy", "B/supcon", "maps/kl", "total"}
    with (tmp_path / "run" / "csv" / "from-step-0" / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["gradient/total"]]
    assert [int(row["step"]) for row in rows] == [0, 2, 4]
    assert all(float(rows[1][f"gradient/{name}"]) > 0 for name in terms)
    assert [entry["gradients"].keys() for entry in result.history] == [terms] * 3
    kept = [entry["gradients"]["total"] for entry in result.history]
    assert kept == pytest.approx([float(row["gradient/total"]) for row in rows], rel=1e-5)


def test_the_history_holds_the_mean_since_the_last_validation(trained):
    single, pairs = (
        trained(
            folder=str(every),
            engine={"gradient_norms_every": 1},
            training={"validate_every": every},
        ).history
        for every in (1, 2)
    )
    norms = [entry["gradients"]["total"] for entry in single]
    means = [(norms[0] + norms[1]) / 2, (norms[2] + norms[3]) / 2]
    assert [entry["gradients"]["total"] for entry in pairs] == pytest.approx(means, rel=1e-6)
