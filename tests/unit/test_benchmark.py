"""Models measured side by side, in processes of their own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from typer.testing import CliRunner

from dicom_factory import Plan, write_series
from medstill import cli, handover
from medstill.deploy.benchmark import PHASES, benchmark, drawn_ct, spread
from medstill.deploy.contender import place_of
from medstill.deploy.export import ExportReport
from medstill.errors import ConfigError, ModelFileError, StorageError
from medstill.terminal import console, show_export
from medstill.terminal_predict import show_benchmark
from tiny_onnx import write


def test_two_models_take_part_in_every_round(tmp_path):
    models = [write(tmp_path / f"{name}.onnx") for name in ("first", "second")]
    file = tmp_path / "found.json"
    arguments = ["benchmark", *map(str, models), "--rounds", "2", "--slices", "3", "--threads", "1"]
    result = CliRunner().invoke(cli.app, [*arguments, "-o", str(file)])
    assert result.exit_code == 0, result.output
    assert "first.onnx (onnxruntime, random)" in result.output
    found = json.loads(file.read_text())
    assert found["size_xyz"] == [512, 512, 3]
    assert found["machine"]["threads"] == 1
    assert found["machine"]["gemm_gmacs"]["n"] == 2
    for row, name in zip(found["models"], ("first.onnx", "second.onnx"), strict=True):
        assert row["model"] == name
        assert row["end_to_end_s"]["n"] == 2
        assert row["network_ms"]["n"] == 16
        assert set(row["phases_s"]) == set(PHASES)
        assert (
            sum(one["median"] for one in row["phases_s"].values())
            > 0.5 * (row["end_to_end_s"]["median"])
        )
        assert row["share_of_limit"] > 0
        assert 50 < row["peak_memory_mb"] < 2000
        rate = row["macs"] / (row["network_ms"]["median"] * 1e6)
        limit = found["machine"]["gemm_gmacs"]["median"] * row["call_threads"]
        assert row["share_of_limit"] == pytest.approx(rate / limit)


def test_a_scan_of_ones_own_is_measured(tmp_path):
    image = sitk.GetImageFromArray(np.arange(17 * 23 * 31, dtype=np.int16).reshape(17, 23, 31))
    sitk.WriteImage(image, tmp_path / "scan.nii.gz")
    model = write(tmp_path / "model.onnx", dims=3)
    found = benchmark(
        [str(model)], tmp_path / "scan.nii.gz", open_model=handover.open_model, threads=2, rounds=1
    )
    assert (found.source, found.size_xyz) == ("scan.nii.gz", (31, 23, 17))
    assert found.models[0].call_threads == 2


def test_a_student_is_named_behind_the_folder(tmp_path):
    assert place_of(f"{tmp_path}:teacher") == (tmp_path, "teacher")
    assert place_of(str(tmp_path)) == (tmp_path, None)
    assert place_of(f"{tmp_path}/one:two.onnx") == (tmp_path / "one:two.onnx", None)


def test_what_a_model_says_is_told(tmp_path):
    (tmp_path / "broken.onnx").write_text("no network")
    with pytest.raises(ModelFileError, match=r"broken\.onnx' could not be measured: .*export"):
        benchmark([str(tmp_path / "broken.onnx")], None, open_model=handover.open_model)
    with pytest.raises(ConfigError, match="got 0, 5 and 100"):
        benchmark([], None, open_model=handover.open_model)


def test_spreads_are_median_and_95th_percentile():
    found = spread([float(value) for value in range(101)])
    assert (found.median, found.p95, found.n) == (50.0, 95.0, 101)


def test_the_drawn_ct_is_as_hard_to_store_as_a_ct(tmp_path):
    sitk.WriteImage(drawn_ct(2, 0.8), tmp_path / "ct.nii.gz", True)
    size = (tmp_path / "ct.nii.gz").stat().st_size
    assert 0.3 < size / (2 * 512 * 512 * 2) < 0.7
    assert drawn_ct(1, 0.8).GetSpacing()[:2] == (0.8, 0.8)


def test_an_output_that_cannot_be_written_is_told_before_anything_is_measured(tmp_path):
    (tmp_path / "file").write_text("mine")
    for place in (tmp_path / "file" / "found.json", tmp_path):
        arguments = ["benchmark", str(tmp_path / "no-model.onnx"), "-o", str(place)]
        error = CliRunner().invoke(cli.app, arguments).exception
        assert isinstance(error, StorageError)
        assert str(error).startswith(f"Cannot write '{place}': ")


def test_the_table_is_printed_before_the_file_is_written(tmp_path, monkeypatch):
    def full(path, _):
        raise StorageError(f"No space left while writing '{path}'.")

    monkeypatch.setattr("medstill.runs.write_json", full)
    model = write(tmp_path / "model.onnx")
    arguments = ["benchmark", str(model), "--rounds", "1", "--slices", "1", "--threads", "1"]
    result = CliRunner().invoke(cli.app, [*arguments, "-o", str(tmp_path / "found.json")])
    assert isinstance(result.exception, StorageError)
    assert "model.onnx (onnxruntime, random)" in result.output


def test_names_in_brackets_are_printed_as_they_are(tmp_path, capsys):
    model = write(tmp_path / "c[v1].onnx")
    found = benchmark(
        [str(model)], None, open_model=handover.open_model, threads=1, rounds=1, slices=1
    )
    show_benchmark(console(), found.model_copy(update={"source": "scan [/y].nii.gz"}))
    printed = capsys.readouterr().out
    assert printed.startswith("scan [/y].nii.gz, 512 x 512 x 1 voxels")
    assert "c[v1].onnx (onnxruntime, random)" in printed


def test_the_name_of_an_export_is_printed_as_it_is(capsys):
    show_export(console(), ExportReport(Path("o[/x]") / "c[v1].onnx", 2048, 18, "fp32", ()))
    assert capsys.readouterr().out.startswith("o[/x]/c[v1].onnx: 2 KiB, fp32")


def measured(model, source, **settings):
    return benchmark(
        [str(model)], source, open_model=handover.open_model, threads=1, rounds=1, **settings
    )


def test_a_model_of_several_channels_is_measured(tmp_path):
    model = write(tmp_path / "model.onnx", channels=3)
    assert measured(model, None, slices=2, warm_up=0).size_xyz == (512, 512, 2)
    image = sitk.GetImageFromArray(np.arange(5 * 23 * 31, dtype=np.int16).reshape(5, 23, 31))
    files = [tmp_path / f"a_000{channel}.nii.gz" for channel in range(3)]
    for file in files:
        sitk.WriteImage(image, file)
    found = measured(model, files[0], warm_up=0)
    assert (found.source, found.size_xyz) == ("a_0000.nii.gz", (31, 23, 5))
    assert found.file_mb == pytest.approx(sum(file.stat().st_size for file in files) / 1e6)


def test_a_dicom_folder_is_as_large_as_its_files(tmp_path):
    write_series(tmp_path / "series", Plan())
    found = measured(write(tmp_path / "model.onnx"), tmp_path / "series", warm_up=0)
    sizes = [file.stat().st_size for file in (tmp_path / "series").iterdir()]
    assert len(sizes) > 1
    assert found.file_mb == pytest.approx(sum(sizes) / 1e6)
