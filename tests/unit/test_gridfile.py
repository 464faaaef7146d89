"""Grid files: points and their studies; every mistake is named, with its place."""

import pytest

from medstill.errors import ConfigError
from medstill.study import expand, load_grid
from medstill.study.gridfile import parse_grid
from medstill.study.points import axes_of, select
from medstill.studyfile import load_study

TEXT = """
name: losses
base:
  split: {kind: folds, folds: 3}
  students: [{name: compact}]
  training: {steps: 100}
axes:
  fold: {key: split.fold, values: [0, 1]}
  loss:
    points:
      none: {distillation.features: {}, distillation.maps: []}
      kl: {distillation.maps: [{loss: kl, weight: 0.3}]}
runs:
  - {name: all-labels, set: {label_fraction: 1.0, split.fold: 2}}
"""


@pytest.fixture
def write(tmp_path):
    def write(text, name="grid.yaml"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


def points_of(path, overrides=()):
    return {point.name: point for point in expand(load_grid(path, overrides))}


def test_every_combination_is_a_run_and_further_runs_follow(write):
    points = points_of(write(TEXT))
    assert list(points) == [
        "fold-0_loss-none",
        "fold-0_loss-kl",
        "fold-1_loss-none",
        "fold-1_loss-kl",
        "all-labels",
    ]
    none, kl = points["fold-1_loss-none"], points["fold-1_loss-kl"]
    assert none.values == {"fold": "1", "loss": "none"}
    assert (none.study.split.fold, none.study.distillation.features) == (1, {})
    assert none.study.distillation.maps == ()
    assert [(term.loss, term.weight) for term in kl.study.distillation.maps] == [("kl", 0.3)]
    assert set(kl.study.distillation.features) == {"E", "B", "D"}
    assert points["all-labels"].values == {"run": "all-labels"}
    assert points["all-labels"].study.label_fraction == 1.0
    assert {point.study.training.steps for point in points.values()} == {100}
    assert kl.study.name == "losses-fold-1-loss-kl"


def test_axes_are_in_the_order_of_the_file(write):
    points = points_of(write(TEXT))
    assert axes_of(points.values()) == {
        "fold": ("0", "1"),
        "loss": ("none", "kl"),
        "run": ("all-labels",),
    }


def test_the_base_may_be_a_study_file_beside_it(write):
    write("name: thesis\ntraining: {steps: 7}\n", "thesis.yaml")
    text = "name: g\nbase: thesis.yaml\naxes: {seed: {key: seeds, values: [[0], [1]]}}\n"
    points = points_of(write(text))
    assert [point.study.seeds for point in points.values()] == [(0,), (1,)]
    assert list(points) == ["seed-0", "seed-1"]
    assert {point.study.training.steps for point in points.values()} == {7}


@pytest.mark.parametrize(
    ("text", "pooled"),
    [("", ("fold",)), ("pool: []\n", ()), ("pool: [loss, fold]\n", ("loss", "fold"))],
)
def test_folds_are_pooled_unless_the_file_says_otherwise(write, text, pooled):
    assert load_grid(write(TEXT + text)).pooled == pooled


def test_a_row_to_compare_with_is_one_that_the_grid_has(write):
    assert load_grid(write(TEXT + "against: {loss: none}\n")).against == {"loss": "none"}
    alone = "name: g\nbase: {}\nruns: [{name: a}, {name: b, set: {label_fraction: 1.0}}]\n"
    assert load_grid(write(alone + "against: {run: a}\n")).against == {"run": "a"}


def test_overrides_reach_the_base(write):
    points = points_of(write(TEXT), ["training.steps=5", "students.0.name=unet-s1"])
    assert {point.study.training.steps for point in points.values()} == {5}
    assert {point.study.students[0].name for point in points.values()} == {"unet-s1"}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("split.fold=2", r"--set split\.fold=2: the axis 'fold' sets 'split\.fold' in every run"),
        ("distillation.maps=[]", r"the axis 'loss' sets 'distillation\.maps' in every run"),
        ("training.steps", "--set expects KEY=VALUE"),
        ("training.setps=1", r"base\.training\.setps: .*Did you mean 'steps'\?"),
    ],
)
def test_an_override_without_effect_or_place_is_refused(write, override, message):
    with pytest.raises(ConfigError, match=message):
        load_grid(write(TEXT), [override])


def test_only_chooses_runs(write):
    points = expand(load_grid(write(TEXT)))
    names = [point.name for point in select(points, ["loss=kl"])]
    assert names == ["fold-0_loss-kl", "fold-1_loss-kl"]
    names = [point.name for point in select(points, ["loss=kl", "loss=none", "fold=1"])]
    assert names == ["fold-1_loss-none", "fold-1_loss-kl"]
    assert [point.name for point in select(points, ["run=all-labels"])] == ["all-labels"]
    assert select(points, []) == points


@pytest.mark.parametrize(
    ("only", "message"),
    [
        (["loss"], "--only expects AXIS=VALUE such as fold=0, but got 'loss'"),
        (["lss=kl"], r"No axis of this study is called 'lss'\. Did you mean 'loss'\?"),
        (["loss=k"], r"No value of the axis 'loss' is called 'k'\. Did you mean 'kl'\?"),
        (["loss=kl", "run=all-labels"], "No run has loss=kl, run=all-labels together"),
    ],
)
def test_a_wrong_choice_is_answered(write, only, message):
    with pytest.raises(ConfigError, match=message):
        select(expand(load_grid(write(TEXT))), only)


