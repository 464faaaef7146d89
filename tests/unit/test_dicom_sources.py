"""Images as scanners and anonymisers leave them: what is made of them is sound all the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from dicom_made import changed, make
from test_contract import contract

from dicom_factory import Plan
from dicom_peers import errors_of
from medstill.errors import DataError

pydicom = pytest.importorskip("pydicom", reason="the series are written with pydicom")
pytest.importorskip("highdicom", reason="the objects are written with highdicom")

from medstill.deploy import dicom  # noqa: E402


def test_attributes_that_anonymisers_remove_may_be_missing(tmp_path: Path) -> None:
    made = make(tmp_path, Plan())

    def strip(data: Any) -> None:
        data.PatientName = "PAT001"  # one component, about which highdicom warns
        for name in ("PatientID", "PatientSex", "StudyDate", "AccessionNumber"):
            delattr(data, name)
        data.SOPClassUID = data.SOPInstanceUID = ""

    changed(made, strip)
    dicom.write_seg(made.label, made.sources, contract(), made.path)
    assert errors_of(made.path) == []
    meta = pydicom.dcmread(made.sources[0]).file_meta
    (series,) = made.seg.ReferencedSeriesSequence
    references = [one.ReferencedSOPInstanceUID for one in series.ReferencedInstanceSequence]
    assert meta.MediaStorageSOPInstanceUID in references


def test_images_without_study_get_one_that_all_objects_share(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = make(tmp_path, Plan())
    changed(made, lambda data: setattr(data, "StudyInstanceUID", ""))
    dicom.write_seg(made.label, made.sources, contract(), made.path)
    assert "lack StudyInstanceUID: made-up ones stand in what is written" in caplog.text
    other = dicom.write_rtstruct(made.label, made.sources, contract(), tmp_path / "rt.dcm")
    study = made.seg.StudyInstanceUID
    assert study.startswith("1.2.826.0.1.3680043.8.498.")
    assert pydicom.dcmread(other).StudyInstanceUID == study
    assert errors_of(made.path) == []


def test_names_in_other_scripts_survive(tmp_path: Path) -> None:
    made = make(tmp_path, Plan())

    def rename(data: Any) -> None:
        data.SpecificCharacterSet = ["", "ISO 2022 IR 87"]
        data.PatientName = "Yamada^Tarou=山田^太郎=やまだ^たろう"

    changed(made, rename)
    dicom.write_seg(made.label, made.sources, contract(), made.path)
    assert made.seg.PatientName == "Yamada^Tarou=山田^太郎=やまだ^たろう"


def test_slices_may_say_that_they_have_one_frame(tmp_path: Path) -> None:
    made = make(tmp_path, Plan())
    changed(made, lambda data: setattr(data, "NumberOfFrames", 1))
    for write in (dicom.write_seg, dicom.write_rtstruct, dicom.write_capture):
        path = write(made.label, made.sources, contract(), tmp_path / "one.dcm")
        assert errors_of(path) == []
        path.unlink()


def test_no_private_element_is_copied_from_within_a_sequence(tmp_path: Path) -> None:
    made = make(tmp_path, Plan())

    def hide(data: Any) -> None:
        item = pydicom.Dataset()
        item.PatientID, item.TypeOfPatientID = "1", "TEXT"
        item.private_block(0x0009, "SECRET", create=True).add_new(0x01, "LO", "private inside")
        data.OtherPatientIDsSequence = [item]

    changed(made, hide)
    assert b"private inside" in made.sources[0].read_bytes()
    for write in (dicom.write_seg, dicom.write_rtstruct, dicom.write_capture):
        path = write(made.label, made.sources, contract(), tmp_path / "one.dcm")
        found = path.read_bytes()
        assert b"private inside" not in found
        assert b"SECRET" not in found
        path.unlink()


def test_a_missing_frame_of_reference_is_told(tmp_path: Path) -> None:
    made = make(tmp_path, Plan())
    changed(made, lambda data: delattr(data, "FrameOfReferenceUID"))
    with pytest.raises(DataError, match=r"lacks FrameOfReferenceUID.*--format nifti"):
        dicom.write_seg(made.label, made.sources, contract(), made.path)


def test_images_that_share_one_uid_are_told(tmp_path: Path) -> None:
    made = make(tmp_path, Plan())
    changed(made, lambda data: setattr(data, "SOPInstanceUID", "1.2.3"))
    message = r"same SOPInstanceUID: expected .* the 5 images, found 1\.2\.3 twice.*--format nifti"
    for write in (dicom.write_seg, dicom.write_rtstruct, dicom.write_capture):
        with pytest.raises(DataError, match=message):
            write(made.label, made.sources, contract(), made.path)


def test_what_highdicom_refuses_is_told_as_ours(tmp_path: Path) -> None:
    made = make(tmp_path, Plan())
    changed(made, lambda data: setattr(data, "SOPClassUID", "1.2.3.4"))
    with pytest.raises(DataError, match=r"No DICOM SEG could be made.*standard.*found:"):
        dicom.write_seg(made.label, made.sources, contract(), made.path)


UNSOUND = {
    "PatientSex": ("CS", b"U "),
    "PatientBirthDate": ("DA", b"19700000"),
    "PatientAge": ("AS", b"45"),
    "PatientWeight": ("DS", b"n/a "),
    "PregnancyStatus": ("US", b"\x09\x00"),
    "StudyDate": ("DA", b"2020.01.02"),
    "StudyTime": ("TM", b"10:11:12"),
    "StudyID": ("SH", b"a" * 30),
    "AccessionNumber": ("SH", b"a\\b "),
    "SeriesNumber": ("IS", b"abc "),
    "PatientName": ("PN", b"Doe\x01^Jane "),
    "PatientID": ("LO", b"47\t11 "),
    "StudyDescription": ("LO", b"Abdomen\r\nnative"),
    "ReferringPhysicianName": ("PN", b"Roe\x7f^Richard "),
    "PatientComments": ("LT", b"one\x0btwo "),
    "SliceThickness": ("DS", b"x "),
}


@pytest.mark.parametrize("keyword", UNSOUND)
def test_values_that_the_standard_does_not_allow_are_left_out(
    tmp_path: Path, keyword: str, caplog: pytest.LogCaptureFixture
) -> None:
    from pydicom.datadict import tag_for_keyword
    from pydicom.dataelem import RawDataElement
    from pydicom.tag import Tag

    made = make(tmp_path, Plan())
    kind, value = UNSOUND[keyword]
    tag = Tag(tag_for_keyword(keyword))

    def spoil(data: Any) -> None:
        data._dict[tag] = RawDataElement(tag, kind, len(value), value, 0, False, True, True)

    changed(made, spoil)
    for write in (dicom.write_seg, dicom.write_rtstruct, dicom.write_capture):
        caplog.clear()
        assert errors_of(write(made.label, made.sources, contract(), made.path)) == []
        assert f"values that the standard does not allow: {keyword}. They are" in caplog.text
        assert not pydicom.dcmread(made.path).get(keyword) or keyword == "SeriesNumber"


def test_a_sequence_with_control_characters_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = make(tmp_path, Plan())

    def hide(data: Any) -> None:
        item = pydicom.Dataset()
        item.PatientID, item.TypeOfPatientID = "1\x022", "TEXT"
        data.OtherPatientIDsSequence = [item]

    changed(made, hide)
    dicom.write_seg(made.label, made.sources, contract(), made.path)
    assert "does not allow: OtherPatientIDsSequence." in caplog.text
    assert "OtherPatientIDsSequence" not in pydicom.dcmread(made.path)


def test_a_text_may_have_several_lines(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = make(tmp_path, Plan())
    changed(made, lambda data: setattr(data, "PatientComments", "one\r\ntwo\x0cthree"))
    dicom.write_seg(made.label, made.sources, contract(), made.path)
    assert caplog.text == ""
    assert pydicom.dcmread(made.path).PatientComments == "one\r\ntwo\x0cthree"
    assert errors_of(made.path) == []


def test_sound_values_are_not_touched(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = make(tmp_path, Plan())
    changed(made, lambda data: data.update({"PatientAge": "050Y", "OtherPatientIDs": ["a", "b"]}))
    dicom.write_seg(made.label, made.sources, contract(), made.path)
    assert caplog.text == ""
    found = pydicom.dcmread(made.path)
    assert (found.PatientAge, found.PatientSex, found.StudyTime) == ("050Y", "F", "101112")


@pytest.mark.parametrize("frames", [False, True], ids=["slices", "frames"])
def test_a_thickness_that_is_not_stated_is_the_distance_of_the_slices(
    tmp_path: Path, frames: bool
) -> None:
    made = make(tmp_path, Plan(), frames=frames)

    def strip(data: Any) -> None:
        shared = data.get("SharedFunctionalGroupsSequence")
        del (shared[0].PixelMeasuresSequence[0] if shared else data).SliceThickness

    changed(made, strip)
    dicom.write_seg(made.label, made.sources, contract(), made.path)
    measures = made.seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert measures.SliceThickness == 3.0
    assert errors_of(made.path) == []
