"""A folder of scans as a pipeline: read, compute and write at the same time, in order."""

from __future__ import annotations

import threading
from contextlib import contextmanager

import numpy as np
import pytest
import SimpleITK as sitk

from medstill.deploy import folder
from medstill.deploy.predict import predict_path
from medstill.deploy.runtime import load_model
from medstill.errors import StorageError
from medstill.volumes.arriving import opened
from tiny_onnx import write

PATIENCE_S = 30.0


@pytest.fixture
def scans(tmp_path):
    place = tmp_path / "scans"
    place.mkdir()
    for seed, name in enumerate("abc"):
        values = np.random.default_rng(seed).normal(0, 150, (5, 23, 31)).astype(np.int16)
        sitk.WriteImage(sitk.GetImageFromArray(values), place / f"{name}.nii.gz")
    return place


@pytest.fixture
def model(tmp_path):
    return load_model(write(tmp_path / "model.onnx"), threads=1)


def test_the_next_scan_is_read_while_one_is_computed(scans, model, tmp_path, monkeypatch):
    read = {name: threading.Event() for name in "abc"}

    @contextmanager
    def reading(paths):
        with opened(paths) as scan:
            yield scan
        read[paths[0].name[0]].set()

    monkeypatch.setattr(folder, "opened", reading)
    met = []

    class Waiting:
        contract = model.contract

        def __call__(self, array, /):
            if not met:
                met.append(read["b"].wait(PATIENCE_S))
            return model(array)

    predict_path(Waiting(), scans, tmp_path / "out")
    assert met == [True]


def test_one_is_computed_while_the_last_is_written(scans, model, tmp_path, monkeypatch):
    computing, met = threading.Event(), []

    def writing(job, found, **how):
        if job.case == "a":
            met.append(computing.wait(PATIENCE_S))
        return plain(job, found, **how)

    plain = folder.write_case
    monkeypatch.setattr(folder, "write_case", writing)
    calls = []

    class Counting:
        contract = model.contract

        def __call__(self, array, /):
            calls.append(None)
            if len(calls) > calls_of_one:
                computing.set()
            return model(array)

    calls_of_one = 5  # five slices of two patches, two patches a call
    predict_path(Counting(), scans, tmp_path / "out")
    assert met == [True]


def test_results_come_in_order_and_are_counted(scans, model, tmp_path):
    (scans / "b.nii.gz").write_bytes(b"no image")
    seen = []
    results = predict_path(model, scans, tmp_path / "out", on_case=seen.append)
    assert tuple(seen) == results
    assert [(one.case, one.number, one.count) for one in results] == [
        ("a", 1, 3),
        ("b", 2, 3),
        ("c", 3, 3),
    ]
    assert [one.error is None for one in results] == [True, False, True]


def test_a_full_disk_ends_the_folder_and_leaves_nothing_half_written(
    scans, model, tmp_path, monkeypatch
):
    def full(job, found, **how):
        raise StorageError(f"No space left while writing '{job.output}' {found.volumes_ml}.")

    monkeypatch.setattr(folder, "write_case", full)
    with pytest.raises(StorageError, match="No space left"):
        predict_path(model, scans, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["volumes.json"]
