# long: every rule for empty masks, by hand
"""Scores of cases, patients and folders; the rules for empty masks; what makes up a summary."""

import numpy as np
import pytest
import SimpleITK as sitk

from medstill import evaluation
from medstill.config import EvaluationConfig
from medstill.errors import DataError, GeometryError, LabelError, RunError, UnknownNameError
from medstill.evaluation.arms import FILTERED
from medstill.evaluation.comparison import Entry, load_summary, save_summary, summarise
from medstill.evaluation.folders import score_folders
from medstill.evaluation.scores import (
    METRICS,
    CaseScore,
    ClassScore,
    ModelScores,
    load_scores,
    save_scores,
    score_case,
)
from medstill.volumes.components import largest_components

SHAPE = (7, 11, 13)
SPACING = (3.0, 2.0, 1.0)
DIAGONAL = float(np.hypot(np.hypot(21, 22), 13))
QUICK = EvaluationConfig(resamples=299)


def volume(*boxes, shape=SHAPE):
    """A label volume of boxes `(value, z, y, x)`, each 2 x 3 x 4 voxels from its corner on."""
    label = np.zeros(shape, np.uint8)
    for value, z, y, x in boxes:
        label[z : z + 2, y : y + 3, x : x + 4] = value
    return label


def score(truth, prediction, classes=("liver", "spleen"), case="c1", patient="p1"):
    return score_case(truth, prediction, SPACING, classes, case=case, patient=patient)


def class_score(name, dice, state="scored"):
    values = dict.fromkeys(METRICS, dice)
    if dice is not None:
        values |= {"hd95_mm": 100 * (1 - dice), "assd_mm": 50 * (1 - dice)}
    return ClassScore(class_name=name, state=state, truth_ml=1.0, predicted_ml=1.0, **values)


def model(rows, name="m", tolerance=2.0):
    """`rows`: (case, patient, Dice per class); None is a class that is empty in both."""
    cases = tuple(
        CaseScore(
            case=case,
            patient=patient,
            classes=tuple(
                class_score(f"class{i}", dice, "empty" if dice is None else "scored")
                for i, dice in enumerate(dices)
            ),
        )
        for case, patient, dices in rows
    )
    return ModelScores(model=name, cases=cases, nsd_tolerance_mm=tolerance)


def test_a_class_that_is_found_has_every_metric():
    truth = volume((1, 1, 2, 3), (2, 4, 6, 7))
    liver, spleen = score(truth, volume((1, 1, 2, 5), (2, 4, 6, 7))).classes
    assert (liver.class_name, liver.state) == ("liver", "scored")
    assert (liver.dice, liver.iou, liver.recall, liver.precision) == (0.5, 1 / 3, 0.5, 0.5)
    assert liver.hd95_mm == 2
    assert liver.truth_ml == liver.predicted_ml == pytest.approx(24 * 6 / 1000)
    assert [getattr(spleen, m) for m in METRICS] == [1, 1, 1, 1, 0, 0, 1]


def test_a_missed_class_is_scored_by_the_rule_and_named():
    liver, _ = score(volume((1, 1, 2, 3)), volume()).classes
    assert liver.state == "missed"
    assert [liver.dice, liver.iou, liver.recall, liver.precision, liver.nsd] == [0] * 5
    assert liver.hd95_mm == liver.assd_mm == pytest.approx(DIAGONAL)
    assert (liver.truth_ml, liver.predicted_ml) == (pytest.approx(0.144), 0)


def test_an_invented_class_is_scored_by_the_rule_and_named():
    liver, _ = score(volume(), volume((1, 1, 2, 3))).classes
    assert liver.state == "invented"
    assert [liver.dice, liver.iou, liver.recall, liver.precision, liver.nsd] == [0] * 5
    assert liver.hd95_mm == liver.assd_mm == pytest.approx(DIAGONAL)


