"""`medstill serve`: from the command to a segmentation that names the images it was made of."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
import yaml
from test_segmenter import write as write_model
from typer.testing import CliRunner

from dicom_node import (
    PERSON,
    answers,
    archive,
    free_port,
    needs_dcmtk,
    node_config,
    send,
    until,
    write_series,
)
from medstill import cli

pydicom = pytest.importorskip("pydicom", reason="pip install 'medstill[dicom]'")
pytest.importorskip("pynetdicom", reason="pip install 'medstill[dicom]'")
pytest.importorskip("highdicom", reason="pip install 'medstill[dicom]'")


@pytest.fixture
def model(tmp_path):
    return write_model(tmp_path / "model.onnx")


@pytest.fixture
def written(tmp_path):
    """The configuration, and its file."""
    config = node_config(tmp_path / "node", free_port(), threads=1)
    file = tmp_path / "serve.yaml"
    file.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    return config, file


@needs_dcmtk
@pytest.mark.skipif(os.name == "nt", reason="Windows knows no SIGTERM")
def test_a_series_becomes_a_seg_that_names_its_images(tmp_path, model, written):
    config, file = written
    series = write_series(tmp_path / "series", slices=5)
    with archive(tmp_path / "archive", config.receivers[0].port) as receiver:
        command = [sys.executable, "-m", "medstill", "serve", str(model), "--config", str(file)]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        try:
            until(lambda: answers(config.port) or process.poll() is not None, "it does not listen")
            assert send(config, series.files).returncode == 0
            until(receiver.received, "the segmentation does not come")
        finally:
            process.send_signal(signal.SIGTERM)
            _, log = process.communicate(timeout=60.0)
        assert process.returncode == 0, log
        (file,) = receiver.received()
    found = pydicom.dcmread(file)
    assert found.Modality == "SEG"
    assert (found.PatientName, found.PatientID) == (PERSON["PatientName"], PERSON["PatientID"])
    (reference,) = found.ReferencedSeriesSequence
    assert reference.SeriesInstanceUID == series.uid
    named = [one.ReferencedSOPInstanceUID for one in reference.ReferencedInstanceSequence]
    assert sorted(named) == series.instance_uids
    assert [value for value in (*PERSON.values(), series.uid) if value in log] == []
    assert "complete with 5 instances" in log


@needs_dcmtk
# pynetdicom leaves the socket of a refused connection to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_the_check_echoes_every_receiver(tmp_path, model, written, restored):
    config, file = written
    arguments = ["serve", str(model), "--config", str(file), "--check"]
    absent = CliRunner().invoke(cli.app, arguments)
    assert absent.exit_code == 2
    assert "receiver ARCHIVE does not answer: no association" in absent.output
    with archive(tmp_path / "archive", config.receivers[0].port):
        present = CliRunner().invoke(cli.app, arguments)
    assert present.exit_code == 0, present.output
    assert "receiver ARCHIVE answers" in present.output
    assert not config.folder.exists()


@pytest.fixture
def restored():
    """What the command silences for its whole process."""
    import logging
    import threading

    import SimpleITK as sitk

    from medstill.node.service import TALKATIVE

    levels = {name: logging.getLogger(name).level for name in TALKATIVE}
    shown, hook = sitk.ProcessObject.GetGlobalWarningDisplay(), threading.excepthook
    yield
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    sitk.ProcessObject.SetGlobalWarningDisplay(shown)
    threading.excepthook = hook


def test_a_model_or_file_that_is_wrong_is_told(tmp_path, model, written):
    from medstill.errors import ConfigError, ModelFileError

    _, file = written
    with pytest.raises(ModelFileError, match="model"):
        CliRunner().invoke(
            cli.app,
            ["serve", str(tmp_path / "no.onnx"), "--config", str(file)],
            catch_exceptions=False,
        )
    with pytest.raises(ConfigError, match="Cannot read the configuration"):
        CliRunner().invoke(
            cli.app,
            ["serve", str(model), "--config", str(tmp_path / "no.yaml")],
            catch_exceptions=False,
        )
