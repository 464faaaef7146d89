"""Data that were changed after a run was prepared from them: no two truths in one comparison."""

from __future__ import annotations

import shutil

import pytest
import SimpleITK as sitk

from medstill import pipeline, scoring, stages
from medstill.errors import RunError


@pytest.fixture
def run(phantom, tiny_with, tmp_path):
    pipeline.prepare(tiny_with(), phantom, tmp_path / "run")
    return stages.open_prepared(tmp_path / "run")


@pytest.fixture
def copy(phantom, tmp_path):
    return shutil.copytree(phantom, tmp_path / "data")


def test_copy_of_the_data_is_as_good(run, copy):
    assert [case.id for case, _, _ in scoring.test_cases(run, copy)] == list(run.split.test)


@pytest.mark.parametrize("part", ["imagesTr", "labelsTr"])
def test_changed_test_case_is_refused_by_name(run, copy, part):
    name = run.split.test[-1]
    path = copy / part / f"{name}.nii.gz"
    sitk.WriteImage(sitk.Flip(sitk.ReadImage(str(path)), (True, False, False)), str(path))
    with pytest.raises(RunError, match=rf"test case '{name}'.*changed since. Give the folder"):
        list(scoring.test_cases(run, copy))


def test_changed_training_case_does_not_matter(run, copy):
    path = copy / "labelsTr" / f"{run.split.train[0]}.nii.gz"
    sitk.WriteImage(sitk.ReadImage(str(path)) * 0, str(path))
    assert len(list(scoring.test_cases(run, copy))) == len(run.split.test)