def test_a_class_in_neither_mask_is_not_scored():
    _, spleen = score(volume((1, 1, 2, 3)), volume((1, 1, 2, 3))).classes
    assert spleen.state == "empty"
    assert [getattr(spleen, m) for m in METRICS] == [None] * len(METRICS)


def test_a_class_that_is_only_predicted_where_the_truth_is_ignored_is_empty():
    truth = volume((255, 1, 2, 3))
    assert score(truth, volume((1, 1, 2, 3))).classes[0].state == "empty"


def test_surfaces_know_no_ignored_voxels_either():
    truth = volume((1, 1, 2, 3), (255, 1, 2, 5))
    exact = volume((1, 1, 2, 3))
    liver = score(truth, exact).classes[0]
    assert (liver.dice, liver.hd95_mm, liver.nsd) == (1, 0, 1)


def test_a_patient_is_the_mean_of_its_cases_and_classes():
    scores = model([("a1", "a", (0.2, 0.6)), ("a2", "a", (0.4, None)), ("b1", "b", (0.9, 0.7))])
    assert scores.per_patient("class0", "dice") == {"a": pytest.approx(0.3), "b": 0.9}
    assert scores.per_patient("class1", "dice") == {"a": 0.6, "b": 0.7}
    assert scores.per_patient_mean("dice") == {"a": pytest.approx(0.45), "b": pytest.approx(0.8)}
    assert scores.summary("dice") == pytest.approx(0.625)
    assert (scores.count("empty"), scores.count("scored", "class1")) == (1, 2)


def test_a_missed_structure_worsens_the_mean_distance():
    """A miss must not drop out of the mean, which would reward finding less."""
    truth = volume((1, 1, 2, 3))
    found = score(truth, volume((1, 1, 2, 5)), case="c1", patient="p1")
    missed = score(truth, volume(), case="c2", patient="p2")
    both = ModelScores(model="m", cases=(found, missed), nsd_tolerance_mm=2.0)
    assert both.summary("hd95_mm") == pytest.approx((2 + DIAGONAL) / 2)


def test_nothing_scored_has_no_summary():
    assert model([("a", "a", (None,))]).summary("dice") is None


def test_wrong_names_are_answered():
    scores = model([("a", "a", (0.5,))])
    with pytest.raises(UnknownNameError, match=r"No metric is called 'dise'\. Did you mean 'dice'"):
        scores.summary("dise")
    with pytest.raises(UnknownNameError, match=r"No class is called 'class1'.*class0"):
        scores.per_patient("class1", "dice")


def test_scores_survive_the_disk(tmp_path):
    cases = (score(volume((1, 1, 2, 3)), volume((2, 1, 2, 3))),)
    scores = ModelScores(model="m", cases=cases, nsd_tolerance_mm=2.0)
    save_scores(scores, tmp_path / "scores.json")
    assert load_scores(tmp_path / "scores.json") == scores


def test_a_file_that_holds_no_scores_is_refused(tmp_path):
    (tmp_path / "scores.json").write_text('{"cases": 3}')
    with pytest.raises(RunError, match="does not hold the scores of a model"):
        load_scores(tmp_path / "scores.json")


def test_largest_components_keeps_one_of_each_class():
    label = volume((1, 0, 0, 0), (2, 4, 6, 8))
    scraps = label.copy()
    scraps[6, 0, 0] = 1
    scraps[0, 10, 12] = 2
    np.testing.assert_array_equal(largest_components(scraps), label)


def test_voxels_that_share_a_corner_are_one_component():
    label = np.zeros(SHAPE, np.uint8)
    label[0, 0, 0] = label[1, 1, 1] = 1
    np.testing.assert_array_equal(largest_components(label), label)


def write(folder, name, label, spacing=SPACING):
    folder.mkdir(exist_ok=True)
    image = sitk.GetImageFromArray(label)
    image.SetSpacing(spacing[::-1])
    sitk.WriteImage(image, str(folder / name))


