"""Study files and overrides: every mistake is named, with its place and the nearest right name."""

import pytest

from medstill.errors import ConfigError
from medstill.study import load_grid
from medstill.studyfile import load_study, parse_study

TEXT = """
name: one
seeds: [0, 1]
students:
  - name: compact
  - {name: unet-s1, width: 0.5}
training: {steps: 100}
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(TEXT)
    return path


def test_a_file_becomes_a_study(file):
    study = load_study(file)
    assert (study.name, study.seeds, study.training.steps) == ("one", (0, 1), 100)
    assert [student.name for student in study.students] == ["compact", "unet-s1"]


@pytest.mark.parametrize(
    ("override", "read"),
    [
        ("training.steps=7", lambda s: s.training.steps == 7),
        ("training.learning_rate=1e-3", lambda s: s.training.learning_rate == 0.001),
        ("training.augmentation.mirror=[y, x]", lambda s: len(s.training.augmentation.mirror) == 2),
        ("students.1.width=0.25", lambda s: s.students[1].width == 0.25),
        ("students.0={name: unet-s2}", lambda s: s.students[0].name == "unet-s2"),
        ("seeds.1=5", lambda s: s.seeds == (0, 5)),
        ("distillation.cache=off", lambda s: s.distillation.cache == "off"),
        ("description=a=b", lambda s: s.description == "a=b"),
        ("data.spacing_mm=null", lambda s: s.data.spacing_mm is None),
    ],
)
def test_overrides_reach_every_value(file, override, read):
    assert read(load_study(file, [override]))


def test_the_last_override_holds(file):
    assert load_study(file, ["training.steps=7", "training.steps=8"]).training.steps == 8


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.steps", r"--set expects KEY=VALUE .* but got 'training.steps'"),
        ("=3", r"--set expects KEY=VALUE"),
        ("training.steps.more=3", r"--set training.steps.more=3: .*below a single value"),
        ("training.steps.more.still=3", r"'more' lies below a single value"),
        ("students.2.width=1", r"'2' must be a position from 0 to 1 of that list"),
        ("seeds.-1=1", r"'-1' must be a position from 0 to 1"),
        ("training.steps=many", r"training.steps: .*integer.*got 'many'"),
        ("training.setps=3", r"training.setps: .*Did you mean 'steps'\?"),
        ("trainign.steps=3", r"trainign: .*Did you mean 'training'\?"),
        ("seeds=3", r"seeds: must be a list, such as \[3\] \(got 3\)"),
        ("seeds.0.more.1=3", r"'more' lies below a single value"),
        ("test.0=3", r"--set test\.0=3: the file has no list 'test', so it has no entry 0\."),
        ("name=my liver, 2", r"name: may hold small letters, .* as in 'my-liver-2'"),
        ("data.spacing_mm=[1, 1, 1]", r"data\.spacing_mm has 3 entries[^(]*$"),
        ("training.precision=fp32", r"'32-true', 'bf16-mixed' or '16-mixed' \(got 'fp32'\)"),
        ("training={steps: 1, steps: 2}", r"the value has the key 'steps' twice in one place"),
        ("training.steps=[1", r"--set training.steps=\[1: .*not valid YAML"),
    ],
)
def test_a_wrong_override_is_answered(file, override, message):
    with pytest.raises(ConfigError, match=message):
        load_study(file, [override])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"must hold keys and values, but holds NoneType\. Start from .*studies/"),
        ("- a\n- b\n", "but holds list"),
        ("name: [1", "is not valid YAML"),
        ("name: one\ntraining: 3\n", r"training: .*\(got 3\)"),
    ],
)
def test_a_file_that_is_no_study_is_answered(tmp_path, text, message):
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        load_study(path)
    assert "broken.yaml" in str(caught.value)


@pytest.mark.parametrize("read", [load_study, load_grid])
def test_a_key_that_stands_twice_is_refused(tmp_path, read):
    path = tmp_path / "twice.yaml"
    path.write_text("name: a\nbase:\n  seeds: [1]\n  label_fraction: 0.5\n  seeds: [2]\n")
    message = r"twice.yaml' has the key 'seeds' twice in one place, in line 3 and in line 5: keep"
    with pytest.raises(ConfigError, match=message):
        read(path)


def test_a_key_may_replace_one_that_is_merged(tmp_path):
    path = tmp_path / "merged.yaml"
    lines = [
        "name: one",
        "training: &plain {steps: 100, batch_size: 2}",
        "teacher: {training: &more {<<: *plain, steps: 200}}",
        "students: [{name: compact}]",
    ]
    path.write_text("\n".join(lines))
    study = load_study(path)
    assert (study.training.steps, study.teacher.training.steps) == (100, 200)
    assert study.teacher.training.batch_size == 2


def test_a_cache_that_is_off_may_be_written_so(tmp_path):
    path = tmp_path / "off.yaml"
    path.write_text("name: one\ndistillation: {cache: off}\n")
    assert load_study(path) == parse_study({"name": "one"})


def test_bytes_that_are_no_text_are_answered(tmp_path):
    path = tmp_path / "scan.nii.gz"
    path.write_bytes(b"\x1f\x8b\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"scan.nii.gz' is not valid YAML"):
        load_study(path)


def test_a_missing_file_and_a_folder_are_answered(tmp_path):
    with pytest.raises(ConfigError, match=r"Cannot read .*absent.yaml': No such file"):
        load_study(tmp_path / "absent.yaml")
    with pytest.raises(ConfigError, match="Cannot read the study file"):
        load_study(tmp_path)


def test_every_mistake_is_named_at_once():
    content = {
        "name": "one",
        "sedes": [1],
        "training": {"steps": -1, "batchsize": 3},
        "students": [{"name": "compact", "widht": 2}],
        "distillation": {
            "features": {"B": {"los": "mse"}},
            "maps": [{"loss": "kl", "temprature": 2}],
        },
    }
    with pytest.raises(ConfigError) as caught:
        parse_study(content, source="s.yaml")
    first, *lines = str(caught.value).splitlines()
    assert first == "6 problems in s.yaml:"
    found = {line.split(":")[0].strip(): line for line in lines}
    nearest = {
        "sedes": "'seeds'",
        "training.batchsize": "'batch_size'",
        "students.0.widht": "'width'",
        "distillation.features.B.los": "'loss'",
        "distillation.maps.0.temprature": "'temperature'",
    }
    for place, name in nearest.items():
        assert f"Did you mean {name}?" in found[place]
    assert "greater than 0 (got -1)" in found["training.steps"]


def test_one_mistake_is_one_problem():
    with pytest.raises(ConfigError, match=r"^1 problem in the study:\n  name: Field required$"):
        parse_study({})


def test_a_rule_of_the_whole_study_is_told_once():
    with pytest.raises(ConfigError, match=r"\n  seeds has a number twice: \[1, 1\]") as caught:
        parse_study({"name": "one", "seeds": [1, 1]})
    assert "Value error" not in str(caught.value)
