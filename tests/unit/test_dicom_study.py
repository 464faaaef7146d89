"""DICOM studies: several series and other objects in one folder, and which of them is meant."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from test_dicom_reading import COLUMNS, ROWS, read_series, series, write

from medstill.errors import GeometryError, UnreadableFileError
from medstill.volumes.dicom import choose_series, find_series

pydicom = pytest.importorskip("pydicom", reason="the series are written with pydicom")


@pytest.mark.parametrize(
    ("charset", "codec"),
    [("ISO_IR 100", "iso8859-1"), ("ISO_IR 192", "utf-8"), ("ISO_IR 101", "iso8859-2")],
)
def test_a_series_is_chosen_by_a_description_of_any_character_set(
    tmp_path: Path, charset: str, codec: str
) -> None:
    write(tmp_path, series())
    for path in tmp_path.glob("*.dcm"):
        data = pydicom.dcmread(path)
        data.SpecificCharacterSet, data.SeriesDescription = charset, "venös"
        data.save_as(path)
    assert "venös".encode(codec) in path.read_bytes()
    assert choose_series(tmp_path, "venös").description == "venös"


@pytest.mark.parametrize("kind", ["4.2", "9.1.1", "30", "90.1", "131", "200.2", "481.2"])
def test_objects_without_pixels_do_not_make_a_study_unreadable(tmp_path: Path, kind: str) -> None:
    write(tmp_path, series())
    data = pydicom.dcmread(tmp_path / "01.dcm")
    for name in ("PixelData", "Rows", "Columns", "BitsAllocated", "SamplesPerPixel"):
        delattr(data, name)
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = f"1.2.840.10008.5.1.4.1.1.{kind}"
    data.SeriesInstanceUID = "1.2.3.7"
    data.save_as(tmp_path / "other.dcm")
    assert [item.uid for item in find_series(tmp_path)] == ["1.2.3.1"]


def _two_series(folder: Path) -> Path:
    other = [
        replace(item, name=f"x{item.name}", uid="1.2.3.2", description="native")
        for item in series(3)
    ]
    return write(folder, [*series(), *other])


def test_several_series_must_be_chosen_from_and_no_person_is_named(tmp_path: Path) -> None:
    folder = _two_series(tmp_path / "scan")
    with pytest.raises(GeometryError, match=r"holds 2 series: expected one") as caught:
        read_series(folder)
    message = str(caught.value)
    assert "1.2.3.1  CT  'venous'  5 file(s), 5 slices" in message
    assert "1.2.3.2  CT  'native'  3 file(s), 3 slices" in message
    assert "Doe" not in message
    assert "4711" not in message
    assert read_series(folder, "1.2.3.2").GetSize() == (COLUMNS, ROWS, 3)
    with pytest.raises(UnreadableFileError, match=r"no series '9\.9'.*\n  1\.2\.3\.1"):
        read_series(folder, "9.9")


def test_series_are_listed_with_their_files(tmp_path: Path) -> None:
    found = find_series(_two_series(tmp_path))
    assert [(item.uid, item.description, item.modality, len(item.files)) for item in found] == [
        ("1.2.3.1", "venous", "CT", 5),
        ("1.2.3.2", "native", "CT", 3),
    ]


def test_other_files_and_segmentations_are_left_out(tmp_path: Path) -> None:
    write(tmp_path, series())
    write(tmp_path, [replace(series()[0], name="s.dcm", uid="1.2.3.7", modality="SEG")])
    (tmp_path / "notes.txt").write_text("no image")
    assert [item.uid for item in find_series(tmp_path)] == ["1.2.3.1"]
