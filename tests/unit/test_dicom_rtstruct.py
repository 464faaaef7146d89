"""RTSTRUCT: whoever fills the contours in millimetres gets the mask back, holes and all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom_made import PLANS, Made, make
from test_contract import contract

from dicom_factory import FRAME_OF_REFERENCE, STUDY, Plan
from dicom_peers import dump_of, errors_of, on_grid, structures_of

pydicom = pytest.importorskip("pydicom", reason="the series are written with pydicom")
pytest.importorskip("highdicom", reason="the objects are written with highdicom")
pytest.importorskip("contourpy", reason="the contours are drawn by contourpy")

from medstill.deploy import dicom  # noqa: E402
from medstill.deploy.dicom import contours  # noqa: E402
from medstill.deploy.dicom.contours import outlines  # noqa: E402
from medstill.volumes.terms import terms_of  # noqa: E402


def filled(polygon: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Which voxel centres lie inside, by counting the edges to their right: slow and plain."""
    inside = np.zeros(shape, dtype=bool)
    y, x = np.indices(shape)
    for (x0, y0), (x1, y1) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        if y0 == y1:
            continue
        crosses = (min(y0, y1) <= y) & (y < max(y0, y1))
        inside ^= crosses & (x < x0 + (y - y0) * (x1 - x0) / (y1 - y0))
    return inside


def mask_of(text: str) -> np.ndarray:
    return np.array([[letter == "#" for letter in line] for line in text.split()])


def union(mask: np.ndarray) -> np.ndarray:
    found = np.zeros(mask.shape, dtype=int)
    for polygon in outlines(mask):
        found += filled(polygon, mask.shape)
    assert found.max(initial=0) <= 1, "polygons overlap"
    return found.astype(bool)


def test_a_single_voxel_is_a_diamond_around_its_centre() -> None:
    (polygon,) = outlines(mask_of("... .#. ..."))
    assert {tuple(point) for point in polygon.tolist()} == {(0.5, 1), (1, 0.5), (1.5, 1), (1, 1.5)}


def test_a_hole_is_cut_in_through_a_channel_without_width() -> None:
    mask = mask_of("##### #...# #.#.# #...# #####")
    ring, island = outlines(mask)
    np.testing.assert_array_equal(union(mask), mask)
    assert len(island) == 4
    edges = [(tuple(a), tuple(b)) for a, b in zip(ring, np.roll(ring, -1, axis=0), strict=True)]
    there_and_back = [edge for edge in edges if edge[::-1] in edges]
    assert len(there_and_back) == 2


def test_several_holes_of_one_part_are_in_one_polygon() -> None:
    mask = mask_of("######### #.##.##.# ######### #..#.#### #########")
    assert len(outlines(mask)) == 1
    np.testing.assert_array_equal(union(mask), mask)


def test_a_mask_up_to_the_border_is_closed() -> None:
    mask = np.ones((3, 4), dtype=bool)
    np.testing.assert_array_equal(union(mask), mask)
    assert outlines(np.zeros((3, 4), dtype=bool)) == []


@pytest.mark.parametrize("share", [0.05, 0.4, 0.6, 0.95])
def test_any_mask_comes_back(share: float) -> None:
    for seed in range(20):
        mask = np.random.default_rng(seed).random((11, 13)) < share
        np.testing.assert_array_equal(union(mask), mask)


def _joined_slowly(rings: list[np.ndarray]) -> np.ndarray:
    """Every distance anew before each join."""
    outline, holes = rings[0], list(rings[1:])
    while holes:
        gaps = [np.linalg.norm(outline[:, None] - hole[None], axis=2) for hole in holes]
        best = min(range(len(holes)), key=lambda index: gaps[index].min())
        here, there = np.unravel_index(gaps[best].argmin(), gaps[best].shape)
        hole = np.roll(holes.pop(best), -there, axis=0)
        outline = np.concatenate([outline[: here + 1], hole, hole[:1], outline[here:]])
    return outline