@pytest.fixture
def folders(tmp_path):
    """Two cases; the second one's prediction is of another format and lies first on disk."""
    truth, prediction = tmp_path / "truth", tmp_path / "prediction"
    write(prediction, "two.mha", volume((3, 1, 2, 3)))
    write(prediction, "one.nii.gz", volume((3, 1, 2, 5)))
    write(truth, "one.nii.gz", volume((3, 1, 2, 3)))
    write(truth, "two.nii.gz", volume((3, 1, 2, 3), (7, 4, 6, 7)))
    return prediction, truth


def test_folders_are_paired_by_name_and_every_value_is_scored(folders):
    scores = score_folders(*folders)
    assert [case.case for case in scores.cases] == ["one", "two"]
    assert scores.class_names == ("3", "7")
    assert scores.per_patient("3", "dice") == {"one": 0.5, "two": 1}
    assert scores.per_patient("3", "hd95_mm") == {"one": 2, "two": 0}
    assert [case.classes[1].state for case in scores.cases] == ["empty", "missed"]


def test_labels_name_the_classes_and_the_ignored_voxels(folders):
    labels = {"background": 0, "liver": 3, "ignore": 7}
    scores = score_folders(*folders, labels, workers=2)
    assert scores.class_names == ("liver",)
    assert scores.summary("dice") == 0.75


def test_255_is_ignored_beside_other_classes_and_a_class_on_its_own(tmp_path):
    write(tmp_path / "p", "a.nii.gz", volume((1, 1, 2, 3)))
    write(tmp_path / "t", "a.nii.gz", volume((1, 1, 2, 3), (255, 4, 6, 7)))
    assert score_folders(tmp_path / "p", tmp_path / "t").class_names == ("1",)
    for folder in ("p", "t"):
        write(tmp_path / folder, "a.nii.gz", volume((255, 1, 2, 3)))
    found = score_folders(tmp_path / "p", tmp_path / "t")
    assert (found.class_names, found.summary("dice")) == (("255",), 1)


def test_two_files_and_flat_pictures_are_scored_as_well(tmp_path):
    flat = volume((1, 0, 2, 3), shape=(1, 11, 13))[0]
    for name in ("a.png", "b.png"):
        sitk.WriteImage(sitk.GetImageFromArray(flat), str(tmp_path / name))
    scores = score_folders(tmp_path / "a.png", tmp_path / "b.png")
    assert scores.summary("nsd") == 1
    assert scores.cases[0].case == "b"


def test_a_missing_prediction_is_named(folders):
    prediction, truth = folders
    (prediction / "two.mha").unlink()
    with pytest.raises(DataError, match=r"lacks a prediction for 1 of the 2 masks.*: two"):
        score_folders(prediction, truth)


def test_a_prediction_without_truth_is_logged(folders, caplog):
    prediction, truth = folders
    write(prediction, "three.nii.gz", volume())
    assert len(score_folders(prediction, truth).cases) == 2
    assert "has no truth for: three" in caplog.text


def test_two_files_of_one_name_are_refused(folders):
    prediction, truth = folders
    write(prediction, "one.mha", volume())
    with pytest.raises(DataError, match=r"two masks named 'one': one\.mha and one\.nii\.gz"):
        score_folders(prediction, truth)


def test_a_prediction_of_another_geometry_is_refused(folders):
    prediction, truth = folders
    write(prediction, "one.nii.gz", volume(), spacing=(3.0, 2.0, 1.5))
    with pytest.raises(GeometryError, match=r"one\.nii\.gz' lies elsewhere than"):
        score_folders(prediction, truth)


def test_an_undeclared_value_is_refused(folders):
    with pytest.raises(LabelError, match=r"two.nii.gz' holds the values \[7\].*'liver': 3"):
        score_folders(*folders, {"liver": 3})


@pytest.mark.parametrize("labels", [{"background": 0}, {"a": 1, "b": 1}, {"a": 0, "b": 1}])
def test_labels_that_cannot_be_scored_are_refused(folders, labels):
    with pytest.raises(LabelError, match="cannot be scored: expected at least one class"):
        score_folders(*folders, labels)