def test_all_mistakes_are_named_at_once(write):
    text = TEXT.replace("steps", "setps").replace("runs:", "rusn:").replace("values:", "valuse:")
    with pytest.raises(ConfigError) as found:
        load_grid(write(text))
    message = str(found.value)
    assert message.startswith("3 problems in ")
    assert "base.training.setps: No key is called 'setps'. Did you mean 'steps'?" in message
    assert "rusn: No key is called 'rusn'. Did you mean 'runs'?" in message
    assert "axes.fold.valuse: No key is called 'valuse'. Did you mean 'values'?" in message


def test_no_two_runs_have_one_name(write):
    """A run by itself that is called as a point of the axes would be in that point's folder."""
    axis = "fold: {key: split.fold, values: [0, 1]}"
    text = TEXT.replace(axis, "").replace("name: all-labels", "name: loss-kl")
    with pytest.raises(ConfigError, match="'loss-kl' is the name of 2 runs, which would have one"):
        expand(load_grid(write(text)))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[0, 1]", "[0, 3]", r"fold-3_loss-none and 1 more: .*there are only 3 folds"),
        ("split.fold,", "split.fodl,", r"fold-0_loss-none and 3 more: split\.fodl: .*'fold'\?"),
        ("[0, 1]", "[0, 0.0]", r"fold-0\.0_loss-none' are the same study: fold changes nothing"),
        ("split.fold, values", "engine.threads, values", r"engine\.threads: .*greater than"),
        (
            "split.fold, values: [0,",
            "engine.threads, values: [2,",
            "'fold-2_loss-none' and 'fold-1_loss-none' are the same study: fold changes nothing",
        ),
        ("kind: folds, ", "", "'fold-0_loss-none' and 'fold-1_loss-none' are the same study"),
        ("[0, 1]", "[0, 0]", r"axes\.fold: values has twice: 0"),
        ("[0, 1]", "[a/b]", r"the value 'a/b' makes no name .*name it: 'points:"),
        ("[0, 1]", "[{a: 1}]", r"the value \{'a': 1\} makes no name"),
        ("{key: split.fold, values: [0, 1]}", "{}", r"either 'key' and 'values', or 'points'"),
        ("values: [0, 1]", "points: {a: {}}", r"either 'key' and 'values', or 'points'"),
        ("students: [", "name: x\n  students: [", "has a name, but the grid names its runs"),
        ("name: losses", "name: Losses", "name: may hold small letters, .* as in 'losses'"),
        ("label_fraction: 1.0", "label_fraction: 2.0", "all-labels: label_fraction: .*less than"),
        ("set: {label", "set: {students.3.width: 1, label", "'3' must be a position from 0 to 0"),
    ],
)
def test_a_wrong_grid_is_answered(write, old, new, message):
    assert old in TEXT
    with pytest.raises(ConfigError, match=message):
        expand(load_grid(write(TEXT.replace(old, new))))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: g\n", r"has no 'base', so it is a single study: run it with 'medstill run'"),
        ("name: g\nbase: {}\n", "a grid needs 'axes' or 'runs'"),
        ("name: g\nbase: 3\n", "must hold the keys of a study or name a study file, but is 3"),
        ("name: g\nbase: no.yaml\naxes: {}\n", r"Cannot read the study file '.*no\.yaml'"),
        (TEXT + "pool: [seed]\n", r"pool: No axis is called 'seed'\. There are: fold, loss"),
        (TEXT + "  - {name: all-labels}\n", "runs has a name twice"),
        (TEXT + "against: {fold: 0}\n", r"against\.fold"),
        (TEXT + "against: {fold: '0'}\n", r"against: No axis of the rows is called 'fold'"),
        (TEXT + "against: {loss: non}\n", r"against: No value of it is called 'non'.*'none'"),
    ],
)
def test_a_grid_that_is_none_is_answered(write, text, message):
    with pytest.raises(ConfigError, match=message):
        load_grid(write(text))


def test_axes_may_be_those_of_another_file(write):
    write(TEXT, "losses.yaml")
    other = "name: longer\nbase: {split: {kind: folds, folds: 3}, training: {steps: 7}}\n"
    points = points_of(write(other + "axes: losses.yaml\n", "longer.yaml"))
    assert list(points) == [name for name in points_of(write(TEXT)) if name != "all-labels"]
    assert points["fold-1_loss-kl"].study.training.steps == 7
    assert points["fold-1_loss-kl"].study.name == "longer-fold-1-loss-kl"


@pytest.mark.parametrize("text", ["name: s\nbase: {}\n", "axes: losses.yaml\n"])
def test_axes_of_a_file_that_has_none_of_its_own_are_answered(write, text):
    write(text, "losses.yaml")
    with pytest.raises(ConfigError, match=r"names 'losses\.yaml', which holds no axes of its own"):
        load_grid(write("name: longer\nbase: {}\naxes: losses.yaml\n"))


def test_a_single_study_and_many_runs_are_told_apart(write):
    with pytest.raises(
        ConfigError, match=r"describes many runs .*'medstill study run .*grid\.yaml"
    ):
        load_study(write(TEXT))


def test_a_grid_from_plain_data_is_checked_like_a_file():
    with pytest.raises(ConfigError, match=r"1 problem in the grid:\n  base\.trainng: .*'training'"):
        parse_grid({"name": "g", "base": {"trainng": 1}, "runs": [{"name": "a"}]})
