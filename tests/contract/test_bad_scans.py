"""What bad scans, models and masks get from `predict` and `evaluate`."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from bad_data import (
    SHAPE_ZYX,
    assert_refused,
    constant,
    four_dimensions,
    infinite,
    missing_image,
    nan,
    negative_spacing,
    spleen_ZYX,
    text_as_image,
    truncated,
    write,
    zero_spacing,
)

from medstill import pipeline
from medstill.errors import ConfigError

BAD_IMAGES = (
    *(truncated, text_as_image, missing_image, nan, infinite, four_dimensions, constant),
    *(zero_spacing, negative_spacing),
)


@pytest.mark.parametrize("damage", BAD_IMAGES)
@pytest.mark.usefixtures("model")
def test_predict_refuses_a_bad_scan(world, medstill, damage):
    path, target = damage(world), world.folder / "masks" / "out.nii.gz"
    assert_refused(medstill("predict", "m.onnx", path, target), path)
    assert not list(world.folder.glob("masks/*"))


@pytest.mark.usefixtures("model")
def test_predict_goes_on_with_the_other_scans_and_lists_the_bad_one(world, medstill):
    path, target = truncated(world), world.folder / "masks"
    answer = medstill("predict", "m.onnx", world.data / "imagesTr", target)
    assert answer.code == 2
    assert "Traceback" not in answer.out + answer.err
    told = " ".join(answer.out.split())
    assert f"case_2: '{path}' is truncated" in told
    masks = [f"case_{case}.nii.gz" for case in (0, 1, 3, 4, 5)]
    assert sorted(entry.name for entry in target.iterdir()) == [*masks, "volumes.json"]
    listed = json.loads((target / "volumes.json").read_text())["cases"]
    assert "truncated" in listed["case_2.nii.gz"]["error"]


@pytest.mark.usefixtures("model")
def test_predict_overwrites_nothing_unasked(world, medstill):
    target = write(world.folder / "mask.nii.gz", spleen_ZYX(0))
    before = target.read_bytes()
    answer = medstill("predict", "m.onnx", world.image(0), target)
    assert_refused(answer, f"'{target}' exists already", "--overwrite")
    assert target.read_bytes() == before


@pytest.mark.parametrize("content", [None, b"", b"this is no network"])
def test_predict_refuses_what_is_no_model(world, medstill, content):
    path = world.folder / "model.onnx"
    if content is not None:
        path.write_bytes(content)
    answer = medstill("predict", path, world.image(0), world.folder / "mask.nii.gz")
    assert_refused(answer, path)
    assert not (world.folder / "mask.nii.gz").exists()


def masks(world):
    folder = world.folder / "masks"
    folder.mkdir()
    for case in range(6):
        write(folder / world.label(case).name, spleen_ZYX(case))
    return folder


def evaluated(world, medstill):
    scores = world.folder / "scores.json"
    folder = world.folder / "masks"
    answer = medstill("evaluate", folder, world.data / "labelsTr", "-o", scores)
    assert scores.exists() == (answer.code == 0)
    return answer


def test_evaluate_scores_good_masks(world, medstill):
    masks(world)
    answer = evaluated(world, medstill)
    assert answer.code == 0
    assert "1.000" in answer.out


def test_evaluate_refuses_a_missing_mask(world, medstill):
    (masks(world) / "case_4.nii.gz").unlink()
    assert_refused(evaluated(world, medstill), "lacks a prediction for 1 of the 6", "case_4")


def test_evaluate_refuses_a_mask_on_another_grid(world, medstill):
    path = write(masks(world) / "case_4.nii.gz", spleen_ZYX(4)[:-1])
    assert_refused(evaluated(world, medstill), path, "xpected")


def test_evaluate_refuses_a_broken_mask(world, medstill):
    path = masks(world) / "case_4.nii.gz"
    path.write_bytes(path.read_bytes()[:40])
    assert_refused(evaluated(world, medstill), path, "truncated", "Copy or download")


def test_evaluate_refuses_two_masks_of_one_name(world, medstill):
    write(masks(world) / "case_4.nrrd", spleen_ZYX(4))
    assert_refused(evaluated(world, medstill), "two masks named 'case_4'", "Keep one of them")


def test_evaluate_refuses_empty_masks(world, medstill):
    folder = masks(world)
    for case in range(6):
        write(folder / f"case_{case}.nii.gz", np.zeros(SHAPE_ZYX, np.uint8))
        write(world.label(case), np.zeros(SHAPE_ZYX, np.uint8))
    assert_refused(evaluated(world, medstill), "All masks are empty: expected", "right folders?")


def test_evaluate_refuses_one_folder_alone(world, medstill):
    assert_refused(medstill("evaluate", masks(world)), "expects two folders of masks")


@pytest.mark.parametrize("which", ["masks", "labelsTr"])
def test_evaluate_writes_over_no_mask(world, medstill, which):
    folders = {"masks": masks(world), "labelsTr": world.data / "labelsTr"}
    mask = folders[which] / "case_4.nii.gz"
    before = mask.read_bytes()
    answer = medstill("evaluate", *folders.values(), "-o", mask)
    assert_refused(answer, mask, "would overwrite an input", "Choose another")
    assert mask.read_bytes() == before


def test_evaluate_refuses_a_tolerance_that_is_no_length(world, medstill):
    folders = masks(world), world.data / "labelsTr"
    answer = medstill("evaluate", *folders, "--tolerance-mm", "inf")
    assert_refused(answer, "it is inf mm", "Give another one")
    for tolerance_mm in (math.nan, -1.0):
        with pytest.raises(ConfigError, match="length of 0 mm or more"):
            pipeline.evaluate_masks(*folders, tolerance_mm=tolerance_mm)


def test_evaluate_refuses_options_of_the_other_form(world, medstill):
    run = world.folder / "run"
    answer = medstill("evaluate", masks(world), world.data / "labelsTr", "--data", world.data)
    assert_refused(answer, "--data belongs to a run folder", "Leave it out")
    answer = medstill("evaluate", run, "--data", world.data, "--tolerance-mm", "2")
    assert_refused(answer, "--tolerance-mm belongs to two folders of masks", "Leave it out")
    answer = medstill("evaluate", run, "--data", world.data, "-o", world.folder / "scores.json")
    assert_refused(answer, "-o belongs to two folders of masks", "Leave it out")
