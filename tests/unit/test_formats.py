"""Other formats than ONNX: what stands in the folders, that they agree, and what is refused."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from test_export import contract, images, trained
from torch import nn

import medstill
from medstill.config import NetworkConfig
from medstill.deploy import openvino_ir
from medstill.deploy.contract import METADATA_KEY, read_contract
from medstill.deploy.export import Evidence, ExportOptions
from medstill.deploy.formats import export_network
from medstill.deploy.verification import Trial
from medstill.errors import (
    ConfigError,
    MissingExtraError,
    ModelFileError,
    RunError,
    StorageError,
    UnknownNameError,
)
from medstill.networks import build, run

CLASSES = 4
OPENVINO = ExportOptions(format="openvino")


@dataclass(frozen=True)
class FakeCase:
    image_CZYX: np.ndarray
    label_ZYX: np.ndarray


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Threads that wait for each other are slow on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(1)
    built = build(
        NetworkConfig(name="unet-s1"), spatial_dims=2, in_channels=1, out_channels=CLASSES
    )
    return trained(built, 2, 1, 32, 48).eval()


@pytest.fixture(scope="module")
def evidence():
    volume = images(1, 5, 41, 53)
    case = FakeCase(volume, (volume[0] > 0.5).astype(np.uint8))

    def agreement_with_truth(pairs):
        return float(np.mean([(truth == found).mean() for truth, found in pairs]))

    trial = Trial([case], agreement_with_truth)
    return Evidence([images(2, 1, 32, 48)], trial, [images(4, 1, 32, 48, seed=3)])


def logits(network, array):
    with torch.inference_mode():
        return run(network, torch.from_numpy(array)).logits.numpy()


@pytest.fixture(scope="module")
def openvino():
    return pytest.importorskip("openvino", reason="the extra 'openvino' is not installed")


@pytest.fixture(scope="module")
def folder(openvino, network, evidence, tmp_path_factory):
    path = tmp_path_factory.mktemp("openvino") / "student"
    report = export_network(network, contract(classes=CLASSES), path, evidence, OPENVINO)
    return path, report


def test_openvino_computes_what_the_network_does_at_any_size(folder, openvino, network):
    path, _ = folder
    compiled = openvino.Core().compile_model(
        path / "model.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    for shape in ((1, 1, 32, 48), (3, 1, 64, 96)):
        array = images(*shape, seed=shape[0])
        np.testing.assert_allclose(compiled([array])[0], logits(network, array), atol=1e-4)


def test_the_openvino_folder_holds_the_verified_contract_once(folder, openvino):
    path, report = folder
    assert sorted(file.name for file in path.iterdir()) == ["model.bin", "model.xml"]
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    assert report.path == path
    assert report.size_bytes == sum(file.stat().st_size for file in path.iterdir())
    text = (path / "model.xml").read_text(encoding="utf-8")
    assert text.count("contract_version") == 1
    assert str(Path.home()) not in text
    model = openvino.Core().read_model(path / "model.xml")
    found = read_contract({METADATA_KEY: model.get_rt_info(["medstill", "contract"]).value}, path)
    assert found.verification == report.verification
    assert report.verification.label_agreement >= 0.9999
    assert report.verification.voxels == 5 * 41 * 53
    assert found.model_copy(update={"verification": None}) == contract(classes=CLASSES)


def test_openvino_keeps_int8(openvino, evidence, tmp_path):
    torch.manual_seed(1)
    wide = nn.Sequential(nn.Conv2d(1, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 4, 3, padding=1))
    sizes = {}
    for precision in ("fp32", "int8"):
        options = ExportOptions(precision, verify=False, format="openvino")
        path = tmp_path / precision
        report = export_network(wide, contract(classes=CLASSES), path, evidence, options)
        assert (report.precision, report.verification) == (precision, None)
        sizes[precision] = (path / "model.bin").stat().st_size
    assert sizes["int8"] < 0.5 * sizes["fp32"]


def test_openvino_that_disagrees_writes_nothing(openvino, network, evidence, tmp_path, monkeypatch):
    opened = openvino_ir.opened

    def slightly_wrong(*arguments):
        model = opened(*arguments)

        def call(array):
            answer = model(array)
            answer[:, :, 0] = -answer[:, :, 0] - 1e-3
            return answer

        return call

    monkeypatch.setattr(openvino_ir, "opened", slightly_wrong)
    with pytest.raises(ModelFileError, match=r"was not written: .* of 10865 voxels"):
        export_network(network, contract(classes=CLASSES), tmp_path / "ir", evidence, OPENVINO)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_there_is_never_replaced(network, evidence, tmp_path):
    (tmp_path / "mine.txt").write_text("keep me")
    with pytest.raises(ConfigError, match=r"'openvino' is a folder, and '.*' is there already"):
        export_network(network, contract(classes=CLASSES), tmp_path, evidence, OPENVINO)
    assert [entry.name for entry in tmp_path.iterdir()] == ["mine.txt"]


def test_without_openvino_the_pip_command_is_told(network, evidence, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'medstill\[openvino\]'"):
        export_network(network, contract(classes=CLASSES), tmp_path / "ir", evidence, OPENVINO)
    assert list(tmp_path.iterdir()) == []


def refused(file, error, match, **options):
    """The refusal of an export, and that it came before the run was so much as looked at."""
    with pytest.raises(error, match=match):
        medstill.export(file.parent / "no-run", file, options=ExportOptions(**options))


def test_a_place_that_takes_no_file_is_refused_before_any_work(tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder.onnx").mkdir()
    tuned = {"precision": "int8", "tune": 5}
    refused(tmp_path / "file" / "m.onnx", StorageError, "Cannot write '.*m.onnx'", **tuned)
    refused(tmp_path / "folder.onnx", StorageError, "folder.onnx': Is a directory", **tuned)
    refused(tmp_path / "file" / "ir", StorageError, "Cannot write '.*ir'", format="openvino")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file", "folder.onnx"]


def test_a_place_that_does_not_exist_yet_is_no_fault(tmp_path):
    refused(tmp_path / "new" / "one" / "m.onnx", RunError, "cannot be read")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("format", "package"), [("openvino", "openvino"), ("monai", "nibabel")])
def test_a_missing_package_is_told_before_any_work(tmp_path, monkeypatch, format, package):
    monkeypatch.setitem(sys.modules, package, None)
    refused(tmp_path / "x", MissingExtraError, rf"medstill\[{format}\]", format=format)


def test_names_that_there_are_not_are_answered_with_those_there_are():
    with pytest.raises(UnknownNameError, match=r"'tflite'.* There are: monai, onnx, openvino"):
        ExportOptions(format="tflite")
    with pytest.raises(UnknownNameError, match=r"'int16'.*mean 'int8'.* There are: fp32, int8"):
        ExportOptions(precision="int16")
