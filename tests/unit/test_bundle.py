"""MONAI bundles: that MONAI alone gives medstill's labels, what stands in them, what is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from bundle_scene import CASES, WINDOW, scene_of, write_scans

from medstill.config import NetworkConfig
from medstill.deploy import bundle as bundle_module
from medstill.deploy.bundle_config import inference_config
from medstill.deploy.bundle_trial import run_bundle
from medstill.deploy.cases import PredictOptions
from medstill.deploy.contract import Contract
from medstill.deploy.export import ExportOptions
from medstill.deploy.formats import export_network
from medstill.deploy.predict import predict_path
from medstill.deploy.runtime import load_model
from medstill.errors import ConfigError, MissingExtraError, ModelFileError
from medstill.networks import build
from medstill.volumes.records import ChannelIntensity

for package in ("monai", "nibabel", "fire"):
    pytest.importorskip(package, reason="the extra 'monai' is not installed")

MONAI = ExportOptions(format="monai")

WITHOUT_MEDSTILL = """
import runpy, sys

class Refused:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "medstill":
            raise ImportError("a bundle must run without medstill")

sys.meta_path.insert(0, Refused())
runpy.run_module("monai.bundle", run_name="__main__")
"""


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Threads that wait for each other are slow on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_scans(tmp_path_factory.mktemp("phantom") / "data")


@pytest.fixture(scope="module", params=CASES)
def exported(request, data, tmp_path_factory):
    scene = scene_of(data, request.param)
    path = tmp_path_factory.mktemp("bundle") / "student"
    report = export_network(scene.network, scene.contract, path, scene.evidence, MONAI)
    return scene, path, report


@pytest.fixture(scope="module")
def organ(data):
    return scene_of(data, "one-organ-2d-ct")


def test_monai_alone_gives_the_labels_of_medstill(exported, tmp_path):
    scene, bundle, _ = exported
    command = ["run", "--config_file", "configs/inference.json", "--device", "cpu"]
    command += ["--dataset_dir", str(scene.scans), "--output_dir", str(tmp_path / "monai")]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_MEDSTILL, *command],
        cwd=bundle,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    file = tmp_path / "student.onnx"
    export_network(scene.network, scene.contract, file, scene.evidence, ExportOptions())
    predict_path(load_model(file), scene.scans, tmp_path / "ours", PredictOptions())
    names = sorted(scan.name for scan in scene.scans.iterdir())
    assert sorted(found.name for found in (tmp_path / "monai").iterdir()) == names
    for name in names:
        found, ours = (sitk.ReadImage(str(tmp_path / by / name)) for by in ("monai", "ours"))
        assert found.GetPixelID() == sitk.sitkUInt8
        assert found.GetSize() == ours.GetSize()
        for ask in ("GetSpacing", "GetOrigin", "GetDirection"):
            np.testing.assert_allclose(getattr(found, ask)(), getattr(ours, ask)(), atol=1e-4)
        labels = [sitk.GetArrayFromImage(image) for image in (found, ours)]
        assert len(np.unique(labels[1])) == len(scene.contract.preparation.classes)
        assert (labels[0] == labels[1]).mean() >= 0.9999


def test_the_bundle_says_what_was_found(exported):
    scene, bundle, report = exported
    names = sorted(str(file.relative_to(bundle)) for file in bundle.rglob("*") if file.is_file())
    expected = ["LICENSE", "configs/inference.json", "configs/metadata.json", "docs/README.md"]
    assert names == [*expected, "models/model.pt", "models/model.ts"]
    assert report.size_bytes == sum((bundle / name).stat().st_size for name in names)
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text(encoding="utf-8"))
    found = Contract.model_validate(metadata["medstill"]["contract"])
    assert found.verification == report.verification
    assert found.model_copy(update={"verification": None}) == scene.contract
    assert report.verification.label_agreement >= 0.9999
    assert metadata["medstill"]["from_file_to_file"]["dice"] == report.files.dice
    assert report.files.label_agreement >= 0.9999
    assert report.files.voxels > report.verification.voxels
    assert [entry["name"] for entry in metadata["labels"]] == list(found.preparation.classes[1:])
    readme = (bundle / "docs" / "README.md").read_text(encoding="utf-8")
    assert f"{report.files.label_agreement:.4%} of {report.files.voxels} voxels" in readme
    for name in names[:4]:
        assert str(Path.home()) not in (bundle / name).read_text(encoding="utf-8")


TENSOR = ["type", "format", "num_channels", "spatial_shape", "dtype", "value_range"]
SCHEMA = {
    "required": [
        "schema", "version", "monai_version", "pytorch_version", "numpy_version",
        "required_packages_version", "task", "description", "authors", "copyright",
        "network_data_format",
    ],
    "properties": {
        "changelog": {"type": "object"},
        "eval_metrics": {"type": "object"},
        "intended_use": {"type": "string"},
        "pred_classes": {"type": "string"},
        "network_data_format": {
            "required": ["inputs", "outputs"],
            "additionalProperties": {"additionalProperties": {"required": TENSOR}},
        },
    },
}  # fmt: skip
"""What MONAI's own schema of metadata.json asks for; the schema itself is a download."""


