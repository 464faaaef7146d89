import math

import pytest

from medstill.config import PretrainingConfig, Study, TeacherConfig, TrainingConfig
from medstill.training.schedule import FINAL_SHARE, idle_warmups, learning_rate

RECIPE = TrainingConfig(steps=17, warmup_steps=5, learning_rate=3e-3)


def test_every_step_follows_the_formula():
    for step in range(17):
        if step < 5:
            expected = 3e-3 * (step + 1) / 5
        else:
            half_cosine = (1 + math.cos(math.pi * (step - 5) / 11)) / 2
            expected = 3e-3 * (0.01 + 0.99 * half_cosine)
        assert learning_rate(step, RECIPE) == pytest.approx(expected, rel=1e-12)


def test_the_peak_is_reached_and_one_percent_is_left():
    assert learning_rate(0, RECIPE) == pytest.approx(3e-3 / 5)
    assert learning_rate(4, RECIPE) == learning_rate(5, RECIPE) == pytest.approx(3e-3)
    assert learning_rate(16, RECIPE) == pytest.approx(FINAL_SHARE * 3e-3)


def test_it_rises_then_falls():
    rates = [learning_rate(step, RECIPE) for step in range(17)]
    assert rates[:5] == sorted(rates[:5])
    assert rates[5:] == sorted(rates[5:], reverse=True)


def test_a_warm_up_that_never_ends_is_told():
    study = Study(name="one", training=TrainingConfig(steps=100), teacher=TeacherConfig())
    (text,) = idle_warmups(study)
    assert text.startswith("training.warmup_steps is 100, but training.steps is 100: the learning")
    teacher = TeacherConfig(pretraining=PretrainingConfig(steps=99))
    (text,) = idle_warmups(Study(name="one", teacher=teacher))
    assert text.startswith("teacher.training.warmup_steps is 100, but teacher.pretraining.steps is")
    assert list(idle_warmups(Study(name="one"))) == []


@pytest.mark.parametrize(("steps", "warmup"), [(1, 0), (1, 1), (2, 1), (3, 9), (4, 4)])
def test_short_recipes_have_a_rate_at_every_step(steps, warmup):
    recipe = TrainingConfig(steps=steps, warmup_steps=warmup, learning_rate=1.0)
    assert all(0 < learning_rate(step, recipe) <= 1 for step in range(steps))