def test_folders_without_masks_or_without_any_class_are_refused(tmp_path):
    for name in ("empty", "blank"):
        (tmp_path / name).mkdir()
    write(tmp_path / "blank", "a.nii.gz", volume())
    with pytest.raises(DataError, match="holds no masks"):
        score_folders(tmp_path / "blank", tmp_path / "empty")
    with pytest.raises(LabelError, match="All masks are empty"):
        score_folders(tmp_path / "blank", tmp_path / "blank")
    with pytest.raises(DataError, match="is not a folder"):
        score_folders(tmp_path / "nowhere", tmp_path / "blank")


def study(gain=0.2, n=8):
    """Teacher, control and distilled student of two seeds on n patients of two classes."""
    rng = np.random.default_rng(0)
    base = rng.uniform(0.3, 0.6, (n, 2))

    def entry(arm, seed, offset, student="compact", collapsed=()):
        rows = [(f"c{i}", f"p{i}", tuple(base[i] + offset)) for i in range(n)]
        return Entry(
            student=student, arm=arm, seed=seed, scores=model(rows, arm), collapsed=collapsed
        )

    return base, [
        entry("teacher", 0, 0.3, student="unet-t1"),
        entry("control", 0, 0.0, collapsed=("class1",)),
        entry("control", 1, 0.1),
        entry("control+largest-component", 0, 0.0),
        entry("control+largest-component", 1, 0.1),
        entry("distilled", 0, gain + 0.01),
        entry("distilled", 1, gain + 0.09),
        entry("distilled+largest-component", 0, gain + 0.01),
        entry("distilled+largest-component", 1, gain + 0.09),
    ]


def test_a_summary_averages_seeds_then_classes_then_patients():
    base, entries = study()
    summary = summarise(entries, QUICK)
    models = {(m.student, m.arm): m for m in summary.models}
    control = models["compact", "control"]
    assert control.intervals["dice"].mean == pytest.approx(base.mean() + 0.05)
    assert control.mean_by_seed["dice"] == (
        pytest.approx(base.mean()),
        pytest.approx(base.mean() + 0.1),
    )
    assert control.patients["dice"]["p3"] == pytest.approx(base[3].mean() + 0.05)
    assert control.intervals["dice"].n == control.n_patients == 8
    assert (control.seeds, control.classes[1].collapsed_seeds) == ((0, 1), (0,))
    assert control.classes[0].intervals["dice"].mean == pytest.approx(base[:, 0].mean() + 0.05)
    assert control.counts == {"scored": 32, "missed": 0, "invented": 0, "empty": 0}
    assert models["unet-t1", "teacher"].seeds == (0,)


def test_a_summary_survives_the_disk_and_another_file_is_refused(tmp_path):
    summary = summarise(study()[1], QUICK)
    save_summary(summary, tmp_path / "comparison.json")
    assert load_summary(tmp_path / "comparison.json") == summary
    (tmp_path / "comparison.json").write_text("[]")
    with pytest.raises(RunError, match="does not hold the comparison of a study"):
        load_summary(tmp_path / "comparison.json")


def test_every_public_name_is_there():
    for name in evaluation.__all__:
        assert getattr(evaluation, name) is not None


def test_a_gain_of_every_patient_is_shown_after_holm():
    _, entries = study(gain=0.2)
    summary = summarise(entries, QUICK)
    assert summary.comparisons == len(summary.gains) == 6
    found = {(g.control, g.metric): g for g in summary.gains if g.arm == "distilled"}
    dice, hd95 = found["control", "dice"], found["control", "hd95_mm"]
    assert dice.comparison.difference.mean == pytest.approx(0.2)
    assert hd95.comparison.difference.mean == pytest.approx(-20)
    assert (dice.comparison.higher, hd95.comparison.lower) == (8, 8)
    assert (dice.verdict, hd95.verdict) == ("better", "better")
    assert dice.p_holm == pytest.approx(6 * dice.comparison.p_value)


