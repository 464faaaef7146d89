"""Several teachers, each without one part of the training patients."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from judge import Judge
from pydantic import ValidationError

from medstill import handover, pipeline, stages, training
from medstill.config import Study, deciding
from medstill.errors import SplitError
from medstill.networks import Ensemble, mean_logits, run
from medstill.refs import TEACHER, ModelRef
from medstill.training import assembly, folds, teaching
from medstill.training.cache import CaseName
from medstill.training.cachefill import filled_cache
from medstill.volumes.splits import out_of_fold
from medstill.volumes.store import PreparedSet

DISTILLED = ModelRef("distilled", "unet-s1", 0)
PLAIN = {
    "affine_probability": 0,
    "gamma_probability": 0,
    "noise_probability": 0,
    "blur_probability": 0,
}
RECIPE = {"steps": 2, "validate_every": 1, "augmentation": PLAIN}

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def study_with(tiny):
    def build(number=2, **changes):
        content = tiny.study.model_dump(mode="json")
        content["teacher"]["training"].update(RECIPE)
        content["teacher"]["folds"] = number
        content["training"].update({**RECIPE, "views": 1})
        content["distillation"].update(features={}, cache="float32", unlabelled_batch=2)
        for key, value in changes.items():
            content[key].update(value)
        return Study.model_validate(content)

    return build


@pytest.fixture
def material(tiny, study_with):
    """Three training patients, and one test patient who plays one without labels."""
    made = tiny.material(study_with(), validate=Judge(0.5))
    first, *others = made.split.test
    split = made.split.model_copy(update={"test": tuple(others), "unlabelled": (first,)})
    return replace(made, split=split)


@pytest.fixture
def marked(monkeypatch, material):
    """Every image holds one number, 10 and more, that tells its case."""
    split = material.split
    marks = {case: 10.0 + n for n, case in enumerate((*split.train, *split.unlabelled))}
    real = PreparedSet.open

    def opened(self, name):
        case = real(self, name)
        image = np.full(case.image_CZYX.shape, marks.get(name, 0.0), dtype=np.float32)
        return replace(case, image_CZYX=image)

    monkeypatch.setattr(PreparedSet, "open", opened)
    return {mark: case for case, mark in marks.items()}


def listen(network, marked, seen):
    """Note the cases whose images a network is shown."""

    def note(_module, arguments):
        values = {round(value, 3) for value in arguments[0].unique().tolist()}
        seen.update(marked[value] for value in values if value in marked)

    return network.encoder.register_forward_pre_hook(note)


@pytest.mark.parametrize("pretraining", [0, 2])
def test_no_case_is_answered_by_a_teacher_that_was_shown_it(
    study_with, material, marked, tmp_path, monkeypatch, pretraining
):
    trained, answered, real = {}, {}, teaching.fit
    study = study_with(
        teacher={
            **study_with().teacher.model_dump(mode="json"),
            "pretraining": {"steps": pretraining, "mask_ratio": 0.0},
        }
    )
    material = replace(material, study=study)

    def fit(task, plan):
        handle = listen(task.network, marked, trained.setdefault(plan.name, set()))
        result = real(task, plan)
        handle.remove()
        return result

    monkeypatch.setattr(teaching, "fit", fit)
    folds.train_teachers(material, tmp_path / "teacher", {})
    teacher = assembly.load_teacher(study, material.preparation, tmp_path / "teacher")
    for number, member in enumerate(teacher.members):
        listen(member, marked, answered.setdefault(number, set()))
    source = assembly.student_source(material, DISTILLED)
    who = out_of_fold(material.split, 2, study.split.seed)
    student = assembly.student_config(study, DISTILLED)
    filled_cache(study, student, teacher, source, tmp_path / "cache", who)

    split = material.split
    assert set().union(*answered.values()) == {*split.train, *split.unlabelled}
    for number, cases in answered.items():
        shown = {case for name in trained if f"fold-{number}" in name for case in trained[name]}
        assert shown
        assert shown & cases & set(split.train) == set()
        assert set(split.unlabelled) <= cases
    by_label = {case for name, cases in trained.items() if "pre" not in name for case in cases}
    assert by_label == set(split.train)


def test_what_is_kept_is_the_mean_of_those_that_may_answer(study_with, material, tmp_path):
    study = study_with()
    members = [
        training.build_teacher(study.model_copy(update={"seeds": (seed,)}), material.preparation)
        for seed in (1, 2)
    ]
    teacher = Ensemble(members).eval()
    source = assembly.student_source(material, DISTILLED)
    who = out_of_fold(material.split, 2, study.split.seed)
    student = assembly.student_config(study, DISTILLED)
    cache = filled_cache(study, student, teacher, source, tmp_path, who)
    other = filled_cache(study, student, teacher, source, tmp_path)
    assert cache.root != other.root
    for case, numbers in who.items():
        image, _, said = cache.row(CaseName(case, case not in source.labelled), 3)
        with torch.no_grad():
            expected = mean_logits([run(members[n], image[None]).logits for n in numbers])
        found = said["logits"].movedim(-1, 0)
        assert torch.allclose(found, expected[0], atol=1e-4)


class PowerCutError(Exception):
    """Ends a training between two validations."""


def members_of(material, folder):
    teacher = assembly.load_teacher(material.study, material.preparation, folder)
    return [training.weights_hash(member) for member in teacher.members]


def test_taken_up_again_it_ends_in_the_same_teachers(material, tmp_path):
    scores = [0.1, 0.2, 0.1, 0.2, 0.5]
    expected = folds.train_teachers(
        replace(material, validate=Judge(*scores)), tmp_path / "whole", {}
    )
    calls = []

    def cut(_network):
        calls.append(1)
        if len(calls) > 3:
            raise PowerCutError
        return {"liver": scores[len(calls) - 1]}

    folder = tmp_path / "cut"
    with pytest.raises(PowerCutError):
        folds.train_teachers(replace(material, validate=cut), folder, {})
    judge = Judge(*scores[3:])
    found = folds.train_teachers(replace(material, validate=judge), folder, {})
    assert len(judge.shown) == 2, "the last step of the second teacher, and all together"
    assert members_of(material, folder) == members_of(material, tmp_path / "whole")
    assert found.best == expected.best
    assert found.best.dice == 0.5
    first, second = members_of(material, folder)
    assert first != second


def test_the_history_is_the_mean_and_the_rate_that_of_a_step_of_all():
    def entry(dice, rate, **by_class):
        return {
            "step": 4,
            "dice": dice,
            "dice_by_class": by_class,
            "losses": {"train/total": 2 * dice},
            "gradients": {},
            "data_wait_share": 0.5,
            "steps_per_s": rate,
            "dead": [],
        }

    (found,) = folds.mean_history([[entry(0.2, 6.0, a=0.02)], [entry(0.4, 3.0, a=0.04, b=0.9)]])
    assert found["dice"] == pytest.approx(0.3)
    assert found["dice_by_class"] == pytest.approx({"a": 0.03, "b": 0.9})
    assert found["dead"] == ["a"]
    assert found["losses"] == pytest.approx({"train/total": 0.6})
    assert found["steps_per_s"] == pytest.approx(2.0)


@pytest.fixture(scope="module")
def finished(tiny, study_with, tmp_path_factory):
    study, out = study_with(3), tmp_path_factory.mktemp("folds") / "run"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    pipeline.run(study, tiny.data, out)
    torch.set_num_threads(threads)
    return out


def test_a_run_scores_the_ensemble_and_says_so(finished):
    opened = stages.open_prepared(finished)
    teacher, single = (
        stages.load_network(opened, TEACHER),
        training.build_teacher(opened.study, opened.prepared.preparation),
    )
    assert isinstance(teacher, Ensemble)
    assert len(teacher.members) == 3
    result = stages.training_result(opened, TEACHER)
    assert result["weights"] == training.weights_hash(teacher)
    assert result["facts"]["name"] == "3 x unet-t1"
    assert result["facts"]["parameters"] == 3 * sum(p.numel() for p in single.parameters())
    validated = stages.validation_dice(
        teacher, prepared=opened.prepared, cases=opened.split.validation
    )
    assert result["best_dice"] == pytest.approx(sum(validated.values()) / len(validated))
    page = (finished / "report.html").read_text(encoding="utf-8")
    assert "conditional on one ensemble of 3 teachers" in page
    card = (finished / "models" / "unet-s1.model-card.md").read_text(encoding="utf-8")
    assert "* One ensemble of 3 teachers, one division" in card
    assert "trained 3 times, each time without one part" in card


def test_the_ensemble_is_exported_as_one_file_that_agrees(finished, tmp_path):
    report = pipeline.export(finished, tmp_path / "teacher.onnx", student="teacher")
    assert report.verification.label_agreement > 0.9999
    opened = stages.open_prepared(finished)
    images = handover.inputs_of(opened, opened.split.validation)
    exported = pipeline.deploy.load_model(tmp_path / "teacher.onnx")
    expected = handover.model_of_run(opened, TEACHER)(images[0])
    assert np.allclose(exported(images[0]), expected, atol=1e-3)


def test_the_parts_decide_the_teacher_and_its_students_but_no_control(study_with, material):
    split = material.split

    def keys(study):
        refs = [DISTILLED, ModelRef("control", "unet-s1", 0)]
        return [
            training.teacher_key(study, "p", split),
            *(training.student_key(study, ref, "p", split) for ref in refs),
        ]

    two, three = keys(study_with(2)), keys(study_with(3))
    assert [one == other for one, other in zip(two, three, strict=True)] == [False, False, True]
    others = [keys(study_with(2, split={"seed": seed}))[0]["parts"] for seed in range(6)]
    assert len(set(others)) > 1


def test_without_folds_nothing_is_hashed_otherwise(study_with, material):
    study = study_with(0)
    assert "folds" not in deciding(study)["teacher"]
    key = training.teacher_key(study, "p", material.split)
    assert set(key) == {"stage", "teacher", "seed", "prepared", "cases"}


@pytest.mark.parametrize(
    ("number", "distillation", "message"),
    [
        (1, {}, r"teacher\.folds is 1: expected 0 for one teacher, or at least 2"),
        (2, {"cache": "off"}, r"folds is 2, but distillation\.cache is off.*set training\.views"),
        (
            2,
            {"features": {"E": {"weight": 0.1}, "B": {"weight": 0.0}}},
            r"folds is 2, but distillation\.features has the terms E: .*no mean; set",
        ),
    ],
)
def test_what_cannot_be_is_refused_with_the_way_out(study_with, number, distillation, message):
    with pytest.raises(ValidationError, match=message):
        study_with(number, distillation=distillation)


def test_more_teachers_than_patients_are_refused_before_any_work(tiny, study_with):
    with pytest.raises(SplitError, match=r"folds is 4: expected at least as many .* found 3\. Ask"):
        pipeline.check(study_with(4), tiny.data)
