"""Run folders as records: sides and slices are kept, and what is missing is said."""

from __future__ import annotations

import numpy as np
import pytest

from medstill.errors import RunError
from medstill.refs import TEACHER, ModelRef
from medstill.reporting.gallery import ranked
from medstill.reporting.overlays import outline, view_of
from medstill.reporting.reading import Slice, read_prediction, read_run, read_slice
from medstill.reporting.wording import fixed, quantity, spread, without_paths
from medstill.runs import read_json, write_json

DISTILLED = ModelRef("distilled", "compact", 0)


def test_run_is_read_as_the_pipeline_wrote_it(finished_run) -> None:
    run = read_run(finished_run.folder)
    assert run.study == finished_run.study
    assert len(run.trainings) == 1 + 2 * 2
    assert run.trainings[TEACHER].facts.parameters == 43_236_036
    assert run.trainings[TEACHER].facts.receptive_field.lower_bound
    assert [point.step for point in run.trainings[DISTILLED].history] == list(range(500, 4001, 500))
    stored = read_json(finished_run.folder / "comparison.json")
    for row, expected in zip(run.summary.models, stored["models"], strict=True):
        assert row.intervals["dice"].mean == expected["intervals"]["dice"]["mean"]
    assert {gain.control for gain in run.summary.gains} == {"control", "control+largest-component"}
    assert [one.id for one in run.left_out] == ["case_900"]


@pytest.mark.parametrize("orientation", ["RAI", "LAS", "SPL", "LPS"])
def test_prediction_lies_on_its_slice_whatever_the_orientation_of_the_files(
    fake_run, orientation
) -> None:
    made = fake_run(orientation=orientation, patients=2, seeds=(0,))
    run = read_run(made.folder)
    for case in made.cases:
        shown = read_slice(run, case)
        assert shown.spacing_yx_mm == (2.0, 1.0)
        np.testing.assert_array_equal(shown.truth_YX, made.truth_ZYX(case)[shown.z])
        found_YX = read_prediction(run, DISTILLED, case, shown)
        expected_ZYX = made.predicted_ZYX(DISTILLED, case)
        np.testing.assert_array_equal(found_YX, expected_ZYX[shown.z])
        # The object is asymmetric: no mirrored and no neighbouring slice would pass.
        for other_YX in (
            expected_ZYX[shown.z, ::-1],
            expected_ZYX[shown.z, :, ::-1],
            expected_ZYX[shown.z - 1],
            expected_ZYX[shown.z + 1],
        ):
            assert (found_YX != other_YX).any()


def test_best_median_and_worst_are_of_different_patients_in_this_order(finished_run) -> None:
    run = read_run(finished_run.folder)
    values = run.summary.model("compact", "distilled").patients["dice"]
    order = sorted(values, key=lambda patient: -values[patient])
    assert ranked(run) == (("best", order[0]), ("median", order[1]), ("worst", order[3]))


def test_two_patients_have_no_median(fake_run) -> None:
    run = read_run(fake_run(patients=2, seeds=(0,)).folder)
    assert [rank for rank, _ in ranked(run)] == ["best", "worst"]


def test_outline_encloses_exactly_the_mask() -> None:
    mask_YX = np.zeros((9, 14), bool)
    mask_YX[2:5, 3:11] = True
    vertices = walk(outline(mask_YX))
    assert (vertices.min(axis=0) == (6, 4)).all()
    assert (vertices.max(axis=0) == (22, 10)).all()
    # In half pixels a pixel has area 4; each of four corners loses a triangle of area 1/2.
    assert area(vertices) == 4 * mask_YX.sum() - 4 * 0.5


def test_outline_takes_holes_out_and_reaches_the_border() -> None:
    mask_YX = np.ones((7, 8), bool)
    mask_YX[3, 4] = False
    parts = [part for part in outline(mask_YX).split("z") if part]
    areas = sorted(area(walk(part + "z")) for part in parts)
    assert areas == [2.0, 4 * 56 - 2.0]
    assert outline(np.zeros((3, 3), bool)) == ""