def test_filtered_students_are_compared_with_filtered_controls_alone():
    entries = [e for e in study(gain=0.2)[1] if e.arm != "distilled+largest-component"]
    better = [e.model_copy(update={"arm": FILTERED["distilled"]}) for e in study(gain=0.3)[1][5:7]]
    gains = [g for g in summarise([*entries, *better], QUICK).gains if g.arm != "distilled"]
    assert [(g.arm, g.control, g.metric) for g in gains] == [
        (FILTERED["distilled"], FILTERED["control"], "dice"),
        (FILTERED["distilled"], FILTERED["control"], "hd95_mm"),
    ]
    assert gains[0].comparison.difference.mean == pytest.approx(0.3)


def test_references_are_compared_with_the_distilled_student_too():
    _, entries = study(gain=0.2)
    for arm in ("all-labels", "pseudo-labels"):
        entries += [e.model_copy(update={"arm": arm}) for e in entries[5:7]]
    summary = summarise(entries, QUICK)
    assert summary.comparisons == 10
    gains = {(g.control, g.metric): g for g in summary.gains if g.arm == "distilled"}
    assert len(gains) == 8
    for arm in ("all-labels", "pseudo-labels"):
        assert gains[arm, "dice"].comparison.difference.mean == 0
        assert gains[arm, "dice"].verdict == "no difference shown"
    assert gains["control", "dice"].p_holm == pytest.approx(
        10 * gains["control", "dice"].comparison.p_value
    )


@pytest.mark.parametrize(("gain", "expected"), [(0.0, "no difference shown"), (-0.2, "worse")])
def test_a_result_that_does_not_hold_is_reported_as_such(gain, expected):
    _, entries = study(gain)
    assert {g.verdict for g in summarise(entries, QUICK).gains} == {expected}


def test_a_patient_that_one_side_does_not_score_is_named():
    rows = [("c1", "p1", (0.5,)), ("c2", "p2", (0.6,)), ("c3", "p3", (None,))]
    invented = [*rows[:2], ("c3", "p3", (0.0,))]
    entries = [
        Entry(student="s", arm="control", seed=0, scores=model(rows)),
        Entry(student="s", arm="distilled", seed=0, scores=model(invented)),
    ]
    gain = summarise(entries, QUICK).gains[0]
    assert (gain.unpaired, gain.comparison.n) == (("p3",), 2)


def test_models_that_cannot_be_compared_are_refused():
    _, entries = study()
    fewer = entries[1].model_copy(update={"scores": study(n=7)[1][1].scores, "seed": 5})
    with pytest.raises(DataError, match=r"not scored on the same cases.*c7"):
        summarise([*entries, fewer], QUICK)
    with pytest.raises(DataError, match="seed 0 twice"):
        summarise([entries[0], entries[0]], QUICK)
    with pytest.raises(DataError, match=r"seeds \[0, 1\], but control has \[0\]"):
        summarise([entries[1], *entries[5:]], QUICK)
    with pytest.raises(DataError, match="no model to summarise"):
        summarise([], QUICK)
    other = model([("a", "a", (0.5,))], tolerance=1.0)
    same = model([("a", "a", (0.5,))])
    with pytest.raises(DataError, match=r"different NSD tolerances: \[1.0, 2.0\] mm"):
        summarise(
            [
                Entry(student="s", arm="control", seed=0, scores=other),
                Entry(student="s", arm="control", seed=1, scores=same),
            ],
            QUICK,
        )
    with pytest.raises(DataError, match=r"classes \['class0'\], but"):
        summarise(
            [
                Entry(student="s", arm="control", seed=0, scores=same),
                Entry(student="s", arm="control", seed=1, scores=model([("a", "a", (0.5, 0.5))])),
            ],
            QUICK,
        )
