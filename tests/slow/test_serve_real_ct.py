"""`medstill serve` with the pixels of a real CT: what goes in by dcmtk comes back as a right SEG.

The series has no UIDs, so it is sent as a copy with new ones. The model calls all above a threshold
bone, on the scan's own grid: pydicom and a comparison tell what each voxel must be.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import yaml
from onnx import TensorProto, helper

from dicom_node import CT, answers, archive, free_port, needs_dcmtk, node_config, send, until
from dicom_peers import errors_of
from medstill.deploy.contract import Contract, NetworkSummary, Origin
from medstill.volumes.records import ChannelIntensity, Preparation
from medstill.volumes.terms import terms_of

pydicom = pytest.importorskip("pydicom", reason="pip install 'medstill[dicom]'")
highdicom = pytest.importorskip("highdicom", reason="pip install 'medstill[dicom]'")
pytest.importorskip("pynetdicom", reason="pip install 'medstill[dicom]'")

SERIES = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "dicom" / "ct-series"
ROOT = "1.2.826.0.1.3680043.99.21"
JPEG_2000 = "-xv"
THRESHOLD_HU = 180.0
LOW_HU, HIGH_HU = -160.0, 240.0

pytestmark = [
    pytest.mark.slow,
    needs_dcmtk,
    pytest.mark.skipif(not SERIES.is_dir(), reason="the CT series is not on this machine"),
    pytest.mark.skipif(os.name == "nt", reason="Windows knows no SIGTERM"),
]


@pytest.fixture
def images(tmp_path):
    """The files of the series with UIDs of their own, in the order of their names."""
    folder = tmp_path / "series"
    folder.mkdir()
    found = []
    for number, file in enumerate(sorted(SERIES.iterdir()), start=1):
        data = pydicom.dcmread(file)
        data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = CT
        data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = f"{ROOT}.3.{number}"
        data.StudyInstanceUID, data.SeriesInstanceUID = f"{ROOT}.1", f"{ROOT}.2"
        data.FrameOfReferenceUID = f"{ROOT}.4"
        found.append(folder / f"{number:03d}.dcm")
        data.save_as(found[-1])
    return found


@pytest.fixture
def model(tmp_path, images):
    """A sigmoid that is above one half from the threshold on."""
    step_y, step_x = map(float, pydicom.dcmread(images[0]).PixelSpacing)
    contract = Contract(
        network=NetworkSummary(name="threshold", parameters=2, macs=1),
        preparation=Preparation(
            spatial_dims=2,
            spacing_zyx_mm=(None, step_y, step_x),
            intensity=(ChannelIntensity(kind="ct-window", low=LOW_HU, high=HIGH_HU),),
            classes=("background", "bone"),
            patch_zyx=(1, 256, 256),
        ),
        terms=terms_of(("background", "bone"), {}),
        training=Origin(study="feedbeef", weights="0123456789abcdef"),
    )
    middle = (THRESHOLD_HU - 0.5 - LOW_HU) / (HIGH_HU - LOW_HU)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["image", "kernel", "bias"], ["logits"])],
        "graph",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 1, "y", "x"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 1, "y", "x"])],
        [
            helper.make_tensor("kernel", TensorProto.FLOAT, (1, 1, 1, 1), [1000.0]),
            helper.make_tensor("bias", TensorProto.FLOAT, (1,), [-1000.0 * middle]),
        ],
    )
    file = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(file, contract.to_metadata())
    onnx.save(file, tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def hu_by_instance(images):
    """SOP Instance UID -> the slice in Hounsfield units, as pydicom reads it."""
    found = {}
    for file in images:
        data = pydicom.dcmread(file)
        raw_YX = data.pixel_array.astype(np.float64)
        found[data.SOPInstanceUID] = raw_YX * data.RescaleSlope + data.RescaleIntercept
    return found


def masks_by_instance(path):
    """SOP Instance UID -> the mask that a SEG has for it, as highdicom reads it."""
    seg = highdicom.seg.segread(path)
    uids = [uid for _, _, uid in seg.get_source_image_uids()]
    masks = seg.get_pixels_by_source_instance(
        uids, segment_numbers=[1], assert_missing_frames_are_empty=True
    )
    return dict(zip(uids, masks[..., 0].astype(bool), strict=True))


def test_a_real_ct_comes_back_as_a_seg_of_the_same_voxels(tmp_path, images, model):
    config = node_config(tmp_path / "node", free_port(), threads=1)
    file = tmp_path / "serve.yaml"
    file.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    command = [sys.executable, "-m", "medstill"]
    with archive(tmp_path / "archive", config.receivers[0].port) as receiver:
        serve = [*command, "serve", str(model), "--config", str(file)]
        process = subprocess.Popen(serve, stderr=subprocess.PIPE, text=True)
        try:
            until(lambda: answers(config.port) or process.poll() is not None, "it does not listen")
            sent = send(config, images, JPEG_2000)
            assert sent.returncode == 0, sent.stdout
            until(receiver.received, "the segmentation does not come", patience_s=240.0)
        finally:
            process.send_signal(signal.SIGTERM)
            _, log = process.communicate(timeout=60.0)
        assert process.returncode == 0, log
        (received,) = receiver.received()
    predict = [*command, "predict", str(model), str(images[0].parent), str(tmp_path / "ours.dcm")]
    done = subprocess.run(
        [*predict, "--format", "dicom-seg"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert errors_of(received) == []
    served, ours = masks_by_instance(received), masks_by_instance(tmp_path / "ours.dcm")
    expected = {uid: hu_YX >= THRESHOLD_HU for uid, hu_YX in hu_by_instance(images).items()}
    assert set(served) == set(ours) == set(expected)
    assert sum(int(mask.sum()) for mask in expected.values()) > 10_000
    for uid, mask_YX in expected.items():
        np.testing.assert_array_equal(served[uid], mask_YX)
        np.testing.assert_array_equal(ours[uid], mask_YX)