@pytest.mark.parametrize("pairs", [1, 50, 10**6])
def test_holes_are_joined_by_the_shortest_channels(
    monkeypatch: pytest.MonkeyPatch, pairs: int
) -> None:
    """Corners at random, so that no two gaps are equal and the order is one."""
    monkeypatch.setattr(contours, "_MOST_PAIRS", pairs)
    for seed in range(10):
        generator = np.random.default_rng(seed)
        rings = [generator.random((count, 2)) for count in (9, 3, 7, 4, 4, 12, 5)]
        np.testing.assert_array_equal(contours._joined(rings), _joined_slowly(rings))


def test_many_holes_are_joined() -> None:
    """More than a search of all distances before each join would get through."""
    mask = np.ones((121, 163), dtype=bool)
    mask[1:-1:3, 1:-1:3] = False
    (polygon,) = outlines(mask)
    assert (~mask).sum() == 2160
    np.testing.assert_array_equal(filled(polygon, mask.shape), mask)


def back(made: Made) -> np.ndarray:
    """The label map as its contours say it."""
    label = np.zeros(made.values.shape, dtype=int)
    images = {pydicom.dcmread(path).SOPInstanceUID for path in made.sources}
    for drawing in pydicom.dcmread(made.path).ROIContourSequence:
        for contour in drawing.get("ContourSequence", []):
            assert contour.ContourImageSequence[0].ReferencedSOPInstanceUID in images
            assert contour.NumberOfContourPoints * 3 == len(contour.ContourData)
            points = np.reshape([float(value) for value in contour.ContourData], (-1, 3))
            index = np.array(
                [made.label.TransformPhysicalPointToContinuousIndex(p.tolist()) for p in points]
            )
            z = int(np.rint(index[0, 2]))
            assert np.abs(index[:, 2] - z).max() < 1e-3
            shape = label.shape[1:]
            label[z] += drawing.ReferencedROINumber * filled(np.round(index[:, :2], 2), shape)
    return label


@pytest.mark.parametrize("frames", [False, True], ids=["slices", "frames"])
@pytest.mark.parametrize("name", ["axial", "negative cosines", "sagittal", "oblique", "one slice"])
def test_the_contours_fill_to_the_mask(tmp_path: Path, name: str, frames: bool) -> None:
    made = make(tmp_path, PLANS[name], frames=frames, write="write_rtstruct")
    np.testing.assert_array_equal(back(made), made.values)


@pytest.mark.parametrize("frames", [False, True], ids=["slices", "frames"])
@pytest.mark.parametrize("classes", [0, 1, 2])
def test_dciodvfy_finds_no_error(tmp_path: Path, classes: int, frames: bool) -> None:
    made = make(tmp_path, Plan(), frames=frames, classes=classes, write="write_rtstruct")
    assert errors_of(made.path) == []
    drawings = pydicom.dcmread(made.path).ROIContourSequence
    assert ["ContourSequence" in drawing for drawing in drawings] == [classes > 0, classes > 1]


def test_what_is_no_anatomical_structure_is_no_organ(tmp_path: Path) -> None:
    made = make(tmp_path, Plan())
    spleen, tumour = terms_of(("background", "spleen", "tumor"), {})
    path = dicom.write_rtstruct(
        made.label, made.sources, contract(terms=(spleen, tumour)), tmp_path / "rt.dcm"
    )
    observations = pydicom.dcmread(path).RTROIObservationsSequence
    assert [one.RTROIInterpretedType or None for one in observations] == ["ORGAN", None]
    assert errors_of(path) == []


