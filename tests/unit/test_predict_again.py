"""Predicting a folder again: what is kept is what the same call would make, and nothing is lost."""

from __future__ import annotations

import io
import json
import os
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
from rich.console import Console
from test_predict import l_shape, model, write

from medstill.deploy.cases import CaseResult, PredictOptions
from medstill.deploy.predict import predict_path
from medstill.errors import DataError, GeometryError, LayoutError, RunError
from medstill.terminal_predict import show_case

PROBABILITIES = PredictOptions(keep_probabilities=True)


def never(array):
    raise AssertionError(f"computed {array.shape}")


@pytest.fixture
def scans(tmp_path):
    write(tmp_path / "in" / "a.nii.gz")
    return tmp_path / "in"


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        (PredictOptions(largest_component=True), "largest_component False there and True now"),
        (PredictOptions(mirror=True), "mirror False there and True now"),
        (PredictOptions(overlap=0.25), r"overlap 0\.5 there and 0\.25 now"),
    ],
)
def test_labels_of_other_options_are_not_passed_off_as_these(scans, tmp_path, changed, named):
    predict_path(model(), scans, tmp_path / "out")
    with pytest.raises(RunError, match=rf"other options \({named}\).*--overwrite"):
        predict_path(model(), scans, tmp_path / "out", changed)


def test_options_that_change_no_label_may_change(scans, tmp_path):
    predict_path(model(), scans, tmp_path / "out")
    options = PredictOptions(batch_size=5, threads=1, overlap=0.5)
    (result,) = predict_path(model(), scans, tmp_path / "out", options)
    assert (result.skipped, result.error) == (True, None)


def test_the_same_weights_in_8_bits_are_another_model(scans, tmp_path):
    predict_path(model(), scans, tmp_path / "out")
    plain = model()
    coarse = replace(plain, contract=plain.contract.model_copy(update={"precision": "int8"}))
    with pytest.raises(RunError, match=r"another model \(precision fp32 there and int8 now\)"):
        predict_path(coarse, scans, tmp_path / "out")


def test_a_changed_image_is_told_and_its_old_labels_are_left(scans, tmp_path):
    out = tmp_path / "out"
    predict_path(model(), scans, out)
    before = (out / "a.nii.gz").read_bytes()
    write(scans / "a.nii.gz", np.flip(l_shape()[:9], 1))
    for _ in range(2):
        (result,) = predict_path(model(), scans, out)
        assert "a.nii.gz' is not the file any more that" in result.error
        assert (out / "a.nii.gz").read_bytes() == before
    (out / "a.nii.gz").unlink()
    (made,) = predict_path(model(), scans, out)
    (again,) = predict_path(model(), scans, out)
    assert (made.skipped, again.skipped) == (False, True)
    assert made.error is again.error is None
    assert again.volumes_ml == made.volumes_ml


def test_foreign_labels_are_left_where_only_the_probabilities_are_missing(scans, tmp_path):
    there = write(tmp_path / "out" / "a.nii.gz")
    before = there.read_bytes()
    for options in (PROBABILITIES, PredictOptions(), PROBABILITIES):
        (result,) = predict_path(model(), scans, tmp_path / "out", options)
        assert (result.skipped, result.error) == (True, None)
        assert "a.nii.gz' was there before and is not known" in result.warnings[0]
    assert there.read_bytes() == before
    assert not (tmp_path / "out" / "a_probabilities.nii.gz").exists()


def test_foreign_probabilities_are_left_where_only_the_labels_are_missing(scans, tmp_path):
    there = write(tmp_path / "out" / "a_probabilities.nii.gz")
    before = there.read_bytes()
    (result,) = predict_path(model(), scans, tmp_path / "out", PROBABILITIES)
    assert "a_probabilities.nii.gz' was there before and is not known" in result.warnings[0]
    assert there.read_bytes() == before
    assert not (tmp_path / "out" / "a.nii.gz").exists()


def test_old_labels_of_a_changed_image_are_left_when_probabilities_are_asked_for(scans, tmp_path):
    out = tmp_path / "out"
    predict_path(model(), scans, out)
    before = (out / "a.nii.gz").read_bytes()
    write(scans / "a.nii.gz", np.flip(l_shape()[:9], 1))
    (result,) = predict_path(model(), scans, out, PROBABILITIES)
    assert "a.nii.gz' is not the file any more that" in result.error
    assert (out / "a.nii.gz").read_bytes() == before
    assert not (out / "a_probabilities.nii.gz").exists()


