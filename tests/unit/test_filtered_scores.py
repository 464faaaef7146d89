"""Scores of the largest components, beside those of the whole masks."""

import json

import numpy as np
import pytest

from medstill import stages
from medstill.evaluation.arms import FILTERED, FILTERED_SCORES_FILE, SCORES_FILE, score_files
from medstill.refs import TEACHER, ModelRef
from medstill.study.folder import run_folder
from medstill.volumes.components import largest_components
from medstill.volumes.geometry import array_CZYX
from medstill.volumes.io import read_label


@pytest.fixture(scope="module")
def run(finished_grid):
    return run_folder(finished_grid[0], "fold-0_loss-kl")


@pytest.mark.parametrize("arm", FILTERED)
def test_filtered_scores_are_those_of_the_largest_components_of_the_masks(run, arm):
    test = ModelRef(arm, "unet-s1").folder(run) / "test"
    rows = json.loads((test / FILTERED_SCORES_FILE).read_text())["cases"]
    assert [row["case"] for row in rows] == list(stages.open_prepared(run).split.test)
    whole = json.loads((test / SCORES_FILE).read_text())["cases"]
    assert rows != whole, "the masks have nothing to filter"
    for row in rows:
        mask = read_label(test / "predictions" / f"{row['case']}.nii.gz")
        voxels = np.bincount(largest_components(array_CZYX(mask)[0]).ravel(), minlength=9)
        ml = voxels * np.prod(mask.GetSpacing()) / 1000
        found = [one["predicted_ml"] for one in row["classes"]]
        np.testing.assert_allclose(found, ml[1 : len(found) + 1], rtol=1e-4)


def test_a_teacher_is_not_filtered(run):
    assert not (TEACHER.folder(run) / "test" / FILTERED_SCORES_FILE).exists()


def test_scores_of_before_lack_the_filtered_student_but_never_the_filtered_control(tmp_path):
    whole = tmp_path / SCORES_FILE
    assert score_files("distilled", tmp_path) == {"distilled": whole}
    for arm in FILTERED:
        if arm == "distilled":
            (tmp_path / FILTERED_SCORES_FILE).touch()
        filtered = tmp_path / FILTERED_SCORES_FILE
        assert score_files(arm, tmp_path) == {arm: whole, FILTERED[arm]: filtered}
    assert score_files("all-labels", tmp_path) == {"all-labels": whole}
