"""What is found and estimated before any work."""

import pytest

from medstill import pipeline
from medstill.config import Study
from medstill.errors import ConfigError


def test_the_estimate_times_every_kind_of_training(tiny, tiny_with):
    found = pipeline.estimate(tiny.study, tiny.data)
    assert set(found.step_s) == {"teacher", "unet-s1 control", "unet-s1 distilled"}
    expected = 4 * sum(found.step_s.values())
    assert found.training_s == pytest.approx(expected)
    assert found.memory_mb > 50
    assert found.workers == 1


def test_the_estimate_counts_unlabelled_images(tiny, tiny_with, monkeypatch):
    from medstill.training.tasks import StudentTask, TeacherTask

    sizes = {}
    for kind in (StudentTask, TeacherTask):
        really = kind.compute

        def compute(self, image_BC, label_B, step, said=None, *, really=really, **more):
            teacher = getattr(self, "_teacher", None)
            name = type(self).__name__ + ("" if teacher is None else " distilled")
            sizes.setdefault(name, set()).add(len(image_BC))
            return really(self, image_BC, label_B, step, said, **more)

        monkeypatch.setattr(kind, "compute", compute)
    study = tiny_with(distillation={"unlabelled_batch": 3}, references=["pseudo-labels"])
    found = pipeline.estimate(study, tiny.data)
    assert sizes == {"TeacherTask": {4}, "StudentTask": {4}, "StudentTask distilled": {7}}
    assert found.training_s == pytest.approx(4 * sum(found.step_s.values()))
    assert "unet-s1 pseudo-labels" in found.step_s


def test_seeds_and_students_multiply_the_estimate(tiny, tiny_with, monkeypatch):
    from medstill.training import costs

    monkeypatch.setattr(costs, "_step_s", lambda *_: 1.0)
    study = tiny_with(seeds=[0, 1, 2], training={"steps": 5}, teacher={"training": {"steps": 7}})
    assert pipeline.estimate(study, tiny.data).training_s == 7 + 3 * 2 * 5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": {"patch_size": [50, 48]}}, r"patch_size is \[50, 48\].*multiples of 16"),
        (
            {"data": {"patch_size": [50, 40]}, "students": [{"name": "compact"}]},
            r"'unet-t1' needs multiples of 16\. Use \[64, 32\], which suits every network",
        ),
        ({"students": [{"name": "unet-s3"}]}, "No network is called 'unet-s3'"),
        ({"distillation": {"maps": [{"loss": "kll"}]}}, r"No output-map loss .* 'kll'.*'kl'"),
        ({"distillation": {"features": {"B": {"loss": "sup"}}}}, r"No feature loss .* 'sup'"),
        (
            {"distillation": {"features": {"B": {"student_layer": "encoder.bottle"}}}},
            r"No layer is called 'encoder\.bottle'\. Did you mean 'encoder\.bottleneck'",
        ),
    ],
)
def test_a_check_finds_what_is_wrong_before_any_work(tiny, tiny_with, tmp_path, changes, message):
    study = tiny_with(**changes)
    with pytest.raises(ConfigError, match=message):
        pipeline.run(study, tiny.data, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_study_of_the_defaults_passes_the_check(tiny):
    pipeline.check(Study(name="plain"), tiny.data)
