import torch
from torch import nn

from medstill.config import NetworkConfig
from medstill.networks import build
from medstill.networks.taps import preset_layer
from medstill.refs import ModelRef
from medstill.training.assembly import build_teacher, student_task
from medstill.training.checkpoint import weights_hash
from medstill.training.data import SampleSource
from medstill.training.frozen import FrozenTeacher
from medstill.training.learner import Learner

DISTILLED = ModelRef("distilled", "unet-s1", 0)


class Probe(nn.Module):
    """Remembers what it was shown and in which mode."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(1)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Conv2d(1, 3, 1)
        self.seen = []

    def forward(self, x):
        self.seen.append((x, self.training, self.norm.training, torch.is_grad_enabled()))
        return self.head(self.dropout(self.norm(x)))


def distilled(tiny, tiny_with, teacher):
    study = tiny_with(distillation={"features": {"B": {"weight": 0.0}}})
    return student_task(study, tiny.material().preparation, DISTILLED, teacher)


def batch():
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(2, 1, 48, 48, generator=generator)
    return image, (image[:, 0] * 3).long()


def test_it_is_in_eval_mode_for_ever_also_after_the_student_trains(tiny, tiny_with):
    probe = Probe().train()
    task = distilled(tiny, tiny_with, probe)
    before = {name: value.clone() for name, value in probe.state_dict().items()}
    image, label = batch()
    probe.seen.clear()
    for _ in range(2):
        task.train()
        task.compute(image, label, 0).total.backward()
    assert task.network.training
    assert [entry[1:] for entry in probe.seen] == [(False, False, False)] * 2
    assert not any(module.training for module in probe.modules())
    assert all(torch.equal(probe.state_dict()[name], value) for name, value in before.items())


def test_it_sees_the_very_tensor_that_the_student_sees(tiny, tiny_with):
    probe = Probe()
    task = distilled(tiny, tiny_with, probe)
    shown = []
    probe.seen.clear()
    task.network.register_forward_pre_hook(lambda _, inputs: shown.append(inputs[0]))
    image, label = batch()
    task.compute(image, label, 0)
    assert len(shown) == len(probe.seen) == 1
    assert shown[0] is probe.seen[0][0] is image


def test_no_gradient_reaches_it(tiny, tiny_with):
    probe = Probe()
    task = distilled(tiny, tiny_with, probe)
    image, label = batch()
    task.compute(image.requires_grad_(), label, 0).total.backward()
    assert all(p.grad is None and not p.requires_grad for p in probe.parameters())
    view = task._teacher(image)
    assert view.logits_BC.grad_fn is None
    assert not view.logits_BC.requires_grad


def test_it_is_neither_in_the_optimiser_nor_in_the_checkpoint(tiny, tiny_with):
    study = tiny_with()
    material = tiny.material()
    teacher = build_teacher(study, material.preparation)
    task = student_task(study, material.preparation, DISTILLED, teacher)
    source = SampleSource(
        material.prepared.root, material.split.student, study.training, 0, spatial_dims=2
    )
    optimiser = Learner(task, source, 0).configure_optimizers()
    held = {id(p) for group in optimiser.param_groups for p in group["params"]}
    assert held.isdisjoint(id(p) for p in teacher.parameters())
    projectors = dict(task.objective.named_parameters())
    assert any("projector" in name for name in projectors)
    assert held == {id(p) for p in (*task.network.parameters(), *projectors.values())}
    stored = {value.data_ptr() for value in task.state_dict().values() if value.numel()}
    assert stored.isdisjoint(p.data_ptr() for p in teacher.parameters())


def test_its_features_are_those_of_the_network_in_eval_mode():
    config = NetworkConfig(name="unet-t1", width=0.0625)
    shape = {"spatial_dims": 2, "in_channels": 1, "out_channels": 3}
    torch.manual_seed(0)
    network = build(config, **shape, reconstruction=True)
    image, _ = batch()
    network(image)
    frozen = FrozenTeacher(network, {"B": preset_layer("unet-t1", "B")})
    digest = weights_hash(network)
    view = frozen(image)
    expected = []
    handle = network.get_submodule(preset_layer("unet-t1", "B")).register_forward_hook(
        lambda _module, _inputs, output: expected.append(output)
    )
    logits = network.eval()(image).logits
    handle.remove()
    assert torch.equal(view.logits_BC, logits)
    assert torch.equal(view.features["B"], expected[0])
    assert weights_hash(network) == digest


def test_the_reconstruction_decoder_does_not_run_for_nothing():
    config = NetworkConfig(name="unet-t1", width=0.0625)
    network = build(config, spatial_dims=2, in_channels=1, out_channels=3, reconstruction=True)
    calls = []
    network.reconstruction.register_forward_hook(lambda *_: calls.append(1))
    FrozenTeacher(network, {})(batch()[0])
    assert calls == []
