"""Whether the test patients are enough to show anything, told before training."""

from __future__ import annotations

import json
import logging

import pytest
from fake_run import FakeRun

from medstill import pipeline
from medstill.evaluation.reach import beyond_reach, comparisons_of, fewest_patients
from medstill.evaluation.statistics import holm, paired_comparison, verdict
from medstill.refs import student_arms


@pytest.mark.parametrize("comparisons", [1, 6, 12, 20])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_one_patient_less_and_no_gain_is_ever_shown(comparisons, confidence):
    fewest = fewest_patients(comparisons, confidence)

    def shown(patients):
        gains = {f"p{i}": 0.9 + 0.001 * i for i in range(patients)}
        found = paired_comparison(
            gains, dict.fromkeys(gains, 0.5), confidence=confidence, resamples=999, seed=0
        )
        adjusted = holm([found.p_value, *[1.0] * (comparisons - 1)])[0]
        return verdict(found.difference, adjusted, higher_is_better=True)

    assert shown(fewest) == "better"
    assert fewest < 2 or shown(fewest - 1) == "no difference shown"
    assert beyond_reach(fewest, comparisons, confidence) == ""
    assert f"need {fewest}." in beyond_reach(fewest - 1, comparisons, confidence)


@pytest.mark.parametrize("students", [("compact",), ("compact", "unet-s1")])
@pytest.mark.parametrize("references", [(), ("all-labels", "pseudo-labels")])
@pytest.mark.parametrize("label_fraction", [0.5, 1.0])
def test_the_comparisons_are_those_of_the_page(tmp_path, students, references, label_fraction):
    """With all labels the control is the reference `all-labels`, which is not trained again."""
    run = FakeRun(
        tmp_path, students=students, references=references, label_fraction=label_fraction
    ).build()
    summary = json.loads((tmp_path / "comparison.json").read_text())
    assert comparisons_of(len(students), student_arms(run.study)) == summary["comparisons"] > 0


@pytest.mark.parametrize(("test", "said"), [(1, True), (9, False)])
def test_it_is_said_by_the_check(tiny, tiny_with, caplog, test, said, monkeypatch):
    study = tiny_with()
    split = pipeline.check_division(
        pipeline.find_dataset(tiny.data), study.split, study.label_fraction
    )
    cases = [f"case{i}" for i in range(test)]
    known = {**split.patients, **{case: case for case in cases}}
    many = split.model_copy(update={"test": tuple(cases), "patients": known})
    monkeypatch.setattr(pipeline, "check_division", lambda *_: many)
    with caplog.at_level(logging.WARNING):
        pipeline.check(study, tiny.data)
    assert ("nothing can be shown" in caplog.text) == said