def test_plastimatch_fills_them_to_the_mask(tmp_path: Path) -> None:
    """A ring around a core, and an island: one outline with a hole, two without."""
    y, x = np.indices((64, 64))
    from_centre = np.hypot(y - 30, x - 25)
    slice_YX = np.where(from_centre < 22, 1, 0) - (from_centre < 9) + 2 * (from_centre < 5)
    slice_YX[np.hypot(y - 50, x - 50) < 6] = 1
    values = np.repeat(slice_YX[None], 5, axis=0)
    made = make(tmp_path, Plan(size=values.shape), values=values, write="write_rtstruct")
    found = structures_of(made.path, tmp_path / "series", tmp_path / "filled")
    for name, value in (("spleen", 1), ("Milz & Ärger", 2)):
        np.testing.assert_array_equal(on_grid(found[name], made.label), values == value)


def _comb(tmp_path: Path) -> Made:
    """A contour of more text than an element of explicit VR can hold as numbers."""
    values = np.zeros((2, 6, 1100), dtype=np.uint8)
    values[0, 1:5, ::2], values[0, 3] = 1, 1
    return make(tmp_path, Plan(size=values.shape), values=values, write="write_rtstruct")


def test_a_contour_of_more_than_64_kib_is_whole(tmp_path: Path) -> None:
    made = _comb(tmp_path)
    data: Any = pydicom.dcmread(made.path)
    element = data.ROIContourSequence[0].ContourSequence[0].get_item("ContourData")
    assert len(element.value) > 65534
    assert data.file_meta.TransferSyntaxUID.is_implicit_VR
    np.testing.assert_array_equal(back(made), made.values)


def test_dcmtk_finds_a_contour_of_more_than_64_kib(tmp_path: Path) -> None:
    dump = dump_of(_comb(tmp_path).path)
    assert "(3006,0050) DS" in dump
    assert "(3006,0050) UN" not in dump


def test_each_contour_names_the_slice_on_which_it_lies(tmp_path: Path) -> None:
    made = make(tmp_path, Plan(shuffled=True), write="write_rtstruct")
    heights = {
        data.SOPInstanceUID: data.ImagePositionPatient[2]
        for data in map(pydicom.dcmread, made.sources)
    }
    drawings = pydicom.dcmread(made.path).ROIContourSequence
    pairs = [
        (heights[contour.ContourImageSequence[0].ReferencedSOPInstanceUID], contour.ContourData[2])
        for drawing in drawings
        for contour in drawing.ContourSequence
    ]
    assert len({height for height, _ in pairs}) == 5
    assert all(height == z for height, z in pairs)


def test_frames_are_named_by_number(tmp_path: Path) -> None:
    plan = Plan(shuffled=True)
    made = make(tmp_path, plan, frames=True, write="write_rtstruct")
    groups = pydicom.dcmread(made.sources[0]).PerFrameFunctionalGroupsSequence
    for contour in pydicom.dcmread(made.path).ROIContourSequence[0].ContourSequence:
        frame = contour.ContourImageSequence[0].ReferencedFrameNumber
        position = groups[frame - 1].PlanePositionSequence[0].ImagePositionPatient
        assert position[2] == contour.ContourData[2]


def test_structures_are_named_coloured_and_coded(tmp_path: Path) -> None:
    made = make(tmp_path, Plan(), write="write_rtstruct")
    data: Any = pydicom.dcmread(made.path)
    assert [one.ROIName for one in data.StructureSetROISequence] == ["spleen", "Milz & Ärger"]
    assert list(data.ROIContourSequence[0].ROIDisplayColor) == [0xA0, 0x5F, 0xC4]
    observation = data.RTROIObservationsSequence[0]
    assert observation.RTROIIdentificationCodeSequence[0].CodeValue == "78961009"
    assert (data.Modality, data.StudyInstanceUID, data.PatientID) == ("RTSTRUCT", STUDY, "4711")
    (frame,) = data.ReferencedFrameOfReferenceSequence
    assert frame.FrameOfReferenceUID == FRAME_OF_REFERENCE
    series = frame.RTReferencedStudySequence[0].RTReferencedSeriesSequence[0]
    assert len(series.ContourImageSequence) == 5
    assert not any(element.tag.is_private for element in data.iterall())
