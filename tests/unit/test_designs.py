"""A network whose layers change is another network to finished trainings."""

import hashlib
from dataclasses import replace

import pytest
import torch

from medstill import training
from medstill.config import NetworkConfig
from medstill.networks import NETWORKS, build, design_key
from medstill.refs import ModelRef
from medstill.volumes.records import Split

LAYERS = {
    "unet-t1": (1, "dc9598828e50"),
    "transunet-t2": (1, "713fd0d2a677"),
    "unet-s1": (1, "8bdcf2be9f5e"),
    "unet-s2": (1, "82bddff3b481"),
    "compact": (1, "56bbad61b931"),
    "compact-fine": (1, "1e3627986b34"),
    "compact-dw": (1, "1e2eb8dcd048"),
}
"""Network -> its design, and a digest of its layers."""
SPLIT = Split(
    train=("a", "b"),
    student=("a",),
    validation=("c",),
    test=("d",),
    patients={case: case for case in "abcd"},
    data_hash="data",
)


def layers_of(name: str) -> str:
    """A digest of every layer in the order of its call, with its shape, in 2-D and 3-D."""
    found: list[str] = []

    def note(layer: torch.nn.Module, _inputs: object, output: object) -> None:
        shape = tuple(output.shape) if isinstance(output, torch.Tensor) else ()
        found.append(f"{layer!r} {shape}")

    for dims, classes, size in ((2, 1, 64), (2, 14, 64), (3, 1, 32), (3, 14, 32)):
        reconstructs = NETWORKS[name].reconstructs
        config = NetworkConfig(name=name, width=0.25)
        keys = {"spatial_dims": dims, "in_channels": 1, "out_channels": classes}
        network = build(config, **keys, reconstruction=reconstructs).eval()
        leaves = [layer for layer in network.modules() if not list(layer.children())]
        hooks = [layer.register_forward_hook(note) for layer in leaves]
        with torch.inference_mode():
            network(torch.zeros(1, 1, *(size,) * dims))
        for hook in hooks:
            hook.remove()
        found += [f"{key} {tuple(value.shape)}" for key, value in network.state_dict().items()]
    return hashlib.sha256("\n".join(found).encode()).hexdigest()[:12]


@pytest.mark.parametrize("name", NETWORKS)
def test_a_change_of_layers_raises_the_design(name):
    """If this fails after a change of layers: raise `design` in the table, then write both here."""
    assert (NETWORKS[name].design, layers_of(name)) == LAYERS[name]


@pytest.mark.parametrize("name", ["unet-s1", "compact"])
def test_a_later_design_is_another_training_and_the_first_is_what_it_was(
    name, tiny_with, monkeypatch
):
    study = tiny_with(students=[{"name": name}], teacher={"network": {"name": "unet-t1"}})
    refs = [ModelRef(arm, study.students[0].called) for arm in ("control", "distilled")]

    def keys():
        students = [training.student_key(study, ref, "data", SPLIT) for ref in refs]
        return [*students, training.teacher_key(study, "data", SPLIT)]

    first = keys()
    assert not any("design" in key for key in first)
    later = {key: replace(NETWORKS[key], design=2) for key in (name, "unet-t1")}
    monkeypatch.setitem(NETWORKS, name, later[name])
    student = keys()
    assert student == [first[0] | {"design": 2}, first[1] | {"design": 2}, first[2]]
    monkeypatch.setitem(NETWORKS, "unet-t1", later["unet-t1"])
    taught = keys()
    assert taught[0] == student[0]
    assert taught[1]["teacher"] == taught[2] == first[2] | {"design": 2}


def test_a_network_of_another_library_has_the_first_design():
    assert design_key("monai:BasicUNet") == {}
