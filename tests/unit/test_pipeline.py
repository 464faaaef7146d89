"""The page, from volumes to the report, on a phantom of six patients."""

import json
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk

import medstill
from medstill import deploy, handover, pipeline, scoring, stages, training
from medstill.errors import RunError, SplitError, UnknownNameError
from medstill.refs import TEACHER, ModelRef, student_refs
from medstill.studyfile import parse_study
from medstill.volumes.io import read_image, read_label

COMPACT = {
    "students": [{"name": "compact"}],
    "data": {"patch_size": [64, 64]},
    "references": ["all-labels", "pseudo-labels"],
    "distillation": {"unlabelled_batch": 1},
}
VOLUME = {
    "name": "tiny-volume",
    "data": {"spatial_dims": 3, "patch_size": [16, 32, 32]},
    "training": {"batch_size": 2, "steps": 2},
    "teacher": {"training": {"batch_size": 2, "steps": 2}},
}


def run_study(study, data, out):
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    page = pipeline.run(study, data, out)
    torch.set_num_threads(threads)
    return SimpleNamespace(study=study, data=data, out=out, page=page)


@pytest.fixture(scope="module")
def flat(phantom, tiny_with, tmp_path_factory):
    return run_study(tiny_with(**COMPACT), phantom, tmp_path_factory.mktemp("flat") / "run")


@pytest.fixture(scope="module")
def solid(phantom, tiny_with, tmp_path_factory):
    return run_study(tiny_with(**VOLUME), phantom, tmp_path_factory.mktemp("solid") / "run")


@pytest.fixture(params=["flat", "solid"])
def finished(request):
    return request.getfixturevalue(request.param)


def test_a_run_leaves_scores_a_comparison_models_and_a_page(finished):
    assert finished.page == finished.out / "report.html"
    assert "<html" in finished.page.read_text(encoding="utf-8")
    student = finished.study.students[0].name
    assert (finished.out / "models" / f"{student}.onnx").exists()
    summary, facts = scoring.results(finished.out)
    assert {(model.student, model.arm) for model in summary.models} == {
        ("unet-t1", "teacher"),
        (student, "control"),
        (student, "control+largest-component"),
        (student, "distilled"),
        (student, "distilled+largest-component"),
        *((student, arm) for arm in finished.study.references),
    }
    assert {gain.student for gain in summary.gains} == {student}
    assert set(facts) == {"teacher", student}
    split = stages.open_prepared(finished.out).split
    assert {(gain.arm, gain.control) for gain in summary.gains} == {
        ("distilled", "control"),
        ("distilled", "control+largest-component"),
        ("distilled+largest-component", "control+largest-component"),
        *(("distilled", reference) for reference in finished.study.references),
    }
    for ref in (TEACHER, *student_refs(finished.study)):
        test = ref.folder(finished.out) / "test"
        masks = sorted(path.name for path in (test / "predictions").iterdir())
        assert masks == [f"{case}.nii.gz" for case in split.test]
        scores = json.loads((test / "scores.json").read_text())
        assert [case["case"] for case in scores["cases"]] == list(split.test)
    quality = json.loads((finished.out / "teacher" / "test" / "reconstruction.json").read_text())
    assert [row["case"] for row in quality] == list(split.test)


def test_masks_have_the_geometry_of_their_scans(finished):
    case = stages.open_prepared(finished.out).split.test[0]
    mask = read_label(TEACHER.folder(finished.out) / "test" / "predictions" / f"{case}.nii.gz")
    scan = read_image(finished.data / "imagesTr" / f"{case}.nii.gz")
    assert mask.GetSize() == scan.GetSize()
    np.testing.assert_allclose(mask.GetSpacing(), scan.GetSpacing(), rtol=1e-5)
    np.testing.assert_allclose(mask.GetOrigin(), scan.GetOrigin(), rtol=1e-4)
    np.testing.assert_allclose(mask.GetDirection(), scan.GetDirection(), atol=1e-5)


def refuse(*_arguments, **_options):
    raise AssertionError("finished work was done again")


def test_a_repeat_trains_and_scores_nothing_again(flat, monkeypatch):
    kept = [
        path
        for pattern in ("**/*.ckpt", "**/history.json", "**/predictions/*", "prepared/cases/*/*")
        for path in flat.out.glob(pattern)
    ]
    assert len(kept) > 20
    before = {path: path.stat().st_mtime_ns for path in kept}
    monkeypatch.setattr(training, "train_teacher", refuse)
    monkeypatch.setattr(training, "train_student", refuse)
    monkeypatch.setattr(deploy, "segment", refuse)
    assert pipeline.run(flat.study, flat.data, flat.out) == flat.page
    assert {path: path.stat().st_mtime_ns for path in kept} == before