def test_view_cuts_air_off_but_no_prediction() -> None:
    image_YX = np.zeros((100, 50), np.uint8)
    image_YX[40:60, 20:30] = 200
    label_YX = np.zeros((100, 50), np.uint8)
    label_YX[90, 45] = 1
    shown = Slice(image_YX, label_YX, 0, (2.0, 1.0))
    x, y, width, height = map(float, view_of(shown, [label_YX]).box.split())
    assert (x, y) == (19, 76)
    assert (x + width, y + height) == (47, 186)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("manifest.json", r"'.*manifest\.json' cannot be read"),
        ("split.json", r"run that is prepared, but '.*split\.json' is missing.*medstill prepare"),
        ("comparison.json", r"run that is scored, but '.*' is missing.*medstill evaluate"),
        ("teacher/stage.json", r"training of 'teacher' in '.*' is not finished"),
        ("students/compact/control/seed-1/stage.json", r"compact/control/seed-1' in '.*finished"),
        ("teacher/history.json", r"history\.json' cannot be read"),
        ("prepared/preparation.json", r"preparation\.json' cannot be read"),
    ],
)
def test_missing_stage_is_named(copied_run, path, message) -> None:
    (copied_run / path).unlink()
    with pytest.raises(RunError, match=message):
        read_run(copied_run)


def test_unfinished_and_damaged_stages_are_named(copied_run) -> None:
    path = copied_run / "teacher" / "stage.json"
    stage = read_json(path)
    write_json(path, {**stage, "finished": False})
    with pytest.raises(RunError, match=r"training of 'teacher' .* is not finished"):
        read_run(copied_run)
    write_json(path, {**stage, "result": {"best_step": 3}})
    with pytest.raises(RunError, match=r"stage\.json' is damaged .*best_dice: Field required"):
        read_run(copied_run)


def test_damaged_slice_and_prediction_of_another_grid_are_named(copied_run) -> None:
    run = read_run(copied_run)
    shown = read_slice(run, "case_000")
    wrong = Slice(shown.image, shown.truth_YX[1:], shown.z, shown.spacing_yx_mm)
    with pytest.raises(RunError, match=r"to hold slice 5 of \(22, 31\) pixels, found .*\(17, 23"):
        read_prediction(run, DISTILLED, "case_000", wrong)
    path = copied_run / "gallery" / "case_000.npz"
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(RunError, match=r"case_000\.npz' is damaged"):
        read_slice(run, "case_000")


def test_numbers_are_worded_as_a_reader_expects() -> None:
    assert fixed(-0.0123, signed=True) == "−0.012"
    assert fixed(0.0004, signed=True) == "0.000"
    assert fixed(None) == "–"
    assert quantity(999) == "999"
    assert quantity(57_297) == "57.3 k"
    assert quantity(999_999) == "1.0 M"
    assert spread(None) == ""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("'/home/ann b/x.nii' is cut", "'x.nii' is cut"),
        (r"'C:\Users\ann\x.nii' is cut", "'x.nii' is cut"),
        ("see /data/ann/x.nii.", "see x.nii."),
        ("'/home/ann/series/' is empty", "'series' is empty"),
        ("2.5 steps/s and/or 3", "2.5 steps/s and/or 3"),
    ],
)
def test_paths_are_reduced_to_names(text, expected) -> None:
    assert without_paths(text) == expected


def walk(path: str) -> np.ndarray:
    """The vertices of SVG path data of one `M` and relative lines."""
    start, steps = path.removeprefix("M").removesuffix("z").split("l")
    moves = np.array(steps.replace("-", " -").split(), int).reshape(-1, 2)
    return np.concatenate([[np.array(start.split(), int)], moves]).cumsum(axis=0)


def area(vertices: np.ndarray) -> float:
    """The area of a polygon, by the shoelace formula."""
    x, y = vertices.T
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2