def test_monai_finds_nothing_wrong_with_the_metadata(exported, tmp_path):
    pytest.importorskip("jsonschema", reason="jsonschema is not installed")
    _, bundle, _ = exported
    (tmp_path / "schema.json").write_text(json.dumps(SCHEMA))
    metadata, config = (bundle / "configs" / f"{name}.json" for name in ("metadata", "inference"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from monai.bundle import verify_metadata, verify_net_in_out

        verify_metadata(str(metadata), filepath=tmp_path / "schema.json")
        verify_net_in_out(
            "network", str(metadata), str(config), device="cpu", bundle_root=str(bundle)
        )


def test_the_items_that_other_programs_ask_for_are_there(exported, tmp_path):
    pytest.importorskip("ignite", reason="pytorch-ignite is not installed")
    scene, bundle, _ = exported
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from monai.bundle import ConfigWorkflow

        workflow = ConfigWorkflow(
            str(bundle / "configs" / "inference.json"),
            workflow_type="inference",
            logging_file=False,
            bundle_root=str(bundle),
            dataset_dir=str(scene.scans),
            output_dir=str(tmp_path / "evaluated"),
            device="cpu",
        )
        workflow.initialize()
        assert workflow.check_properties() == []
        workflow.evaluator.run()
        run_bundle(bundle, scene.scans, tmp_path / "run")
    for scan in scene.scans.iterdir():
        one, other = (
            sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / by / scan.name)))
            for by in ("evaluated", "run")
        )
        np.testing.assert_array_equal(one, other)


def test_weights_of_the_second_decoder_stay_at_home(organ, tmp_path):
    torch.manual_seed(1)
    built = build(
        NetworkConfig(name="unet-t1", width=1 / 16),
        spatial_dims=2,
        in_channels=1,
        out_channels=1,
        reconstruction=True,
    )
    report = export_network(built.eval(), organ.contract, tmp_path / "t1", organ.evidence, MONAI)
    kept = torch.load(tmp_path / "t1" / "models" / "model.pt", weights_only=True)
    counted = sum(
        value.numel() for name, value in kept.items() if name.endswith(("weight", "bias"))
    )
    assert counted < 0.8 * sum(weights.numel() for weights in built.parameters())
    assert report.verification.label_agreement >= 0.9999


def test_a_bundle_that_nobody_verified_says_so(organ, tmp_path):
    options = ExportOptions(verify=False, format="monai")
    bundle = tmp_path / "bundle"
    report = export_network(organ.network, organ.contract, bundle, organ.evidence, options)
    assert (report.verification, report.files) == (None, None)
    assert "Not verified" in (bundle / "docs" / "README.md").read_text(encoding="utf-8")
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text(encoding="utf-8"))
    assert metadata["medstill"]["contract"]["verification"] is None


def test_a_network_that_disagrees_is_not_written(organ, tmp_path, monkeypatch):
    opened = bundle_module.opened

    def slightly_wrong(*arguments):
        model = opened(*arguments)

        def call(array):
            answer = model(array)
            answer[:, :, 0] = -answer[:, :, 0] - 1e-3
            return answer

        return call

    monkeypatch.setattr(bundle_module, "opened", slightly_wrong)
    with pytest.raises(ModelFileError, match=r"was not written: it gives another label"):
        export_network(organ.network, organ.contract, tmp_path / "b", organ.evidence, MONAI)
    assert list(tmp_path.iterdir()) == []


def test_a_preparation_that_disagrees_is_not_written(organ, tmp_path, monkeypatch):
    def turned_round(agreed):
        config = inference_config(agreed)
        config["spacing_mm"] = [3.0 * step for step in config["spacing_mm"]]
        return config

    monkeypatch.setattr(bundle_module, "inference_config", turned_round)
    with pytest.raises(ModelFileError, match=r"was not written: from file to file MONAI reaches"):
        export_network(organ.network, organ.contract, tmp_path / "b", organ.evidence, MONAI)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"intensity": (WINDOW, WINDOW)}, r"images of one channel, this network takes 2"),
        ({"intensity": (ChannelIntensity(kind="gray"),)}, r"ct-window, percentiles.*found gray"),
        ({"crop_to_body": True}, r"trained with data\.crop_to_body"),
    ],
)
def test_what_monai_cannot_prepare_is_refused(organ, changes, message):
    preparation = organ.contract.preparation.model_copy(update=changes)
    with pytest.raises(ModelFileError, match=message):
        inference_config(organ.contract.model_copy(update={"preparation": preparation}))


def test_int8_is_refused_before_any_work(organ, tmp_path):
    options = ExportOptions("int8", format="monai")
    with pytest.raises(ConfigError, match=r"'monai' takes the precision fp32, got 'int8'"):
        export_network(organ.network, organ.contract, tmp_path / "b", organ.evidence, options)


def test_without_a_reader_the_pip_command_is_told(organ, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "nibabel", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'medstill\[monai\]'"):
        export_network(organ.network, organ.contract, tmp_path / "b", organ.evidence, MONAI)
    assert list(tmp_path.iterdir()) == []
