"""The core install alone, in a new environment: no PyTorch, and both commands work."""

from __future__ import annotations

import os
import subprocess
import venv
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from tiny_onnx import CLASSES, write

PROJECT = Path(__file__).resolve().parents[2]
MOST_MB = 600
"""What the installed core may take, pip included."""


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    folder = tmp_path_factory.mktemp("core") / "venv"
    venv.create(folder, with_pip=True)
    programs = folder / ("Scripts" if os.name == "nt" else "bin")
    limits = ["-c", str(PROJECT / "constraints.txt")]
    install = [str(programs / "pip"), "install", "-q", *limits, str(PROJECT)]
    done = subprocess.run(install, capture_output=True, text=True, check=False, cwd=folder)
    assert done.returncode == 0, done.stderr
    return programs


def told_by(environment, *arguments):
    """What the installed command prints; it must not see this checkout."""
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(environment / arguments[0]), *map(str, arguments[1:])],
        capture_output=True,
        text=True,
        check=False,
        env=clean,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_it_predicts_and_tells_of_a_model(environment, tmp_path):
    model = write(tmp_path / "model.onnx")
    values = np.random.default_rng(0).normal(0, 150, (17, 23, 31)).astype(np.int16)
    sitk.WriteImage(sitk.GetImageFromArray(values), tmp_path / "scan.nii.gz")
    assert '"random"' in told_by(environment, "medstill", "info", model)
    made = told_by(
        environment, "medstill", "predict", model, tmp_path / "scan.nii.gz", tmp_path / "out.nii.gz"
    )
    assert f"{CLASSES[1]} " in made
    label = sitk.GetArrayFromImage(sitk.ReadImage(tmp_path / "out.nii.gz"))
    assert set(np.unique(label)) == {0, 1, 2}


@pytest.mark.slow
def test_it_brings_no_torch_and_stays_small(environment):
    names = {line.split("==")[0].lower() for line in told_by(environment, "pip", "freeze").split()}
    assert {"numpy", "simpleitk", "onnxruntime"} <= names
    assert names.isdisjoint({"torch", "monai", "scipy", "matplotlib", "onnx", "pydicom"})
    files = (path for path in environment.parent.rglob("*") if path.is_file())
    assert sum(path.stat().st_size for path in files) / 1e6 < MOST_MB
