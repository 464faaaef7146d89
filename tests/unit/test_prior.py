"""The last bias at the class frequencies: which network, which cases, which number."""

import math

import pytest
import torch
from torch import nn

from medstill import training
from medstill.config import NetworkConfig
from medstill.errors import ConfigError
from medstill.networks import build, head_bias, set_prior
from medstill.refs import TEACHER, ModelRef, student_refs
from medstill.training import assembly, teaching
from medstill.training.checkpoint import weights_hash
from medstill.training.checks import check_networks

PRIOR = {"training": {"head_prior": True}, "teacher": {"training": {"head_prior": True}}}


def network(classes, name="unet-s1"):
    channels = 1 if classes == 2 else classes
    return build(NetworkConfig(name=name), spatial_dims=2, in_channels=1, out_channels=channels)


def test_one_channel_starts_at_the_log_odds_of_the_foreground():
    found = network(2)
    set_prior(found, [300, 100])
    assert head_bias(found).tolist() == pytest.approx([math.log(1 / 3)])


def test_several_channels_start_at_the_log_of_the_frequencies():
    found = network(3)
    set_prior(found, [60, 30, 10])
    assert head_bias(found).softmax(dim=0).tolist() == pytest.approx([0.6, 0.3, 0.1])
    assert head_bias(found).tolist() == pytest.approx([math.log(p) for p in (0.6, 0.3, 0.1)])


def test_a_class_without_a_voxel_counts_as_one():
    found = network(3)
    set_prior(found, [9, 0, 10])
    assert head_bias(found).softmax(dim=0).tolist() == pytest.approx([0.45, 0.05, 0.5])


def test_nothing_but_the_bias_changes_and_nothing_is_drawn():
    found = network(3)
    before = {name: value.clone() for name, value in found.state_dict().items()}
    state = torch.random.get_rng_state()
    set_prior(found, [5, 3, 2])
    assert torch.equal(torch.random.get_rng_state(), state)
    changed = {n for n, value in found.state_dict().items() if not torch.equal(value, before[n])}
    assert changed == {"segmentation.head.bias"}


@pytest.mark.parametrize("foreign", [nn.Conv2d(1, 3, 1), None])
def test_a_network_that_does_not_name_its_head_is_refused(foreign):
    if foreign is None:
        options = {"channels": [4, 8], "strides": [2]}
        config = NetworkConfig(name="UNet", options=options)
        foreign = build(config, spatial_dims=2, in_channels=1, out_channels=3)
    with pytest.raises(ConfigError, match=r"which layer gives its logits.*Set head_prior to false"):
        set_prior(foreign, [1, 1, 1])


def test_it_is_refused_before_any_work(tiny, tiny_with):
    options = {"channels": [4, 8], "strides": [2]}
    student = {"name": "UNet", "options": options}
    preparation = tiny.material().preparation
    check_networks(
        tiny_with(students=[student], distillation={"features": {"B": {"weight": 0.0}}}),
        preparation,
    )
    with pytest.raises(ConfigError, match="'UNet' does not"):
        check_networks(tiny_with(students=[student], training={"head_prior": True}), preparation)
    with pytest.raises(ConfigError, match="'UNet' does not"):
        check_networks(
            tiny_with(
                teacher={
                    "network": {"name": "UNet", "width": 1.0, "options": options},
                    "reconstruction": {"weight": 0.0},
                    "training": {"head_prior": True},
                }
            ),
            preparation,
        )


def frequencies(material, cases):
    """Class frequencies of the labels of some prepared cases, voxel by voxel."""
    counts = [0] * len(material.preparation.classes)
    for case in map(material.prepared.open, cases):
        for value in case.label_ZYX.ravel().tolist():
            counts[value] += 1
    return [count / sum(counts) for count in counts]


@pytest.mark.parametrize("asked", [{}, PRIOR])
def test_teacher_and_students_start_at_the_frequencies_of_their_own_cases(
    tiny, tiny_with, tmp_path, monkeypatch, asked
):
    study = tiny_with(
        references=["all-labels", "pseudo-labels"], distillation={"unlabelled_batch": 1}, **asked
    )
    material, begun = tiny.material(study), {}
    for module in (assembly, teaching):
        monkeypatch.setattr(
            module, "fit", lambda task, plan: begun.update({plan.name: task.network})
        )
    teacher = assembly.build_teacher(study, material.preparation)
    training.train_teacher(material, tmp_path, {})
    for ref in student_refs(study):
        guide = teacher if ref.arm in ("distilled", "pseudo-labels") else None
        training.train_student(material, ref, guide, tmp_path, {})
    found = head_bias(begun.pop(TEACHER.name)).softmax(dim=0).tolist()
    assert found == pytest.approx(frequencies(material, material.split.train), rel=1e-5)
    assert len(begun) == 4
    assert len({weights_hash(student) for student in begun.values()}) == 1
    for student in begun.values():
        found = head_bias(student).softmax(dim=0).tolist()
        assert found == pytest.approx(frequencies(material, material.split.student), rel=1e-5)
    assert material.split.student != material.split.train


def test_the_cases_of_the_prior_decide_a_student_that_sees_others(tiny, tiny_with):
    split = tiny.material().split
    ref = ModelRef("all-labels", "unet-s1", 0)
    fewer = split.model_copy(update={"student": split.student[:1]})
    without = tiny_with(training={"head_prior": False})
    for study, same in ((without, True), (tiny_with(), False), (tiny_with(**PRIOR), False)):
        keys = [training.student_key(study, ref, "data", one) for one in (split, fewer)]
        assert (keys[0] == keys[1]) is same


def test_without_it_the_bias_stays_as_it_was_drawn(tiny, tiny_with, tmp_path, monkeypatch):
    study = tiny_with(training={"head_prior": False})
    material, begun = tiny.material(study), []
    monkeypatch.setattr(assembly, "fit", lambda task, _: begun.append(task.network))
    training.train_student(material, ModelRef("control", "unet-s1", 0), None, tmp_path, {})
    config = NetworkConfig(name="unet-s1")
    drawn = assembly.build_network(config, material.preparation, seed=0)
    assert torch.equal(head_bias(begun[0]), head_bias(drawn))
