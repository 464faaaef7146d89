"""What the runs of a study cost together, before any work."""

import pytest

from grids import AXES, tiny_grid
from medstill import pipeline
from medstill.errors import ConfigError, SplitError
from medstill.study import GridOptions, expand
from medstill.study.checking import check_points
from medstill.study.grid import check_grid
from medstill.training import costs
from medstill.volumes.layouts import find_dataset

CACHED = {
    "training": {"views": 4},
    "distillation": {"features": {"B": {"weight": 0.0}}, "cache": "float16"},
}
MORE = {"loss": AXES["loss"], "rate": {"key": "training.learning_rate", "values": [0.002, 0.003]}}


@pytest.fixture
def timed(monkeypatch):
    """Every timing, each of which is said to be a second a step."""
    calls = []
    monkeypatch.setattr(costs, "_step_s", lambda task, *_: calls.append(task) or 1.0)
    return calls


def test_a_run_whose_teachers_have_too_few_patients_is_found(phantom, tiny_with):
    axes = {"teachers": {"key": "teacher.folds", "values": [2, 3]}}
    grid = tiny_grid(tiny_with(**CACHED), axes)
    with pytest.raises(SplitError, match=r"Run 'teachers-3': teacher\.folds is 3: expected at"):
        check_points(expand(grid), find_dataset(phantom))


def test_runs_that_differ_in_their_recipe_are_checked_each(phantom, tiny_with):
    student = {"name": "UNet", "options": {"channels": [4, 8], "strides": [2]}}
    axes = {"prior": {"key": "training.head_prior", "values": [False, True]}}
    study = tiny_with(students=[student], distillation={"features": {"B": {"weight": 0.0}}})
    with pytest.raises(ConfigError, match=r"Run 'prior-true': .*'UNet' does not"):
        check_points(expand(tiny_grid(study, axes)), find_dataset(phantom))


def test_each_kind_of_step_is_timed_once(phantom, tiny_with, timed):
    grid = tiny_grid(tiny_with(), {"fold": AXES["fold"], **MORE})
    found = check_grid(grid, phantom, GridOptions(workers=1))
    # Teacher, control, distilled without terms, distilled by kl: neither folds nor rates cost more.
    assert [type(task).__name__ for task in timed] == ["TeacherTask", *["StudentTask"] * 3]
    assert found.trainings == 2 * (1 + 2 + 4)
    study = expand(grid)[0].study
    steps = (study.teacher.training.steps, study.training.steps)
    assert found.training_s == 2 * (steps[0] + 6 * steps[1])
    assert found.cache_mb == 0


def test_pretraining_and_several_teachers_are_counted(phantom, tiny_with, timed):
    teacher = {"folds": 2, "pretraining": {"steps": 3}}
    parts = {"parts": {"key": "split.folds", "values": [4, 6]}}
    grid = tiny_grid(tiny_with(teacher=teacher, **CACHED), parts)
    found = check_grid(grid, phantom, GridOptions(workers=1))
    study = expand(grid)[0].study
    alone = pipeline.estimate(study, phantom)
    assert study.teacher.pretraining.steps == 3
    assert found.training_s == 2 * alone.training_s * alone.workers


def test_what_teachers_say_is_counted_once_for_each_of_them(phantom, tiny_with, timed):
    axes = {"fold": AXES["fold"], "rate": MORE["rate"]}
    grid = tiny_grid(tiny_with(**CACHED), axes)
    found = check_grid(grid, phantom, GridOptions(workers=1))
    alone = pipeline.estimate(expand(grid)[0].study, phantom).cache_mb
    assert alone > 0
    assert found.cache_mb == pytest.approx(2 * alone)
