"""DICOM SEG: the mask comes back voxel by voxel, and other programs find nothing to object to."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from dicom_made import PLANS, changed, make
from test_contract import contract

from dicom_factory import FRAME_OF_REFERENCE, STUDY, Plan
from dicom_peers import dump_of, errors_of, on_grid, voxels_of
from medstill.errors import GeometryError, MissingExtraError
from medstill.volumes.dicom import choose_series, read_series

pydicom = pytest.importorskip("pydicom", reason="the series are written with pydicom")
highdicom = pytest.importorskip("highdicom", reason="the objects are read with highdicom")

from medstill.deploy import dicom  # noqa: E402


@pytest.mark.parametrize("frames", [False, True], ids=["slices", "frames"])
@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_the_mask_comes_back_voxel_by_voxel(tmp_path: Path, plan: Plan, frames: bool) -> None:
    made = make(tmp_path, plan, frames=frames)
    seg = made.seg
    options = {"combine_segments": True, "assert_missing_frames_are_empty": True}
    if frames:
        uid = pydicom.dcmread(made.sources[0]).SOPInstanceUID
        pixels = seg.get_pixels_by_source_frame(
            uid, list(range(1, plan.size[0] + 1)), ignore_spatial_locations=True, **options
        )
        groups = pydicom.dcmread(made.sources[0]).PerFrameFunctionalGroupsSequence
        heights = [_along(group.PlanePositionSequence[0], plan) for group in groups]
        pixels = pixels[np.argsort(heights)]
    else:
        uids = [pydicom.dcmread(path).SOPInstanceUID for path in made.sources]
        pixels = seg.get_pixels_by_source_instance(uids, **options)
    np.testing.assert_array_equal(pixels, made.values)


def _along(group: Any, plan: Plan) -> float:
    return float(np.dot(group.ImagePositionPatient, np.cross(plan.row, plan.column)))


@pytest.mark.parametrize("frames", [False, True], ids=["slices", "frames"])
@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_every_frame_says_where_it_lies(tmp_path: Path, plan: Plan, frames: bool) -> None:
    """Without any library's reading: the place in the header leads to the right label voxels."""
    made = make(tmp_path, plan, frames=frames)
    data = pydicom.dcmread(made.path)
    shared = data.SharedFunctionalGroupsSequence[0]
    row, column = np.reshape(shared.PlaneOrientationSequence[0].ImageOrientationPatient, (2, 3))
    down, across = shared.PixelMeasuresSequence[0].PixelSpacing
    count = 0
    for pixels, group in zip(
        np.atleast_3d(data.pixel_array.T).T, data.PerFrameFunctionalGroupsSequence, strict=True
    ):
        number = group.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        corner = np.array(group.PlanePositionSequence[0].ImagePositionPatient, dtype=float)
        for y, x in ((0, 0), (16, 0), (0, 22), (9, 13)):
            place = corner + across * x * row.astype(float) + down * y * column.astype(float)
            index = made.label.TransformPhysicalPointToIndex(place.tolist())
            assert pixels[y, x] == (made.label[index] == number)
            count += 1
    assert count == 4 * 2 * plan.size[0]


@pytest.mark.parametrize("name", ["axial", "reversed", "oblique", "sagittal", "one slice"])
@pytest.mark.parametrize("frames", [False, True], ids=["slices", "frames"])
def test_dcmqi_reads_the_same_voxels(tmp_path: Path, name: str, frames: bool) -> None:
    made = make(tmp_path, PLANS[name], frames=frames)
    found = voxels_of(made.path, tmp_path / "dcmqi")
    for number in (1, 2):
        np.testing.assert_array_equal(on_grid(found[number], made.label), made.values == number)


@pytest.mark.parametrize("name", ["axial", "oblique", "MR", "one slice"])
@pytest.mark.parametrize("frames", [False, True], ids=["slices", "frames"])
def test_dciodvfy_finds_no_error(tmp_path: Path, name: str, frames: bool) -> None:
    assert errors_of(make(tmp_path, PLANS[name], frames=frames).path) == []


