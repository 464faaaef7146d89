"""Segmenting files and folders, with networks that are plain functions."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from medstill.deploy.contract import Contract, NetworkSummary, Origin
from medstill.deploy.predict import CaseResult, PredictOptions, predict_path
from medstill.errors import (
    DataError,
    LayoutError,
    RunError,
    UnreadableFileError,
)
from medstill.volumes.io import read_image
from medstill.volumes.records import ChannelIntensity, Preparation
from medstill.volumes.terms import terms_of

SPACING_XYZ = (1.0, 2.0, 3.0)
SHAPE_ZYX = (17, 23, 31)
PLAIN = ChannelIntensity(kind="none")


def preparation(**changes):
    settings = {
        "spatial_dims": 2,
        "spacing_zyx_mm": (None, 2.0, 1.0),
        "intensity": (PLAIN,),
        "classes": ("background", "organ"),
        "patch_zyx": (1, 16, 16),
    }
    return Preparation(**{**settings, **changes})


def threshold(array):
    """One logit, positive where the first channel exceeds a half."""
    return (20.0 * (array[:, :1] - 0.5)).astype(np.float32)


def l_shape(shape_zyx=SHAPE_ZYX):
    """An object that no mirroring or exchange of axes maps to itself."""
    array = np.zeros(shape_zyx, dtype=np.float32)
    array[3:14, 4:7, 5:9] = 1
    array[3:6, 4:19, 5:9] = 1
    array[3:6, 4:7, 5:26] = 1
    return array


def volume(array_ZYX, spacing=SPACING_XYZ):
    image = sitk.GetImageFromArray(array_ZYX)
    image.SetSpacing(spacing)
    image.SetOrigin((11.25, -7.5, 103.125))
    return image


@dataclass(frozen=True)
class FakeModel:
    contract: Contract
    function: object = staticmethod(threshold)

    def __call__(self, array, /):
        return self.function(array)


def model(weights="0123456789abcdef", function=threshold, **changes):
    prepared = preparation(**changes)
    contract = Contract(
        network=NetworkSummary(name="fake", parameters=0, macs=0),
        preparation=prepared,
        terms=terms_of(prepared.classes, {}),
        training=Origin(study="feedbeef", weights=weights),
    )
    return FakeModel(contract, function)


def write(path, array=None, spacing=SPACING_XYZ):
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(volume(l_shape() if array is None else array, spacing=spacing), str(path))
    return path


def test_a_file_becomes_a_file(tmp_path):
    source = write(tmp_path / "in" / "scan.nrrd")
    target = tmp_path / "out" / "mask.nii.gz"
    seen = []
    (result,) = predict_path(model(), source, target, on_case=seen.append)
    assert seen == [result]
    assert result == CaseResult("scan", target, {"organ": result.volumes_ml["organ"]})
    np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(target)), l_shape())
    assert [path.name for path in target.parent.iterdir()] == ["mask.nii.gz"]


def test_a_file_goes_into_a_folder_under_its_own_name(tmp_path):
    source = write(tmp_path / "scan.mha")
    (result,) = predict_path(model(), source, tmp_path / "out")
    assert result.output == tmp_path / "out" / "scan.mha"
    assert result.output.is_file()


def test_a_picture_becomes_a_picture(tmp_path):
    pixels = (l_shape()[4] * 255).astype(np.uint8)
    sitk.WriteImage(sitk.GetImageFromArray(pixels), tmp_path / "eye.png")
    chosen = model(intensity=(ChannelIntensity(kind="colour"),), spacing_zyx_mm=(None, 1.0, 1.0))
    (result,) = predict_path(chosen, tmp_path / "eye.png", tmp_path / "out")
    assert result.output == tmp_path / "out" / "eye.png"
    found = sitk.ReadImage(result.output)
    assert found.GetDimension() == 2
    np.testing.assert_array_equal(sitk.GetArrayFromImage(found), pixels > 127)


def test_labels_never_become_jpeg(tmp_path):
    pixels = (l_shape()[4] * 255).astype(np.uint8)
    sitk.WriteImage(sitk.GetImageFromArray(pixels), tmp_path / "eye.jpg")
    chosen = model(intensity=(ChannelIntensity(kind="colour"),), spacing_zyx_mm=(None, 1.0, 1.0))
    (result,) = predict_path(chosen, tmp_path / "eye.jpg", tmp_path / "out")
    assert result.output.name == "eye.png"
    with pytest.raises(DataError, match=r"'.*mask\.jpg' cannot hold labels.*\.png"):
        predict_path(chosen, tmp_path / "eye.jpg", tmp_path / "mask.jpg")


def test_probabilities_lie_beside_the_label(tmp_path):
    source = write(tmp_path / "scan.nii.gz")
    predict_path(model(), source, tmp_path / "out", PredictOptions(keep_probabilities=True))
    maps = sitk.ReadImage(tmp_path / "out" / "scan_probabilities.nii.gz")
    assert maps.GetNumberOfComponentsPerPixel() == 2


def test_a_folder_goes_on_after_a_bad_case_and_repeats_only_what_is_missing(tmp_path):
    folder, out = tmp_path / "in", tmp_path / "out"
    for name in ("a", "c"):
        write(folder / f"{name}.nii.gz")
    (folder / "b.nii.gz").write_bytes((folder / "a.nii.gz").read_bytes()[:200])
    (folder / "notes.txt").write_text("no image")
    first, bad, last = predict_path(model(), folder, out)
    assert [first.case, bad.case, last.case] == ["a", "b", "c"]
    assert first.error is None
    assert last.error is None
    assert "b.nii.gz" in bad.error
    assert sorted(path.name for path in out.iterdir()) == [
        "a.nii.gz",
        "c.nii.gz",
        "volumes.json",
    ]
    summary = json.loads((out / "volumes.json").read_text())
    assert summary["cases"]["a.nii.gz"]["volumes_ml"] == first.volumes_ml
    assert summary["cases"]["b.nii.gz"]["error"] == bad.error
    assert summary["model"]["weights_hash"] == "0123456789abcdef"

    shutil.copy(folder / "a.nii.gz", folder / "b.nii.gz")
    before = (out / "a.nii.gz").stat().st_mtime_ns
    again = predict_path(model(), folder, out)
    assert [result.skipped for result in again] == [True, False, True]
    assert [result.error for result in again] == [None, None, None]
    assert again[0].volumes_ml == first.volumes_ml
    assert (out / "a.nii.gz").stat().st_mtime_ns == before
    assert json.loads((out / "volumes.json").read_text())["cases"]["b.nii.gz"]["error"] is None

    replaced = predict_path(model(), folder, out, PredictOptions(overwrite=True))
    assert not any(result.skipped for result in replaced)


def test_outputs_of_another_model_are_not_mixed(tmp_path):
    write(tmp_path / "in" / "a.nii.gz")
    predict_path(model(), tmp_path / "in", tmp_path / "out")
    other = model(weights="aaaabbbbccccdddd")
    with pytest.raises(RunError, match=r"predictions of another model.*--overwrite"):
        predict_path(other, tmp_path / "in", tmp_path / "out")
    (result,) = predict_path(
        other, tmp_path / "in", tmp_path / "out", PredictOptions(overwrite=True)
    )
    assert not result.skipped


def test_a_file_of_unknown_origin_is_left_as_it_is(tmp_path):
    write(tmp_path / "in" / "a.nii.gz")
    truth = write(tmp_path / "out" / "a.nii.gz", 5 * l_shape())
    before = truth.read_bytes()
    (result,) = predict_path(model(), tmp_path / "in", tmp_path / "out")
    assert result.skipped
    assert "was there before" in result.warnings[0]
    assert truth.read_bytes() == before


def test_channel_files_are_one_case(tmp_path):
    folder = tmp_path / "in"
    write(folder / "p1_0000.nii.gz", 0 * l_shape() + np.arange(31, dtype=np.float32))
    write(folder / "p1_0001.nii.gz")
    write(folder / "p2_0000.nii.gz")
    chosen = model(function=lambda array: threshold(array[:, 1:]), intensity=(PLAIN, PLAIN))
    whole, lonely = predict_path(chosen, folder, tmp_path / "out")
    assert whole.output.name == "p1.nii.gz"
    np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(whole.output)), l_shape())
    assert lonely.case == "p2_0000"
    assert "2 channel(s)" in lonely.error
    (single,) = predict_path(chosen, folder / "p1_0001.nii.gz", tmp_path / "single")
    assert single.output.name == "p1.nii.gz"


def test_numbered_pictures_of_a_model_of_one_channel_stay_apart(tmp_path):
    for number in range(2):
        write(tmp_path / "in" / f"frame_{number:04}.nii.gz")
    results = predict_path(model(), tmp_path / "in", tmp_path / "out")
    assert [result.output.name for result in results] == [
        "frame_0000.nii.gz",
        "frame_0001.nii.gz",
    ]


def test_two_cases_of_one_name_are_refused_before_any_work(tmp_path):
    pixels = (l_shape()[4] * 255).astype(np.uint8)
    for name in ("eye.png", "eye.jpg"):
        (tmp_path / "in").mkdir(exist_ok=True)
        sitk.WriteImage(sitk.GetImageFromArray(pixels), tmp_path / "in" / name)
    with pytest.raises(DataError, match=r"eye\.\w+' and .*two cases that would both write.*Rename"):
        predict_path(model(), tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("target", ["in", "in/a.nii.gz", "link"])
def test_the_input_is_never_overwritten(tmp_path, target):
    source = write(tmp_path / "in" / "a.nii.gz")
    (tmp_path / "link").symlink_to(tmp_path / "in")
    before = source.read_bytes()
    options = PredictOptions(overwrite=True)
    for given in (source, source.parent):
        if given.is_dir() and target.endswith("gz"):
            continue
        with pytest.raises(DataError, match=r"would overwrite an input"):
            predict_path(model(), given, tmp_path / target, options)
    assert source.read_bytes() == before
    assert [path.name for path in source.parent.iterdir()] == ["a.nii.gz"]


def test_an_output_that_exists_is_kept_unless_told_otherwise(tmp_path):
    source, target = write(tmp_path / "a.nii.gz"), tmp_path / "out" / "a.nii.gz"
    predict_path(model(), source, target)
    with pytest.raises(DataError, match=r"exists already.*--overwrite"):
        predict_path(model(), source, target)
    (result,) = predict_path(model(), source, target, PredictOptions(overwrite=True))
    assert not result.skipped


def test_a_folder_into_a_file_is_refused(tmp_path):
    write(tmp_path / "in" / "a.nii.gz")
    with pytest.raises(DataError, match=r"folder of images, but the output .*Give a folder"):
        predict_path(model(), tmp_path / "in", tmp_path / "mask.nii.gz")


def test_an_empty_folder_and_a_missing_file_are_named(tmp_path):
    (tmp_path / "in").mkdir()
    with pytest.raises(LayoutError, match=r"'.*in' is empty: expected images"):
        predict_path(model(), tmp_path / "in", tmp_path / "out")
    with pytest.raises(UnreadableFileError, match=r"gone\.nii"):
        predict_path(model(), tmp_path / "gone.nii", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_dicom_folder_becomes_a_file_in_its_geometry(tmp_path):
    series = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "dicom" / "ct-series"
    if not series.is_dir():
        pytest.skip("the DICOM example series is not beside the project")
    bone = model(
        intensity=(ChannelIntensity(kind="ct-window", low=-200.0, high=600.0),),
        spacing_zyx_mm=(None, 3.0, 3.0),
        patch_zyx=(1, 128, 128),
    )
    (result,) = predict_path(bone, series, tmp_path / "out")
    assert result.output == tmp_path / "out" / "ct-series.nii.gz"
    label, image = sitk.ReadImage(result.output), read_image(series)
    assert label.GetSize() == image.GetSize()
    np.testing.assert_allclose(label.GetOrigin(), image.GetOrigin(), atol=1e-3)
    np.testing.assert_allclose(label.GetDirection(), image.GetDirection(), atol=1e-6)
    inside = sitk.GetArrayFromImage(image)[sitk.GetArrayFromImage(label) > 0]
    outside = sitk.GetArrayFromImage(image)[sitk.GetArrayFromImage(label) == 0]
    assert np.median(inside) > 200 > np.median(outside)


def test_a_bad_single_file_leaves_nothing(tmp_path):
    source = write(tmp_path / "a.nii.gz")
    source.write_bytes(source.read_bytes()[:200])
    with pytest.raises(UnreadableFileError, match=r"a\.nii\.gz"):
        predict_path(model(), source, tmp_path / "out")
    assert not (tmp_path / "out").exists()
