"""Loading exported files with onnxruntime, and refusing all others."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from fake_model import WEIGHTS_KC, contract_of, model_of
from onnx import TensorProto

from medstill.deploy.contract import METADATA_KEY
from medstill.deploy.runtime import load_model
from medstill.errors import ConfigError, ModelFileError, ShapeError


def write(path, metadata, **changes):
    """A network that mixes two channels into three at each place."""
    onnx.save(model_of(metadata, **changes), path)
    return path


@pytest.fixture
def path(tmp_path):
    return write(tmp_path / "model.onnx", contract_of().to_metadata())


def test_a_loaded_network_computes_and_knows_its_contract(path):
    model = load_model(path, threads=1)
    assert model.contract == contract_of()
    array = np.random.default_rng(0).normal(size=(3, 2, 5, 7)).astype(np.float32)
    expected = np.einsum("kc,bcyx->bkyx", WEIGHTS_KC, array)
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
    path = write(tmp_path / "model.onnx", contract_of().to_metadata(), size=(16, 24))
    model = load_model(path)
    assert model(np.zeros((1, 2, 16, 24), dtype=np.float32)).shape == (1, 3, 16, 24)
    with pytest.raises(ModelFileError, match=r"array of shape \(1, 2, 8, 8\).*patches of \(1, 16"):
        model(np.zeros((1, 2, 8, 8), dtype=np.float32))
    assert capfd.readouterr().err == ""


def test_threads_must_be_positive(path):
    with pytest.raises(ConfigError, match=r"threads must be 1 or more.*got 0"):
        load_model(path, threads=0)


def test_what_is_no_file_is_refused(tmp_path):
    with pytest.raises(ModelFileError, match=r"at '.*gone\.onnx', found nothing"):
        load_model(tmp_path / "gone.onnx")
    with pytest.raises(ModelFileError, match=r"found a folder"):
        load_model(tmp_path)


@pytest.mark.parametrize("kept", [0, 20, -30])
def test_cut_files_are_refused(path, kept, capfd):
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(
        ModelFileError, match=r"model\.onnx' is no ONNX network as 'medstill export'"
    ):
        load_model(path)
    assert capfd.readouterr().err == ""


def test_files_that_are_no_network_are_refused(path, capfd):
    path.write_text("a shopping list\n" * 10)
    with pytest.raises(ModelFileError, match=r"is no ONNX network as 'medstill export' writes it"):
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
    content = json.loads(contract_of().to_metadata()[METADATA_KEY])
    write(path, {METADATA_KEY: json.dumps({**content, "contract_version": 99})})
    with pytest.raises(ModelFileError, match=r"has contract version '99', but .* reads version 2"):
        load_model(path)


@pytest.mark.parametrize(
    ("metadata", "changes"),
    [
        (contract_of(channels=1), {}),
        (contract_of(classes=("background", "a")), {}),
        (contract_of(), {"name": "picture"}),
        (contract_of(), {"kind": TensorProto.DOUBLE}),
        (contract_of(), {"size": ("y", "x", 1)}),
    ],
    ids=["channels", "classes", "name", "type", "axes"],
)
def test_a_network_that_does_not_fit_its_contract_is_refused(tmp_path, metadata, changes):
    path = write(tmp_path / "model.onnx", metadata.to_metadata(), **changes)
    with pytest.raises(ModelFileError, match=r"does not fit its medstill contract.*found"):
        load_model(path)
