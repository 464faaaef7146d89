"""The preview: the right slices, the right colours in the right places, a valid object."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom_made import changed, make
from test_contract import contract

from dicom_factory import Plan, turned
from dicom_peers import errors_of
from medstill.deploy import dicom

pydicom = pytest.importorskip("pydicom", reason="the series are written with pydicom")
pytest.importorskip("highdicom", reason="the objects are written with highdicom")

from medstill.deploy.dicom.picture import (  # noqa: E402
    Entry,
    areas,
    largest_slices,
    montage,
    tile,
)

RED, BLUE = (250, 10, 10), (10, 10, 250)
LEGEND = [Entry("one", RED), Entry("two", BLUE)]


def test_the_slices_with_the_largest_areas_are_shown() -> None:
    label = np.zeros((7, 9, 9), dtype=np.uint8)
    label[5, :3, :3], label[4, :2, :2] = 1, 1
    label[2, 4:8, 4:8], label[5, 8, 8] = 2, 2
    assert largest_slices(areas(label)) == [2, 5]
    assert largest_slices(areas(label), most=1) == [2]
    assert largest_slices(areas(np.zeros((7, 2, 2), dtype=np.uint8))) == [3]


def test_pixels_become_square_and_labels_lie_where_they_are() -> None:
    """Rows twice as far apart as columns: the picture is as wide as it is high."""
    gray, label = np.full((8, 16), 0.5), np.zeros((8, 16), dtype=np.uint8)
    label[2:4, 10:14] = 1
    picture = tile(gray, label, (2.0, 1.0), LEGEND)
    assert picture.shape == (512, 512, 3)
    red = picture[..., 0] > picture[..., 2]
    rows, columns = np.nonzero(red)
    assert (rows.min(), rows.max() + 1) == (128, 256)
    assert (columns.min(), columns.max() + 1) == (320, 448)
    assert tuple(picture[128, 320]) == RED, "the outline is opaque"
    inside = np.asarray(picture[192, 384], dtype=int)
    assert np.abs(inside - (0.7 * 128 + 0.3 * np.array(RED))).max() <= 1
    assert tuple(picture[0, 0]) == (128, 128, 128)


def test_four_slices_stand_in_two_rows_above_the_legend() -> None:
    tiles = [np.full((40, 512, 3), 60 * index, dtype=np.uint8) for index in range(4)]
    paper = montage(tiles, LEGEND, "note")
    assert paper.shape[1] == 1024
    assert [int(paper[y, x, 0]) for y, x in ((5, 5), (5, 600), (45, 5), (45, 600))] == [
        0,
        60,
        120,
        180,
    ]
    assert (paper[80:] == RED).all(axis=-1).any()
    assert (paper[80:] == BLUE).all(axis=-1).any()


def test_a_narrow_picture_shows_its_whole_legend_and_note() -> None:
    """Ink ends before the edge of the paper, and a longer note makes the paper higher only."""
    tiles = [np.zeros((40, 120, 3), dtype=np.uint8)]
    long = [replace(LEGEND[0], text="a structure of a long name, 123.4 ml"), LEGEND[1]]
    short, tall = (montage(tiles, long, note) for note in ("A note.", "A note of many words. " * 9))
    assert short.shape[1] == tall.shape[1] > 250
    assert tall.shape[0] > short.shape[0] + 60
    for paper in (short, tall):
        assert (paper[46:, -8:] == paper[-1, -1]).all(), "nothing is cut off at the right"


def _blob() -> np.ndarray:
    values = np.zeros((5, 17, 23), dtype=np.uint8)
    values[3, 4:9, 6:12] = 1
    return values


@pytest.mark.parametrize("frames", [False, True], ids=["slices", "frames"])
@pytest.mark.parametrize("empty", [False, True])
def test_the_object_is_valid(tmp_path: Path, frames: bool, empty: bool) -> None:
    row, column = turned(31.0, (1.0, 2.0, -0.5))
    plan = Plan(row=row, column=column, shuffled=True)
    values = np.zeros_like(_blob()) if empty else _blob()
    made = make(tmp_path, plan, frames=frames, write="write_capture", values=values)
    assert errors_of(made.path) == []
    data: Any = pydicom.dcmread(made.path)
    assert (data.PatientID, data.SOPClassUID) == ("4711", "1.2.840.10008.5.1.4.1.1.7")
    assert not any(element.tag.is_private for element in data.iterall())


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("frames", [False, True], ids=["slices", "frames"])
def test_it_shows_the_image_of_the_slice_in_the_window_of_the_network(
    tmp_path: Path, frames: bool, photometric: str
) -> None:
    """Noise around -24 HU beside a blob 150 HU above it, in a window from -160 to 240 HU."""
    plan = Plan(shuffled=True, step=-1, photometric=photometric)
    made = make(tmp_path, plan, frames=frames, write="write_capture", values=_blob())
    data: Any = pydicom.dcmread(made.path)
    (reference,) = data.SourceImageSequence
    if frames:
        index = plan.order()[reference.ReferencedFrameNumber - 1]
    else:
        uids = {pydicom.dcmread(path).SOPInstanceUID: path for path in made.sources}
        source = pydicom.dcmread(uids[reference.ReferencedSOPInstanceUID])
        index = [plan.position(k)[2] for k in range(5)].index(source.ImagePositionPatient[2])
    assert index == 1, "the fourth slice upwards of a series that runs downwards"
    shown = data.pixel_array[: round(512 * 34 / 34.5), :, :].astype(float)
    raw = plan.pixels()[index] - 1024.0
    expected = np.clip((raw - -160.0) / 400.0, 0, 1) * 255
    rows, columns = np.indices((17, 23))
    centres = shown[
        ((rows + 0.5) * shown.shape[0] / 17).astype(int),
        ((columns + 0.5) * 512 / 23).astype(int),
    ]
    outside = _blob()[3] == 0
    assert np.abs(centres[outside][:, 0] - expected[outside]).mean() < 8
    coloured = np.abs(centres[..., 0] - centres[..., 1]) > 5
    np.testing.assert_array_equal(coloured, ~outside)
    assert contract().terms[0].colour_rgb == (0xA0, 0x5F, 0xC4)


def _said(tmp_path: Path, frames: bool, **of_one: Any) -> Any:
    """The preview of images of which all say what is said, or one of them where it is a list."""
    made = make(tmp_path, Plan(), frames=frames, write="write_capture", values=_blob())
    numbers = iter(range(5))

    def say(data: Any) -> None:
        number = next(numbers)
        for name, value in of_one.items():
            found = value[number] if isinstance(value, list) else value
            if found:
                setattr(data, name, found)

    changed(made, say)
    dicom.write_capture(made.label, made.sources, contract(), made.path)
    assert errors_of(made.path) == []
    return pydicom.dcmread(made.path)


@pytest.mark.parametrize("frames", [False, True], ids=["slices", "frames"])
def test_what_is_burned_in_or_lossy_is_so_in_the_preview(tmp_path: Path, frames: bool) -> None:
    said = {
        "BurnedInAnnotation": "YES",
        "LossyImageCompression": "01",
        "LossyImageCompressionRatio": ["8.5"] * 5,
        "LossyImageCompressionMethod": ["ISO_10918_1"] * 5,
    }
    data = _said(tmp_path, frames, **said)
    assert (data.BurnedInAnnotation, data.LossyImageCompression) == ("YES", "01")
    assert data.LossyImageCompressionRatio == 8.5
    assert data.LossyImageCompressionMethod == "ISO_10918_1"


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (None, None),
        ("NO", "NO"),
        (["NO", "NO", "NO", "NO", "YES"], "YES"),
        ([None, "NO", "NO", "NO", "NO"], None),
        ([None, None, "YES", None, None], "YES"),
    ],
)
def test_what_images_do_not_say_stays_unsaid(tmp_path: Path, said: Any, expected: Any) -> None:
    data = _said(tmp_path, False, BurnedInAnnotation=said)
    assert data.get("BurnedInAnnotation") == expected
    assert "LossyImageCompressionRatio" not in data