def test_segments_are_coded_and_coloured_and_name_the_algorithm(tmp_path: Path) -> None:
    spleen, other = make(tmp_path, Plan()).seg.SegmentSequence
    assert (spleen.SegmentLabel, other.SegmentLabel) == ("spleen", "Milz & Ärger")
    kind = spleen.SegmentedPropertyTypeCodeSequence[0]
    assert (kind.CodeValue, kind.CodingSchemeDesignator) == ("78961009", "SCT")
    assert spleen.SegmentedPropertyCategoryCodeSequence[0].CodeValue == "91723000"
    assert other.SegmentedPropertyTypeCodeSequence[0].CodingSchemeDesignator == "99MEDSTILL"
    assert spleen.SegmentAlgorithmType == "AUTOMATIC"
    algorithm = spleen.SegmentationAlgorithmIdentificationSequence[0]
    assert algorithm.AlgorithmName == "medstill compact"
    assert "weights=fedcba9876543210" in algorithm.AlgorithmParameters
    red, green, blue = highdicom.color.CIELabColor.from_dicom_value(
        spleen.RecommendedDisplayCIELabValue
    ).to_rgb()
    assert np.abs(np.subtract((red, green, blue), contract().terms[0].colour_rgb)).max() <= 1


def test_the_side_of_an_organ_is_a_modifier(tmp_path: Path) -> None:
    from medstill.volumes.terms import term_of

    made = make(tmp_path, Plan())
    sided = contract(terms=(term_of("left kidney", 1), term_of("liver", 2)))
    dicom.write_seg(made.label, made.sources, sided, made.path)
    kidney, liver = (
        segment.SegmentedPropertyTypeCodeSequence[0] for segment in made.seg.SegmentSequence
    )
    modifier = kidney.SegmentedPropertyTypeModifierCodeSequence[0]
    assert (kidney.CodeValue, modifier.CodeValue) == ("64033007", "7771000")
    assert "SegmentedPropertyTypeModifierCodeSequence" not in liver


def test_patient_and_study_are_copied_and_all_else_is_new(tmp_path: Path) -> None:
    made = make(tmp_path, Plan())
    source, seg = pydicom.dcmread(made.sources[0]), made.seg
    assert (seg.PatientName, seg.PatientID, seg.PatientWeight) == ("Doe^Jane", "4711", 61)
    assert (seg.StudyInstanceUID, seg.StudyDescription) == (STUDY, "Abdomen")
    assert seg.FrameOfReferenceUID == FRAME_OF_REFERENCE
    assert seg.Modality == "SEG"
    assert seg.SeriesInstanceUID != source.SeriesInstanceUID
    uids = {pydicom.dcmread(path).SOPInstanceUID for path in made.sources}
    assert seg.SOPInstanceUID not in uids
    (series,) = seg.ReferencedSeriesSequence
    assert {one.ReferencedSOPInstanceUID for one in series.ReferencedInstanceSequence} == uids
    assert series.SeriesInstanceUID == source.SeriesInstanceUID
    assert not any(element.tag.is_private for element in seg.iterall())
    assert make(tmp_path, Plan()).seg.SOPInstanceUID != seg.SOPInstanceUID


def test_dcmtk_prints_it(tmp_path: Path) -> None:
    said = dump_of(make(tmp_path, Plan()).path)
    assert "=SegmentationStorage" in said
    assert "[BINARY]" in said


@pytest.mark.parametrize("frames", [False, True], ids=["slices", "frames"])
def test_an_empty_mask_is_a_valid_object(tmp_path: Path, frames: bool) -> None:
    made = make(tmp_path, Plan(), frames=frames, classes=0)
    assert len(made.seg.SegmentSequence) == 2
    assert made.seg.NumberOfFrames == 5  # of the first class; the second has none
    assert not made.seg.pixel_array.any()
    source = pydicom.dcmread(made.sources[0])
    options = {"combine_segments": True, "assert_missing_frames_are_empty": True}
    if frames:
        pixels = made.seg.get_pixels_by_source_frame(
            source.SOPInstanceUID, [1, 2, 3, 4, 5], ignore_spatial_locations=True, **options
        )
    else:
        uids = [pydicom.dcmread(path).SOPInstanceUID for path in made.sources]
        pixels = made.seg.get_pixels_by_source_instance(uids, **options)
    assert pixels.shape == made.values.shape
    assert not pixels.any()
    assert errors_of(made.path) == []
    assert voxels_of(made.path, tmp_path / "dcmqi") == {}