def test_missing_probabilities_of_a_finished_case_are_made_beside_its_labels(scans, tmp_path):
    out = tmp_path / "out"
    (first,) = predict_path(model(), scans, out)
    label = out / "a.nii.gz"
    before = label.stat().st_mtime_ns
    (second,) = predict_path(model(), scans, out, PROBABILITIES)
    assert (second.skipped, second.error) == (False, None)
    assert second.volumes_ml == first.volumes_ml
    assert label.stat().st_mtime_ns == before
    shares = sitk.ReadImage(out / "a_probabilities.nii.gz")
    most = np.argmax(sitk.GetArrayFromImage(shares), axis=-1)
    np.testing.assert_array_equal(most, sitk.GetArrayFromImage(sitk.ReadImage(label)))


def test_labels_stay_known_when_their_probabilities_cannot_be_made(scans, tmp_path):
    def broken(_array):
        raise MemoryError("none left")

    out = tmp_path / "out"
    predict_path(model(), scans, out)
    (failed,) = predict_path(model(function=broken), scans, out, PROBABILITIES)
    assert failed.error == "none left"
    (again,) = predict_path(model(), scans, out)
    assert (again.skipped, again.warnings, again.error) == (True, (), None)


def test_two_images_of_one_stem_keep_their_own_volumes(scans, tmp_path):
    write(scans / "a.mha", l_shape() * (np.arange(31) < 15))
    first = predict_path(model(), scans, tmp_path / "out")
    again = predict_path(model(), scans, tmp_path / "out")
    assert first[0].volumes_ml != first[1].volumes_ml
    assert [one.volumes_ml for one in again] == [one.volumes_ml for one in first]
    assert all(one.skipped for one in again)


@pytest.mark.parametrize("content", [[], {}, {"model": {}}, {"cases": {"a.nii.gz": {}}}, None])
def test_a_summary_that_says_nothing_is_refused(scans, tmp_path, content):
    predict_path(model(), scans, tmp_path / "out")
    (tmp_path / "out" / "volumes.json").write_text(json.dumps(content))
    with pytest.raises(RunError, match=r"volumes\.json' does not say which model.*--overwrite"):
        predict_path(model(), scans, tmp_path / "out")
    (result,) = predict_path(model(), scans, tmp_path / "out", PredictOptions(overwrite=True))
    assert (result.skipped, result.error) == (False, None)


def test_probabilities_never_replace_the_input(tmp_path):
    source = write(tmp_path / "scan_probabilities.nii.gz")
    before = source.read_bytes()
    options = replace(PROBABILITIES, overwrite=True)
    with pytest.raises(DataError, match=r"scan_probabilities\.nii\.gz' would overwrite an input"):
        predict_path(model(), source, tmp_path / "scan.nii.gz", options)
    assert source.read_bytes() == before


@pytest.mark.skipif(os.name == "nt", reason="hard links need rights on Windows")
def test_an_input_is_known_by_its_other_name_too(scans, tmp_path):
    other = write(scans / "b.nii.gz")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.nii.gz").hardlink_to(other)
    before = other.read_bytes()
    with pytest.raises(DataError, match=r"out/a\.nii\.gz' would overwrite an input"):
        predict_path(model(), scans, tmp_path / "out", PredictOptions(overwrite=True))
    assert other.read_bytes() == before


def test_probabilities_that_exist_are_replaced_only_on_request(tmp_path):
    source = write(tmp_path / "scan.nii.gz")
    there = write(tmp_path / "out" / "scan_probabilities.nii.gz")
    before = there.read_bytes()
    with pytest.raises(DataError, match=r"scan_probabilities\.nii\.gz' exists already"):
        predict_path(model(), source, tmp_path / "out", PROBABILITIES)
    assert there.read_bytes() == before
    assert not (tmp_path / "out" / "scan.nii.gz").exists()


def test_the_probabilities_of_one_case_are_not_the_labels_of_another(scans, tmp_path):
    write(scans / "a_probabilities.nii.gz")
    with pytest.raises(DataError, match=r"both write '.*a_probabilities\.nii\.gz'"):
        predict_path(model(), scans, tmp_path / "out", PROBABILITIES)
    assert len(predict_path(model(), scans, tmp_path / "out")) == 2


def test_a_series_beside_images_is_not_passed_over(scans, tmp_path):
    (scans / "slice_1").write_bytes(bytes(128) + b"DICM")
    with pytest.raises(LayoutError, match=r"holds images \('a\.nii\.gz'\).*\('slice_1'\)"):
        predict_path(model(), scans, tmp_path / "out")
    (scans / "slice_1").write_bytes(b"a note")
    assert len(predict_path(model(), scans, tmp_path / "out")) == 1


def test_names_are_printed_as_they_are(tmp_path):
    out = Console(file=io.StringIO(), width=200)
    show_case(out, CaseResult("ct[arterial]", tmp_path / "[bold]" / "x[/o].mha", {"[/nope]": 1.0}))
    told = out.file.getvalue()
    assert told.startswith("ct[arterial]: ")
    assert "x[/o].mha: [/nope] 1.0 ml" in told


