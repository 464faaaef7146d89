"""What decides a training is in its key, and nothing else."""

import pytest
from test_designs import SPLIT as BASE

from medstill.config import content_hash
from medstill.refs import ModelRef
from medstill.training.keys import student_key, teacher_key

SPLIT = BASE.model_copy(update={"unlabelled": ("bare-1", "bare-2")})
FEWER = SPLIT.model_copy(update={"unlabelled": ("bare-1",), "left_out": ("bare-2",)})


def keys_of(study, split):
    name = study.students[0].called
    refs = [ModelRef(arm, name) for arm in ("control", "distilled", "all-labels")]
    keys = [teacher_key(study, "data", split)]
    return [*keys, *(student_key(study, ref, "data", split) for ref in refs)]


@pytest.mark.parametrize(
    ("changes", "decided"),
    [
        ({}, [False] * 4),
        ({"distillation": {"unlabelled_batch": 2}}, [False, False, True, False]),
        ({"teacher": {"pretraining": {"steps": 4}}}, [True, False, True, False]),
    ],
)
def test_cases_without_labels_that_are_left_out_decide_what_would_see_them(
    tiny_with, changes, decided
):
    study = tiny_with(**changes)
    pairs = zip(keys_of(study, SPLIT), keys_of(study, FEWER), strict=True)
    assert [one != other for one, other in pairs] == decided


def test_without_such_cases_a_key_is_that_of_earlier_editions(tiny_with):
    study = tiny_with(distillation={"unlabelled_batch": 2}, teacher={"pretraining": {"steps": 4}})
    more = SPLIT.model_copy(update={"unlabelled": ()})
    assert content_hash(keys_of(study, SPLIT)) == content_hash(keys_of(study, more))
    assert not any("left_out" in key for key in keys_of(study, SPLIT))
