"""Export in 8-bit integers: what becomes integers, what does not, and that it is verified."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import pytest
import torch
from test_export import contract, images, trained

from medstill.config import NetworkConfig
from medstill.deploy.contract import Verification
from medstill.deploy.export import Evidence, ExportOptions, export_onnx
from medstill.deploy.metadata import contract_in, read_metadata
from medstill.deploy.runtime import load_model
from medstill.deploy.verification import Trial
from medstill.errors import ModelFileError, ShapeError
from medstill.networks import build, run

INT8 = ExportOptions("int8")


@dataclass(frozen=True)
class FakeCase:
    image_CZYX: np.ndarray
    label_ZYX: np.ndarray


def even(*_):
    return 0.5


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(1)
    built = build(NetworkConfig(name="unet-s1"), spatial_dims=2, in_channels=1, out_channels=4)
    return trained(built, 2, 1, 32, 48).eval()


@pytest.fixture(scope="module")
def evidence():
    volume = images(1, 5, 40, 60)
    case = FakeCase(volume, (volume[0] > 0.5).astype(np.uint8))
    return Evidence([images(2, 1, 32, 48)], Trial([case], even), [images(4, 1, 32, 48, seed=3)])


@pytest.fixture(scope="module")
def exported(network, evidence, tmp_path_factory):
    path = tmp_path_factory.mktemp("int8") / "model.onnx"
    return path, export_onnx(network, contract(classes=4), path, evidence, INT8)


def test_the_file_says_that_it_is_int8_and_how_it_was_verified(exported):
    path, report = exported
    found = contract_in(read_metadata(path), path)
    assert found.precision == report.precision == "int8"
    assert isinstance(found.verification, Verification)
    assert found.verification == report.verification
    assert 0.5 < found.verification.label_agreement < 1.0
    assert [entry.name for entry in path.parent.iterdir()] == ["model.onnx"]


def test_convolutions_hold_bytes_one_scale_a_channel(exported):
    graph = onnx.load(exported[0]).graph
    stored = {entry.name: onnx.numpy_helper.to_array(entry) for entry in graph.initializer}
    made_by = {node.output[0]: node for node in graph.node}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    assert len(convolutions) == 6
    for node in convolutions:
        image_from, weights_from = (made_by[name] for name in node.input[:2])
        assert image_from.op_type == weights_from.op_type == "DequantizeLinear"
        weights = stored[weights_from.input[0]]
        assert weights.dtype == np.int8
        assert stored[weights_from.input[1]].shape == weights.shape[:1]
    transposed = [node for node in graph.node if node.op_type == "ConvTranspose"]
    assert transposed
    assert all(stored[node.input[1]].dtype == np.float32 for node in transposed)


def test_it_computes_nearly_what_the_network_does(exported, network):
    image = images(3, 1, 48, 32, seed=5)
    with torch.inference_mode():
        expected = run(network, torch.from_numpy(image)).logits.numpy()
    found = load_model(exported[0], threads=1)(image)
    step = (expected.max() - expected.min()) / 255
    assert 0 < np.abs(found - expected).mean() < 3 * step


def test_the_same_calibration_gives_the_same_bytes(exported, network, evidence, tmp_path):
    again = tmp_path / "again.onnx"
    export_onnx(network, contract(classes=4), again, evidence, INT8)
    assert again.read_bytes() == exported[0].read_bytes()


def test_calibration_needs_images(network, evidence, tmp_path):
    without = Evidence(evidence.examples, evidence.trial)
    with pytest.raises(ShapeError, match=r"prepared images .*none were given"):
        export_onnx(network, contract(classes=4), tmp_path / "m.onnx", without, INT8)
    assert list(tmp_path.iterdir()) == []


def test_a_dice_that_falls_too_far_writes_nothing(network, evidence, tmp_path):
    answers = iter([0.9, 0.89])
    failing = Evidence(
        evidence.examples,
        Trial(evidence.trial.cases, lambda _: next(answers)),
        evidence.calibration,
    )
    with pytest.raises(ModelFileError, match=r"Dice is 0\.8900, PyTorch's 0\.9000"):
        export_onnx(network, contract(classes=4), tmp_path / "m.onnx", failing, INT8)
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_verified_says_so(network, evidence, tmp_path):
    path = tmp_path / "m.onnx"
    unverified = ExportOptions("int8", verify=False)
    report = export_onnx(network, contract(classes=4), path, evidence, unverified)
    assert (report.comparison, report.verification) == (None, None)
    assert contract_in(read_metadata(path), path).verification is None