def test_another_study_is_refused_in_the_same_folder(flat):
    other = flat.study.model_copy(update={"label_fraction": 1.0})
    with pytest.raises(RunError, match="belongs to another study"):
        pipeline.run(other, flat.data, flat.out)


def test_every_stage_by_itself_gives_what_the_whole_run_gave(solid, tmp_path, one_thread):
    out = tmp_path / "run"
    prepared = medstill.prepare(solid.study, solid.data, out)
    assert len(prepared.infos) == 6
    teacher = medstill.train_teacher(out)
    students = medstill.distill(out)
    summary = medstill.evaluate(out, solid.data)
    opened = stages.open_prepared(solid.out)
    assert teacher == stages.training_result(opened, TEACHER)
    for ref in (ModelRef("control", "unet-s1", 0), ModelRef("distilled", "unet-s1", 0)):
        assert students[ref.name] == stages.training_result(opened, ref)
    assert summary == scoring.results(solid.out)[0]
    medstill.export(out, tmp_path / "student.onnx")
    assert (tmp_path / "student.onnx").stat().st_size > 10_000


def test_one_student_and_one_arm_can_be_trained_alone(tiny, tmp_path, one_thread):
    out = tiny.copy(tmp_path / "run")
    results = pipeline.distill(out, student="unet-s1", arms=("control",))
    assert list(results) == ["students/unet-s1/control/seed-0"]
    with pytest.raises(UnknownNameError, match=r"student of this study.*There are: unet-s1"):
        pipeline.distill(out, student="unet-s9")
    with pytest.raises(UnknownNameError, match=r"arm of this study.*'contrl'.*'control'"):
        pipeline.distill(out, arms=("contrl",))
    (done,) = pipeline.distill(out, arms=("control",)).values()
    assert done == results["students/unet-s1/control/seed-0"]
    command = [sys.executable, "-m", "medstill", "distill", str(out), "--arm", "distillled"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 2
    assert "Did you mean 'distilled'?" in " ".join(found.stderr.split())


def test_distilling_without_a_teacher_is_refused(tiny, tmp_path):
    for arms in (("distilled",), None):
        with pytest.raises(RunError, match=r"training of 'teacher' .* is not finished"):
            pipeline.distill(tiny.copy(tmp_path / str(arms)), arms=arms)


def test_pseudo_labels_without_images_for_them_are_refused_before_training(
    tiny, tiny_with, tmp_path
):
    study = tiny_with(
        references=["pseudo-labels"], distillation={"unlabelled_batch": 1}, label_fraction=1.0
    )
    with pytest.raises(SplitError, match=r"references has pseudo-labels; found none\. Lower label"):
        pipeline.prepare(study, tiny.data, tmp_path / "run")


def test_with_all_labels_the_control_is_the_reference_of_all_labels(tiny_with):
    study = tiny_with(references=["all-labels"], label_fraction=1.0)
    assert student_refs(study) == student_refs(tiny_with())
    assert "all-labels" in {ref.arm for ref in student_refs(tiny_with(references=["all-labels"]))}


def test_the_file_the_folder_and_the_scores_agree(finished, tmp_path):
    run = stages.open_prepared(finished.out)
    case, student = run.split.test[0], finished.study.students[0].name
    scan = finished.data / "imagesTr" / f"{case}.nii.gz"
    chosen = handover.chosen(run, None)
    assert handover.is_current(run, student, finished.out / "models" / f"{student}.onnx")
    masks = [chosen.folder(finished.out) / "test" / "predictions" / f"{case}.nii.gz"]
    models = (finished.out / "models" / f"{student}.onnx", finished.out)
    for index, model in enumerate(models):
        target = tmp_path / f"{index}.nii.gz"
        (result,) = medstill.predict(
            model, scan, target, options=medstill.PredictOptions(threads=1)
        )
        assert result.error is None
        masks.append(target)
    scored, exported, folder = (sitk.GetArrayFromImage(read_label(mask)) for mask in masks)
    np.testing.assert_array_equal(folder, scored)
    # The runtime rounds otherwise than PyTorch: a voxel between two classes may fall elsewhere.
    assert (exported != scored).mean() < 1e-3


def test_the_exported_file_predicts_without_torch(flat, tmp_path):
    scan = next((flat.data / "imagesTr").glob("*.nii.gz"))
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from pathlib import Path; import medstill\n"
        "model, scan, target = map(Path, sys.argv[1:])\n"
        "(result,) = medstill.predict(model, scan, target)\n"
        "assert result.error is None, result.error\n"
        "assert not [name for name in sys.modules if name.startswith(('monai', 'pytorch_'))]\n"
    )
    model, target = flat.out / "models" / "compact.onnx", tmp_path / "mask.nii.gz"
    command = [sys.executable, "-c", code, str(model), str(scan), str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert target.exists()


def test_the_teacher_can_be_exported_too(flat, tmp_path):
    report = medstill.export(flat.out, tmp_path / "teacher.onnx", student="teacher")
    contract = deploy.load_model(tmp_path / "teacher.onnx").contract
    assert contract.network.name == "unet-t1"
    assert contract.verification == report.verification
    opened = stages.open_prepared(flat.out)
    cases = [opened.prepared.open(case) for case in opened.split.validation]
    assert report.verification.cases == len(cases) == 1
    assert report.verification.voxels == cases[0].label_ZYX.size
    best = stages.training_result(opened, TEACHER)["best_dice"]
    assert report.verification.dice_pytorch == pytest.approx(best, abs=1e-3)


def test_jobs_come_in_an_order_in_which_they_can_run(tiny, tiny_with, tmp_path):
    study = tiny_with(
        seeds=[0, 3],
        students=[{"name": "unet-s1"}, {"name": "compact"}],
        references=["pseudo-labels", "all-labels"],
        distillation={"unlabelled_batch": 1},
    )
    jobs = pipeline.jobs(study, tiny.data, tmp_path)
    names = [job.name for job in jobs]
    assert len(set(names)) == len(names) == 2 * (1 + 2 * 4 * 2)
    assert names[:2] == ["teacher", "teacher scores"]
    for index, job in enumerate(jobs):
        assert set(job.needs) <= set(names[:index])
        arm = job.name.split("/")[-2] if "/" in job.name and "scores" not in job.name else None
        if arm in ("distilled", "pseudo-labels"):
            assert job.needs == ("teacher",)
        if arm in ("control", "all-labels"):
            assert job.needs == ()


def test_jobs_can_be_sent_to_another_process(tiny, tmp_path):
    import pickle

    for job in pipeline.jobs(tiny.study, tiny.data, tmp_path):
        assert pickle.loads(pickle.dumps(job)) == job


def test_the_best_seed_is_chosen_on_validation_among_the_distilled(monkeypatch):
    dice = {
        ModelRef("control", "compact", 0): 0.99,
        ModelRef("distilled", "compact", 0): 0.5,
        ModelRef("distilled", "compact", 1): 0.7,
        ModelRef("distilled", "compact", 2): 0.6,
        ModelRef("distilled", "unet-s1", 0): 0.9,
    }
    study = parse_study(
        {"name": "x", "seeds": [0, 1, 2], "students": [{"name": "compact"}, {"name": "unet-s1"}]}
    )
    dice |= {ModelRef("distilled", "unet-s1", seed): 0.9 for seed in (1, 2)}
    monkeypatch.setattr(handover, "training_result", lambda _, ref: {"best_dice": dice[ref]})
    run = SimpleNamespace(study=study)
    assert handover.chosen(run, None) == ModelRef("distilled", "compact", 1)
    assert handover.chosen(run, "teacher") == TEACHER
    with pytest.raises(UnknownNameError, match="Did you mean 'compact'"):
        handover.chosen(run, "compakt")


def test_patients_of_another_folder_are_refused_when_scoring(flat, phantom, tmp_path):
    import shutil

    from medstill.scoring import test_cases as cases_of

    run = stages.open_prepared(flat.out)
    data = tmp_path / "data"
    shutil.copytree(phantom, data)
    description = json.loads((data / "dataset.json").read_text())
    kept = [entry for entry in description["training"] if run.split.test[0] not in entry["image"]]
    (data / "dataset.json").write_text(json.dumps({**description, "training": kept}))
    with pytest.raises(RunError, match=f"test case '{run.split.test[0]}' of this run is not in"):
        list(cases_of(run, data))
