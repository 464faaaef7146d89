"""Objects of many frames: read as the plain series of the same slices is, or refused."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from dicom_factory import Plan, turned, write_frames, write_series
from medstill.errors import GeometryError, MissingExtraError
from medstill.volumes.dicom import choose_series, find_series, read_series
from medstill.volumes.io import read_image

pydicom = pytest.importorskip("pydicom", reason="the series are written with pydicom")

OBLIQUE = turned(31.0, (1.0, 2.0, -0.5))
PLANS = {
    "axial": Plan(),
    "reversed": Plan(step=-1),
    "shuffled": Plan(shuffled=True),
    "sagittal": Plan(row=(0.0, 1.0, 0.0), column=(0.0, 0.0, -1.0), shuffled=True),
    "oblique": Plan(row=OBLIQUE[0], column=OBLIQUE[1], step=-1),
    "rescaled by frame": Plan(slopes=(2.0, 0.5, 3.0), shuffled=True),
    "MR": Plan(modality="MR", slopes=(2.0,), intercept=0.0),
    "one": Plan(size=(1, 17, 23)),
}


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_frames_become_the_volume_that_single_slices_become(tmp_path: Path, plan: Plan) -> None:
    path = write_frames(tmp_path / "frames" / "all.dcm", plan)
    found = read_series(choose_series(path.parent))
    plain = read_series(choose_series(write_series(tmp_path / "plain", plan)))
    assert found.sources == (path,)
    np.testing.assert_array_equal(
        sitk.GetArrayFromImage(found.image), sitk.GetArrayFromImage(plain.image)
    )
    for get in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
        np.testing.assert_allclose(
            getattr(found.image, get)(), getattr(plain.image, get)(), atol=1e-5
        )
    assert read_image(path).GetSize() == plain.image.GetSize()


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_sources_are_in_the_order_of_the_slices(tmp_path: Path, plan: Plan) -> None:
    found = read_series(choose_series(write_series(tmp_path, plan)))
    assert len(found.sources) == plan.size[0]
    for z, path in enumerate(found.sources):
        place = [float(value) for value in pydicom.dcmread(path).ImagePositionPatient]
        np.testing.assert_allclose(
            found.image.TransformIndexToPhysicalPoint((0, 0, z)), place, atol=1e-5
        )


@pytest.mark.parametrize("syntax", ["RLELossless", "JPEGLSLossless"])
def test_compressed_frames_are_read(tmp_path: Path, syntax: str) -> None:
    path = write_frames(tmp_path / "a.dcm", Plan(shuffled=True))
    expected = sitk.GetArrayFromImage(read_image(path))
    data = pydicom.dcmread(path)
    data.compress(getattr(pydicom.uid, syntax))
    data.save_as(path)
    assert pydicom.dcmread(path).file_meta.TransferSyntaxUID.is_compressed
    np.testing.assert_array_equal(sitk.GetArrayFromImage(read_image(path)), expected)


def _frames(data: Any) -> Any:
    return data.PerFrameFunctionalGroupsSequence


def _gap(data: Any) -> None:
    _frames(data)[4].PlanePositionSequence[0].ImagePositionPatient[2] += 3.0


def _same_place(data: Any) -> None:
    _frames(data)[1].PlanePositionSequence = _frames(data)[0].PlanePositionSequence


def _no_groups(data: Any) -> None:
    del data.PerFrameFunctionalGroupsSequence


def _no_position(data: Any) -> None:
    del _frames(data)[2].PlanePositionSequence


def _no_rescale(data: Any) -> None:
    del _frames(data)[1].PixelValueTransformationSequence


def _slope_of_zero(data: Any) -> None:
    _frames(data)[0].PixelValueTransformationSequence[0].RescaleSlope = "0"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_gap, r"gap or uneven.*found 6 mm between 'a\.dcm frame 4' and 'a\.dcm frame 5'"),
        (_same_place, r"same position \(1 times\).*'a\.dcm frame 1' and 'a\.dcm frame 2'"),
        (_no_groups, r"5 frames: expected the place of each.*cine"),
        (
            _no_rescale,
            r"without a RescaleSlope.*1\.0 in 'a\.dcm frame 1' and none in 'a\.dcm frame 2'",
        ),
        (_slope_of_zero, r"rescale slope of 0 \(a\.dcm frame 1\): expected another number"),
        (_no_position, r"expected 3 numbers.*position\) of frame 3, found ''"),
    ],
)
def test_frames_that_are_no_grid_are_refused(
    tmp_path: Path, spoil: Callable[[Any], None], message: str
) -> None:
    path = write_frames(tmp_path / "a.dcm", Plan())
    data = pydicom.dcmread(path)
    spoil(data)
    data.save_as(path)
    with pytest.raises(GeometryError, match=message):
        read_image(path)


def test_a_series_of_several_objects_of_many_frames_is_refused(tmp_path: Path) -> None:
    write_frames(tmp_path / "a.dcm", Plan())
    write_frames(tmp_path / "b.dcm", Plan(seed=1))
    with pytest.raises(GeometryError, match="has 2 files of many frames: expected one"):
        read_image(tmp_path)


def test_a_study_is_searched_and_its_series_are_chosen_by_name(tmp_path: Path) -> None:
    write_series(tmp_path / "a", Plan(description="Abdomen venous 3.0"))
    other = Plan(uid="1.2.826.0.1.3680043.8.498.9", description="Abdomen native 3.0")
    write_frames(tmp_path / "b" / "frames.dcm", other)
    assert [(one.description, one.slices) for one in find_series(tmp_path)] == [
        ("Abdomen venous 3.0", 5),
        ("Abdomen native 3.0", 5),
    ]
    assert choose_series(tmp_path, "VENOUS").uid == Plan().uid
    assert choose_series(tmp_path, "abdomen native 3.0").uid == other.uid
    assert choose_series(tmp_path, other.uid).uid == other.uid
    with pytest.raises(GeometryError, match=r"2 series: expected one that fits 'abdomen'"):
        choose_series(tmp_path, "abdomen")


def test_screenshots_of_a_study_need_no_choice(tmp_path: Path) -> None:
    """A dose report as Secondary Capture is an image, but has no place in space."""
    write_series(tmp_path, Plan())
    report = pydicom.dcmread(tmp_path / "000.dcm")
    report.SeriesInstanceUID, report.SeriesDescription = "1.2.3.4", "Dose report"
    report.Modality, report.SOPClassUID = "OT", "1.2.840.10008.5.1.4.1.1.7"
    report.file_meta.MediaStorageSOPClassUID = report.SOPClassUID
    del report.ImagePositionPatient, report.ImageOrientationPatient
    report.save_as(tmp_path / "report.dcm")
    assert len(find_series(tmp_path)) == 2
    assert choose_series(tmp_path).uid == Plan().uid
    assert choose_series(tmp_path, "dose").uid == "1.2.3.4"
    assert choose_series(tmp_path / "report.dcm").uid == "1.2.3.4"


def test_plain_series_need_no_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = write_series(tmp_path / "plain", Plan())
    frames = write_frames(tmp_path / "frames" / "a.dcm", Plan())
    monkeypatch.setitem(sys.modules, "pydicom", None)
    assert read_image(plain).GetSize() == (23, 17, 5)
    with pytest.raises(MissingExtraError, match=r"pip install 'medstill\[dicom\]'"):
        read_image(frames)


def test_a_directory_of_the_medium_is_no_damaged_image(tmp_path: Path) -> None:
    """A DICOMDIR names the classes of images without being one."""
    write_series(tmp_path, Plan(size=(2, 5, 6)))
    meta = pydicom.dataset.FileMetaDataset()
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = "1.2.840.10008.1.3.10"
    meta.MediaStorageSOPInstanceUID = "1.2.3"
    record = pydicom.Dataset()
    record.ReferencedSOPClassUIDInFile = "1.2.840.10008.5.1.4.1.1.2"
    data = pydicom.Dataset()
    data.file_meta, data.DirectoryRecordSequence = meta, [record]
    data.save_as(tmp_path / "DICOMDIR", enforce_file_format=True)
    assert find_series(tmp_path)[0].slices == 2


def test_pixel_spacing_that_varies_is_refused(tmp_path: Path) -> None:
    write_series(tmp_path, Plan())
    write_series(tmp_path, replace(Plan(), spacing=(2.5, 1.5, 3.0), size=(1, 17, 23)))
    with pytest.raises(GeometryError, match="different size or pixel spacing"):
        read_image(tmp_path)