@pytest.mark.parametrize("name", ["x.png", "x.tif"])
def test_a_volume_does_not_go_into_a_picture(scans, tmp_path, name):
    with pytest.raises(
        GeometryError, match=rf"{name}' is a picture, .*a\.nii\.gz' has 17\. Choose"
    ):
        predict_path(model(function=never), scans / "a.nii.gz", tmp_path / name, PROBABILITIES)
    assert [entry.name for entry in tmp_path.iterdir()] == ["in"]


def test_a_stack_of_pictures_is_told_to_become_a_volume(tmp_path):
    (tmp_path / "in").mkdir()
    stack = sitk.GetImageFromArray(l_shape().astype(np.uint8))
    sitk.WriteImage(stack, tmp_path / "in" / "b.tif")
    write(tmp_path / "in" / "a.nii.gz")
    good, bad = predict_path(model(), tmp_path / "in", tmp_path / "out")
    assert good.error is None
    assert "out/b.tif' is a picture, which holds one slice" in bad.error
    assert "--format nifti" in bad.error
    options = PredictOptions(format="nifti")
    assert not any(one.error for one in predict_path(model(), tmp_path / "in", tmp_path, options))


@pytest.mark.parametrize("name", ["Y.NII.GZ", "y.Nii", "y.MHA"])
def test_endings_in_capitals_that_cannot_be_written_are_refused(scans, tmp_path, name):
    with pytest.raises(DataError, match=rf"{name}' cannot be written .* in small letters.*Rename"):
        predict_path(model(function=never), scans / "a.nii.gz", tmp_path / name)


def test_endings_in_capitals_that_can_be_written_are_taken(scans, tmp_path):
    predict_path(model(), scans / "a.nii.gz", tmp_path / "y.NRRD")
    assert sitk.ReadImage(tmp_path / "y.NRRD").GetSize() == (31, 23, 17)


def test_probabilities_of_another_image_are_not_passed_off_as_this_ones(scans, tmp_path):
    out = tmp_path / "out"
    predict_path(model(), scans, out, PROBABILITIES)
    of_the_old = (out / "a_probabilities.nii.gz").read_bytes()
    write(scans / "a.nii.gz", np.flip(l_shape()[:9], 1))
    (out / "a.nii.gz").unlink()
    (made,) = predict_path(model(), scans, out)
    assert (made.skipped, made.error) == (False, None)
    (left,) = predict_path(model(), scans, out, PROBABILITIES)
    assert left.skipped
    assert "a_probabilities.nii.gz' was there before and is not known to come" in left.warnings[0]
    assert (out / "a_probabilities.nii.gz").read_bytes() == of_the_old
    (out / "a_probabilities.nii.gz").unlink()
    (again,) = predict_path(model(), scans, out, PROBABILITIES)
    (kept,) = predict_path(model(), scans, out, PROBABILITIES)
    assert (again.skipped, again.warnings) == (False, made.warnings)
    assert (kept.skipped, kept.warnings) == (True, made.warnings)
    assert (out / "a_probabilities.nii.gz").read_bytes() != of_the_old


def test_probabilities_of_a_replaced_label_are_not_passed_off_as_of_the_new_one(scans, tmp_path):
    out = tmp_path / "out"
    predict_path(model(), scans, out, PROBABILITIES)
    mirrored = PredictOptions(mirror=True, overwrite=True)
    predict_path(model(), scans, out, mirrored)
    options = PredictOptions(mirror=True, keep_probabilities=True)
    (left,) = predict_path(model(), scans, out, options)
    assert "a_probabilities.nii.gz' was there before" in left.warnings[0]


def test_a_link_whose_file_is_away_is_a_case_that_failed(scans, tmp_path):
    (scans / "b.nii.gz").symlink_to(tmp_path / "away.nii.gz")
    made, missing = predict_path(model(), scans, tmp_path / "out")
    assert made.error is None
    assert "b.nii.gz' does not exist" in missing.error


def test_a_name_that_gets_too_long_is_told_before_anything_is_computed(scans, tmp_path):
    write(scans / f"{'b' * 240}.nii.gz")
    predict_path(model(), scans, tmp_path / "labels")
    with pytest.raises(DataError, match=r"_probabilities.nii.gz' is too long: .*rename 'bbb"):
        predict_path(model(function=never), scans, tmp_path / "out", PROBABILITIES)


def test_a_label_name_that_is_too_long_is_told(scans, tmp_path):
    with pytest.raises(DataError, match=r"is too long: expected at most 255 bytes, found 257"):
        predict_path(model(), scans / "a.nii.gz", tmp_path / f"{'a' * 250}.nii.gz")
