"""Loading exported files with onnxruntime, and refusing all others."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from medstill.deploy.contract import METADATA_KEY, Contract, NetworkSummary, Origin
from medstill.deploy.runtime import load_model
from medstill.errors import ModelFileError, ShapeError
from medstill.volumes.records import ChannelIntensity, Preparation
from medstill.volumes.terms import terms_of


def contract(classes=("background", "a", "b"), channels=2):
    return Contract(
        network=NetworkSummary(name="fake", parameters=6, macs=6),
        preparation=Preparation(
            spatial_dims=2,
            spacing_zyx_mm=(None, 2.0, 1.0),
            intensity=(ChannelIntensity(kind="none"),) * channels,
            classes=classes,
            patch_zyx=(1, 16, 24),
        ),
        terms=terms_of(classes, {}),
        training=Origin(study="feedbeef", weights="0123456789abcdef"),
    )


WEIGHTS = np.arange(6, dtype=np.float32).reshape(3, 2)


def write(path, metadata, *, name="image", kind=TensorProto.FLOAT, size=("y", "x")):
    """A network that mixes two channels into three at each place."""
    shape = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Einsum", ["weights", name], ["logits"], equation="kc,bc...->bk...")],
        "graph",
        [shape(name, kind, ["batch", 2, *size])],
        [shape("logits", kind, ["batch", 3, *size])],
        [helper.make_tensor("weights", kind, WEIGHTS.shape, WEIGHTS.ravel())],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(model, metadata)
    onnx.save(model, path)
    return path


@pytest.fixture
def path(tmp_path):
    return write(tmp_path / "model.onnx", contract().to_metadata())


def test_a_loaded_network_computes_and_knows_its_contract(path):
    model = load_model(path, threads=1)
    assert model.contract == contract()
    array = np.random.default_rng(0).normal(size=(3, 2, 5, 7)).astype(np.float32)
    expected = np.einsum("kc,bcyx->bkyx", WEIGHTS, array)
    found = model(array)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)
    turned = model(array.astype(np.float64)[:, :, ::-1])
    np.testing.assert_allclose(turned, expected[:, :, ::-1], atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 3, 5, 7), (2, 5, 7), (1, 2, 4, 5, 7)])
def test_arrays_of_other_axes_or_channels_are_refused(path, shape):
    with pytest.raises(ShapeError, match=r"takes \(B, C, Y, X\) with C = 2, but got .* shape \("):
        load_model(path)(np.zeros(shape, dtype=np.float32))


def test_a_size_that_the_network_cannot_take_is_refused(tmp_path, capfd):
    path = write(tmp_path / "model.onnx", contract().to_metadata(), size=(16, 24))
    model = load_model(path)
    assert model(np.zeros((1, 2, 16, 24), dtype=np.float32)).shape == (1, 3, 16, 24)
    with pytest.raises(ModelFileError, match=r"array of shape \(1, 2, 8, 8\).*patches of \(1, 16"):
        model(np.zeros((1, 2, 8, 8), dtype=np.float32))
    assert capfd.readouterr().err == ""


def test_threads_must_be_positive(path):
    with pytest.raises(ModelFileError, match=r"threads must be 1 or more.*got 0"):
        load_model(path, threads=0)


def test_what_is_no_file_is_refused(tmp_path):
    with pytest.raises(ModelFileError, match=r"at '.*gone\.onnx', found nothing"):
        load_model(tmp_path / "gone.onnx")
    with pytest.raises(ModelFileError, match=r"found a folder"):
        load_model(tmp_path)


@pytest.mark.parametrize("kept", [0, 20, -30])
def test_cut_files_are_refused(path, kept, capfd):
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ModelFileError, match=r"'.*model\.onnx' (is no ONNX network|holds a netw)"):
        load_model(path)
    assert capfd.readouterr().err == ""


def test_files_that_are_no_network_are_refused(path, capfd):
    path.write_text("a shopping list\n" * 10)
    with pytest.raises(ModelFileError, match=r"is no ONNX network that onnxruntime .* can load"):
        load_model(path)
    assert capfd.readouterr().err == ""


def test_networks_of_others_are_refused(tmp_path):
    path = write(tmp_path / "theirs.onnx", {"author": "somebody"})
    with pytest.raises(ModelFileError, match=r"theirs\.onnx' holds a network, but no medstill"):
        load_model(path)


def test_damaged_metadata_and_other_versions_are_refused(tmp_path):
    path = write(tmp_path / "model.onnx", {METADATA_KEY: "{"})
    with pytest.raises(ModelFileError, match=r"is damaged"):
        load_model(path)
    content = json.loads(contract().to_metadata()[METADATA_KEY])
    write(path, {METADATA_KEY: json.dumps({**content, "contract_version": 99})})
    with pytest.raises(ModelFileError, match=r"has contract version '99', but .* reads version 2"):
        load_model(path)


@pytest.mark.parametrize(
    ("metadata", "changes"),
    [
        (contract(channels=1), {}),
        (contract(classes=("background", "a")), {}),
        (contract(), {"name": "picture"}),
        (contract(), {"kind": TensorProto.DOUBLE}),
        (contract(), {"size": ("y", "x", 1)}),
    ],
    ids=["channels", "classes", "name", "type", "axes"],
)
def test_a_network_that_does_not_fit_its_contract_is_refused(tmp_path, metadata, changes):
    path = write(tmp_path / "model.onnx", metadata.to_metadata(), **changes)
    with pytest.raises(ModelFileError, match=r"does not fit its medstill contract.*found"):
        load_model(path)
