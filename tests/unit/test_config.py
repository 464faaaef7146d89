"""The study: what it refuses, and what its hash depends on."""

import json

import pytest
from pydantic import Field, ValidationError

from medstill.config import (
    DataConfig,
    Later,
    Record,
    SplitConfig,
    Study,
    TrainingConfig,
    content_hash,
    deciding,
    study_hash,
)


def study(**values):
    return Study.model_validate({"name": "one", **values})


def test_a_name_is_all_that_a_study_needs():
    assert study().students[0].name == "compact"
    with pytest.raises(ValidationError, match="name"):
        Study.model_validate({})


@pytest.mark.parametrize("name", ["", "One", "-a", "a b", "a/b", "../a"])
def test_a_name_is_fit_for_a_folder(name):
    with pytest.raises(ValidationError, match="pattern"):
        study(name=name)


def test_a_study_is_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        study().name = "two"


def test_a_study_survives_json():
    one = study(data={"labels": {"organ": ["a", "b"]}, "spacing_mm": [2.0, 1.0]}, seeds=[3, 1])
    assert Study.model_validate(json.loads(json.dumps(one.model_dump(mode="json")))) == one


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"patch_size": (32, 32, 32)}, r"data.patch_size has 3 entries.*spatial_dims is 2"),
        ({"spacing_mm": (1.0,)}, "data.spacing_mm has 1 entries"),
        ({"spatial_dims": 3}, "data.patch_size has 2 entries"),
        ({"spacing_mm": (0.0, 1.0)}, "greater than 0"),
        ({"spacing_mm": (float("nan"), 1.0)}, "greater than 0|finite"),
        ({"spatial_dims": 4}, "2 or 3"),
    ],
)
def test_sizes_and_spacings_fit_the_axes(values, message):
    with pytest.raises(ValidationError, match=message):
        DataConfig(**values)


def test_a_fold_that_does_not_exist_is_refused():
    with pytest.raises(ValidationError, match=r"split.fold is 5, but there are only 5 folds"):
        SplitConfig(kind="folds", fold=5)
    assert SplitConfig(kind="folds", fold=4).fold == 4


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"seeds": [1, 2, 1]}, r"seeds has a number twice: \[1, 2, 1\]"),
        ({"seeds": []}, "at least 1 item"),
        ({"students": []}, "at least 1 item"),
        (
            {"students": [{"name": "compact"}, {"name": "compact", "width": 2}]},
            r"students has a name twice: \[.*\]; give one of them an alias",
        ),
        (
            {"students": [{"name": "compact"}, {"name": "unet-s1", "alias": "compact"}]},
            r"students has a name twice: \['compact', 'compact'\]",
        ),
        ({"students": [{"name": "compact", "alias": "teacher"}]}, "called 'teacher'"),
        ({"students": [{"name": "unet-t1", "width": 0.1}]}, "'unet-t1', as the teacher's network"),
        ({"students": [{"name": "compact", "alias": "../up"}]}, "should match pattern"),
        ({"references": ["all-labels", "all-labels"]}, "references has a name twice"),
        ({"references": ["all"]}, "all-labels"),
        ({"references": ["pseudo-labels"]}, "distillation.unlabelled_batch is 0"),
        ({"label_fraction": 0.0}, "greater than 0"),
        ({"label_fraction": 1.5}, "less than or equal to 1"),
    ],
)
def test_what_occurs_twice_or_not_at_all_is_refused(values, message):
    with pytest.raises(ValidationError, match=message):
        study(**values)


@pytest.mark.parametrize("value", [float("inf"), float("nan"), -1.0, 0.0])
def test_a_learning_rate_is_a_positive_number(value):
    with pytest.raises(ValidationError, match="learning_rate"):
        TrainingConfig(learning_rate=value)


@pytest.mark.parametrize(
    ("values", "place"),
    [
        ({"split": {"seed": -1}}, "split.seed"),
        ({"evaluation": {"seed": -1}}, "evaluation.seed"),
        ({"training": {"betas": [1.0, 0.9]}}, "training.betas.0"),
        ({"training": {"betas": [0.9, 1.0]}}, "training.betas.1"),
        ({"training": {"precision": "bf16-true"}}, "training.precision"),
    ],
)
def test_what_would_fail_during_work_is_refused(values, place):
    with pytest.raises(ValidationError) as found:
        study(**values)
    assert [".".join(map(str, error["loc"])) for error in found.value.errors()] == [place]


def test_the_hash_does_not_depend_on_the_order_of_keys():
    assert content_hash({"a": 1, "b": [2, 3]}) == content_hash({"b": [2, 3], "a": 1})
    assert content_hash({"a": [1, 2]}) != content_hash({"a": [2, 1]})
    assert content_hash(study()) == content_hash(deciding(study()))


def test_the_hash_of_plain_data_is_what_it_was():
    # SHA-256 of the text {"a":1}; run folders on disk depend on it.
    assert content_hash({"a": 1}) == "015abd7f5cc57a2d"


def test_folders_of_an_earlier_edition_are_still_known():
    # Later keys are left out at their defaults; these are hashes that an earlier edition wrote: the
    # first that starts the last bias at the class frequencies by default.
    assert study_hash(study()) == "513de59bb6d99aa1"
    values = {
        "seeds": [1, 2],
        "label_fraction": 0.25,
        "training": {"steps": 7},
        "distillation": {"features": {"B": {"loss": "mse"}}, "maps": [{"loss": "dist"}] * 2},
    }
    assert study_hash(study(**values)) == "8ff399fe37c2908f"


class Part(Record):
    old: int = 1
    new: Later[int] = Field(default=0, ge=0)


class Whole(Record):
    part: Part = Part()
    parts: dict[str, Part] = {}
    row: Later[tuple[Part, ...]] = ()


def test_a_later_key_is_in_the_hash_unless_it_has_its_default():
    assert deciding(Whole()) == {"part": {"old": 1}, "parts": {}}
    assert deciding(Whole(part=Part(new=0), row=())) == deciding(Whole())
    deep = Whole(parts={"a": Part(), "b": Part(new=3)}, row=(Part(old=2),))
    parts = {"a": {"old": 1}, "b": {"old": 1, "new": 3}}
    assert deciding(deep) == {"part": {"old": 1}, "parts": parts, "row": [{"old": 2}]}
    assert deep.model_dump()["part"] == {"old": 1, "new": 0}
    assert Whole.model_validate(deciding(deep)) == deep


@pytest.mark.parametrize(
    "values",
    [
        {"references": ["all-labels"]},
        {"seeds": [1]},
        {"training": {"steps": 7}},
        {"data": {"crop_to_body": True}},
        {"distillation": {"segmentation_weight": 0.5}},
        {"evaluation": {"nsd_tolerance_mm": 3.0}},
    ],
)
def test_what_decides_a_result_is_in_the_hash(values):
    assert study_hash(study(**values)) != study_hash(study())


def test_where_it_is_computed_does_not_change_the_hash():
    engine = {"workers": 3, "threads": 2, "accelerator": "gpu"}
    assert study_hash(study(engine=engine, description="text")) == study_hash(study())
