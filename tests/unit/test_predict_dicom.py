"""A DICOM study goes in, labels come out as DICOM objects or as a volume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from test_predict import model

from dicom_factory import Plan, write_frames, write_series
from dicom_peers import errors_of, on_grid, voxels_of
from medstill.deploy.cases import PredictOptions
from medstill.deploy.predict import predict_path
from medstill.errors import (
    DataError,
    GeometryError,
    MissingExtraError,
    UnknownNameError,
    UnreadableFileError,
)
from medstill.volumes.records import ChannelIntensity

pytest.importorskip("pydicom", reason="the series are written with pydicom")
highdicom = pytest.importorskip("highdicom", reason="the objects are read with highdicom")

SERIES = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "dicom" / "ct-series"
WINDOW = (ChannelIntensity(kind="ct-window", low=-160.0, high=240.0),)
OTHER = Plan(uid="1.2.826.0.1.3680043.8.498.9", description="native", seed=3)


def threshold() -> Any:
    """A model that labels all above 40 HU: the blob, and some of the noise."""
    return model(intensity=WINDOW, spacing_zyx_mm=(None, 2.0, 1.5))


def expected(plan: Plan) -> np.ndarray:
    hu = plan.pixels() - 1024.0
    return (hu > 40.0)[:: plan.step]


def predict(source: Path, target: Path, **options: Any) -> Any:
    (result,) = predict_path(threshold(), source, target, PredictOptions(**options))
    return result


def read_seg(path: Path) -> np.ndarray:
    return highdicom.seg.segread(path).get_volume(combine_segments=True).array


@pytest.mark.parametrize("plan", [Plan(), Plan(step=-1, shuffled=True)])
def test_a_series_becomes_objects_and_a_volume_of_the_same_labels(
    tmp_path: Path, plan: Plan
) -> None:
    source = write_series(tmp_path / "scan", plan)
    options = {"rtstruct": True, "capture": True, "keep_probabilities": True}
    result = predict(source, tmp_path / "out", format="dicom-seg", **options)
    assert result.output == tmp_path / "out" / "scan.dcm"
    assert sorted(path.name for path in result.output.parent.iterdir()) == [
        "scan.dcm",
        "scan_preview.dcm",
        "scan_probabilities.nii.gz",
        "scan_rtstruct.dcm",
    ]
    for path in result.output.parent.glob("*.dcm"):
        assert errors_of(path) == []
    volume = predict(source, tmp_path / "out" / "labels.nii.gz").output
    label = sitk.GetArrayFromImage(sitk.ReadImage(volume))
    np.testing.assert_array_equal(label, expected(plan))
    # highdicom stacks slices against the normal.
    np.testing.assert_array_equal(read_seg(result.output)[::-1], label)
    assert result.volumes_ml["organ"] == pytest.approx(label.sum() * 2.0 * 1.5 * 3.0 / 1000)


def test_the_format_goes_by_the_name_of_the_output(tmp_path: Path) -> None:
    source = write_frames(tmp_path / "scan.dcm", Plan())
    assert read_seg(predict(source, tmp_path / "labels.dcm").output).any()
    assert predict(source, tmp_path / "out").output.name == "scan.nii.gz"
    with pytest.raises(DataError, match=r"labels\.nii\.gz' does not fit .*ends with \.dcm"):
        predict(source, tmp_path / "labels.nii.gz", format="dicom-seg")
    with pytest.raises(DataError, match=r"x\.dcm' does not fit the format 'nifti'"):
        predict(source, tmp_path / "x.dcm", format="nifti")
    with pytest.raises(UnknownNameError, match=r"'dicom'.*Did you mean 'dicom-seg'"):
        PredictOptions(format="dicom")


def test_one_series_of_a_study_is_chosen(tmp_path: Path) -> None:
    write_series(tmp_path / "study" / "a", Plan())
    write_frames(tmp_path / "study" / "b.dcm", OTHER)
    with pytest.raises(GeometryError, match=r"(?s)2 series: expected one.*--series.*'venous'"):
        predict(tmp_path / "study", tmp_path / "seg.dcm")
    for wanted, plan in (("native", OTHER), (Plan().uid, Plan())):
        result = predict(tmp_path / "study", tmp_path / "labels.nii.gz", series=wanted)
        label = sitk.GetArrayFromImage(sitk.ReadImage(result.output))
        np.testing.assert_array_equal(label, expected(plan))
        result.output.unlink()
    with pytest.raises(UnreadableFileError, match=r"no series 'arterial'"):
        predict(tmp_path / "study", tmp_path / "seg.dcm", series="arterial")


def test_nothing_is_replaced_unless_allowed(tmp_path: Path) -> None:
    source = write_series(tmp_path / "scan", Plan())
    target = tmp_path / "seg.dcm"
    (tmp_path / "seg_preview.dcm").write_text("mine")
    with pytest.raises(DataError, match=r"seg_preview\.dcm' exists already.*--overwrite"):
        predict(source, target, capture=True)
    assert not target.exists()
    predict(source, target, capture=True, overwrite=True)
    with pytest.raises(DataError, match="would overwrite an input"):
        predict(source, source / "000.dcm", overwrite=True)


@pytest.mark.parametrize(
    "options",
    [{"format": "dicom-seg"}, {"rtstruct": True}, {"capture": True}, {"series": "venous"}],
)
def test_other_images_have_no_dicom_objects(tmp_path: Path, options: dict[str, Any]) -> None:
    image = sitk.GetImageFromArray(np.random.default_rng(0).random((3, 4, 5)))
    sitk.WriteImage(image, tmp_path / "scan.nii.gz")
    with pytest.raises(DataError, match=r"scan\.nii\.gz' is no DICOM image: expected"):
        predict(tmp_path / "scan.nii.gz", tmp_path / "out", **options)
    with pytest.raises(UnreadableFileError, match="holds no DICOM images"):
        predict(tmp_path, tmp_path / "out", **options)


def test_labels_of_other_images_become_nifti_on_request(tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(np.random.default_rng(0).random((3, 4, 5)))
    sitk.WriteImage(image, tmp_path / "scan.mha")
    assert predict(tmp_path / "scan.mha", tmp_path / "a").output.name == "scan.mha"
    assert predict(tmp_path / "scan.mha", tmp_path / "b", format="nifti").output.name == (
        "scan.nii.gz"
    )
    with pytest.raises(DataError, match=r"expected a name that ends with one of \.nii\.gz, \.nii"):
        predict(tmp_path / "scan.mha", tmp_path / "c.mha", format="nifti")
    (tmp_path / "scans").mkdir()
    (tmp_path / "scan.mha").rename(tmp_path / "scans" / "one.mha")
    assert predict(tmp_path / "scans", tmp_path / "d", format="nifti").output.name == "one.nii.gz"


def test_a_missing_extra_is_told_before_anything_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    source = write_series(tmp_path / "scan", Plan())
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'medstill\[dicom\]'"):
        predict(source, tmp_path / "seg.dcm")
    assert predict(source, tmp_path / "labels.nii.gz").output.exists()


def test_a_warning_about_the_images_stands_once_for_all_objects(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import pydicom

    for number in ("1", "2"):
        source = write_series(tmp_path / number, Plan())
        for path in source.iterdir():
            data = pydicom.dcmread(path)
            data.PatientName, data.StudyInstanceUID = "Doe\x01^Jane", ""
            data.save_as(path)
        predict(source, tmp_path / "out", format="dicom-seg", rtstruct=True, capture=True)
    for number in ("1", "2"):
        told = [text for text in caplog.messages if f"'{tmp_path / number}'" in text]
        assert [text.split()[4] for text in told] == ["have", "lack"]


def test_images_that_share_one_uid_become_a_volume(tmp_path: Path) -> None:
    import pydicom

    source = write_series(tmp_path / "scan", Plan())
    for path in source.iterdir():
        data = pydicom.dcmread(path)
        data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
        data.save_as(path)
    with pytest.raises(DataError, match="same SOPInstanceUID"):
        predict(source, tmp_path / "seg.dcm")
    volume = predict(source, tmp_path / "labels.nii.gz").output
    np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(volume)), expected(Plan()))


@pytest.mark.skipif(not SERIES.is_dir(), reason="the shared DICOM examples are not here")
def test_a_real_series_becomes_objects_that_others_read(tmp_path: Path) -> None:
    """Its anonymiser emptied study and series UID, its pixels are JPEG 2000."""
    result = predict(SERIES, tmp_path / "seg.dcm", rtstruct=True, capture=True)
    volume = predict(SERIES, tmp_path / "labels.nii.gz").output
    label = sitk.ReadImage(volume)
    for name in ("seg.dcm", "seg_rtstruct.dcm", "seg_preview.dcm"):
        assert errors_of(tmp_path / name) == []
    found = voxels_of(result.output, tmp_path / "dcmqi")
    np.testing.assert_array_equal(on_grid(found[1], label), sitk.GetArrayFromImage(label))
