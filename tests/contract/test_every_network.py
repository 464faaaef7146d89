"""What every network of the table obeys, in 2-D and 3-D."""

from __future__ import annotations

import copy
import pickle
import warnings
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from medstill.config import NetworkConfig
from medstill.networks import (
    NETWORKS,
    SCALES,
    Taps,
    build,
    preset_layer,
    run,
    set_prior,
    size_multiple,
)

DIMS = (2, 3)
both = [pytest.param(name, dims, id=f"{name}-{dims}d") for name in NETWORKS for dims in DIMS]


def thin(name: str, dims: int, *, reconstruction: bool = False) -> nn.Module:
    """The network with few channels, for 2 input channels and 3 classes, of fixed weights."""
    width = 1 / 16 if NETWORKS[name].teaches else 0.5
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build(
            NetworkConfig(name=name, width=width),
            spatial_dims=dims,
            in_channels=2,
            out_channels=3,
            reconstruction=reconstruction,
        )


def image(network: nn.Module, dims: int, *, batch: int = 2) -> torch.Tensor:
    multiple = size_multiple(network)
    sizes = [multiple * (axis + 1) for axis in range(dims)]
    return torch.randn(batch, 2, *sizes, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("name", "dims"), both)
def test_logits_have_the_size_of_the_input_and_every_weight_learns(name, dims):
    network = thin(name, dims, reconstruction=NETWORKS[name].reconstructs)
    x = image(network, dims)
    output = run(network, x)
    assert output.logits.shape == (2, 3, *x.shape[2:])
    loss = output.logits.square().mean()
    if output.reconstruction is not None:
        assert output.reconstruction.shape == x.shape
        loss = loss + output.reconstruction.square().mean()
    loss.backward()
    idle = [key for key, p in network.named_parameters() if p.grad is None]
    assert idle == []


@pytest.mark.parametrize(("name", "dims"), both)
def test_the_bias_of_the_head_is_what_an_image_of_nothing_gives(name, dims):
    network = thin(name, dims).eval()
    set_prior(network, [60, 30, 10])
    head = network.get_submodule(NETWORKS[name].head)
    x = image(network, dims)
    before = run(network, x).logits
    with torch.no_grad():
        head.bias += torch.tensor([0.0, 1.0, -2.0])
        shift = (run(network, x).logits - before).mean(dim=(0, *range(2, x.ndim)))
        for layer, module in network.named_modules():
            if layer.endswith("coarse_head") or module is head:
                module.weight.zero_()
        head.bias -= torch.tensor([0.0, 1.0, -2.0])
        share = run(network, x).logits.softmax(dim=1)
    assert shift.tolist() == pytest.approx([0.0, 1.0, -2.0], abs=1e-4)
    expected = torch.tensor([0.6, 0.3, 0.1]).view(1, 3, *[1] * dims).expand_as(share)
    torch.testing.assert_close(share, expected)


@pytest.mark.parametrize(("name", "dims"), both)
def test_the_size_multiple_is_the_least_that_works(name, dims):
    network = thin(name, dims).eval()
    multiple = size_multiple(network)
    with torch.no_grad():
        run(network, image(network, dims, batch=1))
        with pytest.raises((RuntimeError, ValueError)):
            run(network, torch.zeros(1, 2, *[3 * multiple // 2] * dims))


@pytest.mark.parametrize(("name", "dims"), both)
def test_preset_taps_have_their_strides(name, dims):
    network = thin(name, dims).eval()
    x = image(network, dims)
    layers = {scale: preset_layer(network, scale) for scale in SCALES}
    assert layers == {scale: preset_layer(name, scale) for scale in SCALES}
    with torch.no_grad(), Taps(network, layers) as taps:
        network(x)
        strides = {
            scale: {size // kept for size, kept in zip(x.shape[2:], f.shape[2:], strict=True)}
            for scale, f in taps.features.items()
        }
    finest = 2 if name == "compact" else 1
    deepest = size_multiple(network)
    assert strides == {"E": {4}, "B": {deepest}, "D": {finest}}


@pytest.mark.parametrize(("name", "dims"), both)
def test_copies_and_pickles_answer_alike(name, dims):
    network = thin(name, dims).eval()
    x = image(network, dims, batch=1)
    with torch.no_grad():
        expected = run(network, x).logits
        for twin in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
            assert torch.equal(run(twin, x).logits, expected)


@pytest.mark.parametrize(("name", "dims"), both)
def test_first_activations_neither_vanish_nor_explode(name, dims):
    network = thin(name, dims)
    with torch.no_grad():
        deviation = float(run(network, image(network, dims)).logits.std())
    assert 0.05 < deviation < 20


@pytest.mark.parametrize(("name", "dims"), [("unet-s1", 2), ("compact", 2), ("compact", 3)])
def test_exported_to_onnx_it_answers_alike_at_any_size(name, dims, tmp_path: Path):
    network = thin(name, dims).eval()
    multiple = size_multiple(network)
    axes = {0: torch.export.Dim("batch")}
    for axis in range(dims):
        axes[axis + 2] = multiple * torch.export.Dim(f"times{axis}", min=1, max=64)
    example = torch.randn(2, 2, *[2 * multiple] * dims)
    path = tmp_path / "network.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own, about its own internals
        program = torch.onnx.export(
            network, (example,), dynamo=True, verbose=False, dynamic_shapes=(axes,)
        )
        program.save(str(path))
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    x = torch.randn(1, 2, *[multiple * (3 - axis) for axis in range(dims)])
    (answer,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(answer, network(x).numpy(), atol=1e-4)