def test_a_class_that_was_not_found_keeps_its_segment(tmp_path: Path) -> None:
    made = make(tmp_path, Plan(), classes=1)
    assert [one.SegmentLabel for one in made.seg.SegmentSequence] == ["spleen", "Milz & Ärger"]
    assert errors_of(made.path) == []
    found = voxels_of(made.path, tmp_path / "dcmqi")
    assert set(found) == {1}
    np.testing.assert_array_equal(on_grid(found[1], made.label), made.values == 1)


def test_orientation_by_frame_is_understood(tmp_path: Path) -> None:
    made = make(tmp_path, Plan(), frames=True)

    def by_frame(data: Any) -> None:
        shared = data.SharedFunctionalGroupsSequence[0]
        for name in ("PlaneOrientationSequence", "PixelMeasuresSequence"):
            for frame in data.PerFrameFunctionalGroupsSequence:
                setattr(frame, name, shared[name].value)
            delattr(shared, name)

    changed(made, by_frame)
    assert read_series(choose_series(made.sources[0])).image.GetSize() == made.label.GetSize()
    dicom.write_seg(made.label, made.sources, contract(), made.path)
    assert made.seg.get_volume(combine_segments=True).array.sum() == made.values.sum()


def _drifted(data: Any) -> None:
    """Beside the normal by up to 0.72 mm of 1.5 mm pixels, in uneven steps, turned by 1/1250."""
    height = round((float(data.ImagePositionPatient[2]) + 100.0) / 3.0)
    data.ImagePositionPatient[0] = f"{-40.25 + 0.18 * height:.2f}"
    data.ImagePositionPatient[2] = f"{-100.0 + 3.0 * height + (0.2 if height == 2 else 0.0):.2f}"
    if height:
        data.ImageOrientationPatient = ["1", "0.0008", "0", "-0.0008", "1", "0"]


@pytest.mark.parametrize("write", ["write_seg", "write_rtstruct", "write_capture"])
def test_slices_that_are_read_are_written_to(tmp_path: Path, write: str) -> None:
    """The label map was made of exactly these, so each lies on its own slice."""
    made = make(tmp_path, Plan(size=(5, 17, 400), shuffled=True))
    changed(made, _drifted)
    found = read_series(choose_series(tmp_path / "series"))
    assert found.sources == made.sources
    label = sitk.Image(made.label)
    label.CopyInformation(found.image)
    shuffled = [found.sources[index] for index in (3, 0, 4, 1, 2)]
    getattr(dicom, write)(label, shuffled, contract(), made.path)
    if write == "write_seg":
        pixels = made.seg.get_pixels_by_source_instance(
            [pydicom.dcmread(path).SOPInstanceUID for path in found.sources],
            combine_segments=True,
            ignore_spatial_locations=True,
        )
        np.testing.assert_array_equal(pixels, made.values)
    for move in ((0.4, 0.0, 0.0), (0.0, -0.4, 0.0), (0.0, 0.0, 0.4)):
        label.SetOrigin(np.add(found.image.GetOrigin(), move).tolist())
        with pytest.raises(GeometryError, match="lies on another grid"):
            getattr(dicom, write)(label, shuffled, contract(), made.path)


@pytest.mark.parametrize("frames", [False, True], ids=["slices", "frames"])
def test_a_label_map_on_another_grid_is_refused(tmp_path: Path, frames: bool) -> None:
    made = make(tmp_path, Plan(), frames=frames)
    shifted = sitk.Image(made.label)
    shifted.SetOrigin((0.0, 0.0, 0.0))
    with pytest.raises(GeometryError, match="lies on another grid"):
        dicom.write_seg(shifted, made.sources, contract(), tmp_path / "other.dcm")
    with pytest.raises(GeometryError, match="lies on another grid"):
        dicom.write_seg(
            sitk.Flip(made.label, (True, False, False)), made.sources, contract(), made.path
        )
    with pytest.raises(GeometryError, match=r"lies on another grid|4 slices: expected one"):
        dicom.write_seg(made.label[:, :, :4], made.sources, contract(), made.path)
    assert not (tmp_path / "other.dcm").exists()


def test_a_mask_of_some_sources_only_is_refused(tmp_path: Path) -> None:
    made = make(tmp_path, replace(Plan(), shuffled=True))
    with pytest.raises(GeometryError, match=r"5 slices: expected one for each of the 3 images"):
        dicom.write_seg(made.label, made.sources[:3], contract(), made.path)


def test_the_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'medstill\[dicom\]'"):
        dicom.write_seg  # noqa: B018
