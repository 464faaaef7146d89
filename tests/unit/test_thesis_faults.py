"""Faults of published distillation scripts that must not come back; those that losses can have."""

import math

import pytest
import torch

from medstill.config import DistillationConfig, FeatureTermConfig, MapTermConfig
from medstill.losses import MAP_LOSSES, Objective, as_class_logits, infonce, supcon
from medstill.losses.places import Scene


def scene_of(labels, teacher_logits):
    teacher = as_class_logits(teacher_logits)
    bare = torch.ones(len(labels), dtype=torch.bool)
    generator = torch.Generator().manual_seed(0)
    return Scene(labels, torch.zeros_like(teacher), teacher, generator, bare)


def make(loss="supcon", maps=()):
    objective = Objective(
        DistillationConfig(features={"E": FeatureTermConfig(loss=loss)}, maps=maps),
        classes=2,
        spatial_dims=2,
        student_channels={"E": 4},
        teacher_channels={"E": 6},
        seed=0,
    )
    objective.fit_embeddings([{"E": torch.randn(4, 6, 8, 8)}])
    return objective


def batch_of(size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.zeros(size, 32, 32, dtype=torch.uint8)
    labels[:, :, 16:] = 1
    return {
        "student_logits_BC": torch.randn(size, 1, 32, 32, generator=generator),
        "labels_B": labels,
        "student_features": {"E": torch.randn(size, 4, 8, 8, generator=generator)},
        "teacher_logits_BC": torch.randn(size, 1, 32, 32, generator=generator),
        "teacher_features": {"E": torch.randn(size, 6, 8, 8, generator=generator)},
    }


def run(objective, batch):
    return objective(**batch, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("loss", ["mse", "infonce", "infonce-pooled", "supcon"])
def test_fault_1_projections_are_built_once_and_trained(loss):
    objective = make(loss)
    before = {name: p.detach().clone() for name, p in objective.named_parameters()}
    assert any("projector" in name for name in before)
    assert before.keys() <= objective.state_dict().keys()
    first = run(objective.eval(), batch_of(4))
    assert run(objective, batch_of(4))[f"E/{loss}"] == first[f"E/{loss}"]
    optimiser = torch.optim.SGD(objective.parameters(), lr=0.1)
    objective.total(first).backward()
    optimiser.step()
    after = dict(objective.named_parameters())
    assert all(not torch.equal(after[name], old) for name, old in before.items())
    assert run(objective, batch_of(4))[f"E/{loss}"] < first[f"E/{loss}"]


@pytest.mark.parametrize("name", MAP_LOSSES)
def test_fault_2_a_one_channel_map_is_not_lost_in_a_softmax_over_one_channel(name):
    batch = batch_of(3)
    student = batch["student_logits_BC"].requires_grad_()
    loss = MAP_LOSSES[name](student, batch["teacher_logits_BC"], temperature=4.0)
    loss.backward()
    assert loss.item() > 1e-3
    assert student.grad.abs().max() > 0


def test_fault_2_the_two_classes_of_a_sigmoid_network_are_its_probability_and_the_rest():
    z, t = torch.tensor([[[0.7]]]), torch.tensor([[[-1.2]]])
    p, q = torch.sigmoid(t).item(), torch.sigmoid(z).item()
    expected = p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
    assert MAP_LOSSES["kl"](z, t, temperature=1.0).item() == pytest.approx(expected, rel=1e-4)


def test_fault_3_supervised_contrast_knows_classes_which_infonce_does_not():
    generator = torch.Generator().manual_seed(0)
    anchors, keys = torch.randn((2, 8, 5), generator=generator)
    classes = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    within = torch.tensor([3, 0, 1, 2, 7, 4, 5, 6])
    across = torch.tensor([4, 5, 6, 7, 0, 1, 2, 3])

    def contrast(order):
        return supcon(anchors, keys[order], anchor_classes_P=classes, key_classes_K=classes).item()

    everyone = torch.arange(8)
    assert contrast(within) == pytest.approx(contrast(everyone), rel=1e-5)
    assert contrast(across) != pytest.approx(contrast(everyone), rel=1e-2)
    assert infonce(anchors, keys[within]).item() != pytest.approx(infonce(anchors, keys).item())


def test_fault_3_pooled_infonce_compares_averages_not_flattened_maps():
    objective = make("infonce-pooled").eval()
    batch = batch_of(4)
    value = run(objective, batch)["E/infonce-pooled"].item()
    turned = batch["student_features"]["E"].flip(2).transpose(2, 3)
    batch["student_features"] = {"E": turned.contiguous()}
    assert run(objective, batch)["E/infonce-pooled"].item() == pytest.approx(value, rel=1e-4)
    assert objective.features["E"].space.projector.first.in_features == 4


def test_fault_6_a_logit_is_foreground_above_zero_not_above_one_half():
    logits = torch.tensor([0.3, -0.3, 0.7, -5.0]).view(1, 1, 2, 2)
    labels = torch.full((1, 2, 2), 255, dtype=torch.uint8)
    assert scene_of(labels, logits).predicted_B.tolist() == [[[1, 0], [1, 0]]]


def test_fault_6_confidence_is_a_probability_not_a_logit():
    labels = torch.full((1, 1, 4), 255, dtype=torch.uint8)
    logits = torch.tensor([1.0, 2.0, 2.4, -2.4]).view(1, 1, 1, 4)
    assert scene_of(labels, logits).trusted_B(0.9).tolist() == [[[255, 255, 1, 0]]]


@pytest.mark.parametrize("loss", ["mse", "infonce", "infonce-pooled", "supcon", "affinity"])
def test_fault_7_a_last_batch_of_another_size_neither_crashes_nor_changes_what_is_compared(loss):
    maps = tuple(MapTermConfig(loss=name) for name in MAP_LOSSES)
    objective = make(loss, maps)
    for size in (4, 3, 1, 2):
        terms = run(objective, batch_of(size))
        assert all(torch.isfinite(value) for value in terms.values())


@pytest.mark.parametrize("name", MAP_LOSSES)
def test_fault_7_samples_are_not_mixed(name):
    batch = batch_of(3)
    student, teacher = batch["student_logits_BC"], batch["teacher_logits_BC"]
    together = MAP_LOSSES[name](student, teacher, temperature=1.0)
    pairs = zip(student.split(1), teacher.split(1), strict=True)
    apart = [MAP_LOSSES[name](s, t, temperature=1.0).item() for s, t in pairs]
    assert together.item() == pytest.approx(sum(apart) / 3, rel=1e-5)


def test_fault_7_places_of_a_sample_meet_the_same_sample_of_the_teacher():
    objective = make("mse").eval()
    batch = batch_of(3)
    value = run(objective, batch)["E/mse"].item()
    order = [2, 0, 1]
    shuffled = {
        key: {"E": x["E"][order]} if isinstance(x, dict) else x[order] for key, x in batch.items()
    }
    assert run(objective, shuffled)["E/mse"].item() == pytest.approx(value, rel=1e-4)
    crossed = dict(batch, teacher_features=shuffled["teacher_features"])
    assert run(objective, crossed)["E/mse"].item() != pytest.approx(value, rel=1e-4)
