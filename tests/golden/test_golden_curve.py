"""The loss of a tiny run on the phantom, step by step, as it was when it was last looked at.

`MEDSTILL_WRITE_GOLDEN=1 pytest tests/golden` writes `tiny_curves.json` anew; look at the difference
before it is committed: every change there is a change of every result.
"""

import json
import os
from functools import partial
from pathlib import Path

import pytest
import torch

from medstill import training
from medstill.config import DistillationConfig, MapTermConfig, TrainingConfig
from medstill.losses import Objective
from medstill.refs import TEACHER, ModelRef
from medstill.training.data import PatchSamples, SampleSource, StepBatches

FILE = Path(__file__).parent / "tiny_curves.json"
TOLERANCE = 1e-3
STEPS = 6
ARMS = {
    "teacher": TEACHER,
    "control": ModelRef("control", "unet-s1", 0),
    "distilled": ModelRef("distilled", "unet-s1", 0),
}

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def study(tiny_with):
    recipe = {"steps": STEPS, "validate_every": 1, "head_prior": False}
    distillation = {
        "features": {
            "E": {"loss": "mse", "weight": 0.1},
            "B": {"loss": "supcon", "weight": 0.2},
            "D": {"loss": "affinity", "weight": 0.1},
        },
        "maps": [{"loss": name, "weight": 0.1} for name in ("kl", "cwd", "dist")],
        "unlabelled_batch": 2,
    }
    return tiny_with(training=recipe, teacher={"training": recipe}, distillation=distillation)


def guide(study, material):
    """The teacher of the distilled arm: untrained, so that its own curve is a test of its own."""
    return training.build_teacher(study, material.preparation)


def train(tiny, study, arm, folder, validate=None):
    material = tiny.material(study, validate=validate or (lambda _: {"liver": 0.5}))
    if arm == "teacher":
        result = training.train_teacher(material, folder, {})
    else:
        teacher = guide(study, material) if arm == "distilled" else None
        result = training.train_student(material, ARMS[arm], teacher, folder, {})
    return [entry["losses"] for entry in result.history]


def agree(found, expected):
    assert len(found) == len(expected)
    for step, (losses, golden) in enumerate(zip(found, expected, strict=True)):
        assert losses.keys() == golden.keys()
        for name, value in losses.items():
            assert value == pytest.approx(golden[name], rel=TOLERANCE, abs=1e-5), (step, name)


@pytest.fixture(scope="module")
def golden():
    return json.loads(FILE.read_text()) if FILE.exists() else {}


@pytest.mark.parametrize("arm", ARMS)
def test_the_curve_is_the_golden_one(tiny, study, golden, tmp_path, arm):
    curve = train(tiny, study, arm, tmp_path / arm)
    if os.environ.get("MEDSTILL_WRITE_GOLDEN"):
        kept = json.loads(FILE.read_text()) if FILE.exists() else {}
        rounded = [{name: float(f"{v:.6g}") for name, v in losses.items()} for losses in curve]
        FILE.write_text(json.dumps({**kept, arm: rounded}, indent=1, sort_keys=True) + "\n")
        pytest.skip("written, not compared")
    agree(curve, golden[arm])
    name = "train/segmentation/cross_entropy"
    assert curve[-1][name] < curve[0][name]


class PowerCutError(Exception):
    """Ends a training between two validations."""


@pytest.mark.parametrize("arm", ARMS)
def test_a_resumed_run_has_the_golden_curve(tiny, study, golden, tmp_path, arm):
    calls = []

    def until(last, _network):
        calls.append(1)
        if len(calls) > last:
            raise PowerCutError
        return {"liver": 0.5}

    with pytest.raises(PowerCutError):
        train(tiny, study, arm, tmp_path, partial(until, 3))
    agree(train(tiny, study, arm, tmp_path), golden[arm])


def test_a_batch_shared_by_processes_has_the_curve_of_the_whole_batch(tiny, study):
    """As `ddp` does it: each rank a share of the batch, gradients averaged.

    Exact where the loss is a mean over samples: Dice per sample, no batch norm, and no term that
    compares samples with each other.
    """
    whole, halves, quarters = (curve_of_ranks(tiny, study, ranks) for ranks in (1, 2, 4))
    assert whole[-1] < whole[0]
    assert halves == pytest.approx(whole, rel=TOLERANCE)
    assert quarters == pytest.approx(whole, rel=TOLERANCE)


def curve_of_ranks(tiny, study, ranks):
    material = tiny.material(study)
    source = SampleSource(
        material.prepared.root, material.split.student, study.training, 0, spatial_dims=2
    )
    config = DistillationConfig(features={}, maps=(MapTermConfig(loss="kl"),))
    torch.manual_seed(0)
    network, teacher = torch.nn.Conv2d(1, 3, 3, padding=1), torch.nn.Conv2d(1, 3, 5, padding=2)
    objective = Objective(
        config,
        classes=3,
        spatial_dims=2,
        student_channels={},
        teacher_channels={},
        recipe=TrainingConfig(dice_over="sample"),
    )
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-2)
    samples, curve = PatchSamples(source), []
    shares = [list(StepBatches(source, 0, rank, ranks)) for rank in range(ranks)]
    for step in range(STEPS):
        losses = []
        for share in shares:
            image, label = map(torch.stack, zip(*(samples[n] for n in share[step]), strict=True))
            said = teacher(image).detach()
            terms = objective(
                network(image), label, teacher_logits_BC=said, generator=torch.Generator()
            )
            losses.append(objective.total(terms))
        total = torch.stack(losses).mean()
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
        curve.append(total.item())
    return curve
