"""Faults of published distillation scripts that must not come back; those of data and training."""

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from medstill import stages, training
from medstill.evaluation import score_case, score_folders, ssim
from medstill.evaluation.image_quality import psnr
from medstill.evaluation.scores import ModelScores
from medstill.refs import ModelRef
from medstill.training.assembly import build_network, build_teacher, student_task
from medstill.training.checkpoint import weights_hash
from medstill.training.tasks import Place, StudentTask, TeacherTask
from medstill.volumes.store import PreparedSet

CONTROL, DISTILLED = ModelRef("control", "unet-s1", 0), ModelRef("distilled", "unet-s1", 0)
REFERENCES = (ModelRef("all-labels", "unet-s1", 0), ModelRef("pseudo-labels", "unet-s1", 0))
SPACING_ZYX = (3.0, 2.0, 1.0)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def teacher(tiny):
    return build_teacher(tiny.study, tiny.material().preparation)


def test_fault_4_no_test_case_is_opened_while_training(tiny, tmp_path, monkeypatch):
    opened, really = [], PreparedSet.open
    monkeypatch.setattr(
        PreparedSet, "open", lambda self, name: (opened.append(name), really(self, name))[1]
    )
    out = tiny.copy(tmp_path / "run")
    for ref in (ModelRef("teacher"), CONTROL, DISTILLED):
        stages.train(out, ref)
    split = stages.open_prepared(out).split
    assert set(opened) == {*split.train, *split.validation}
    assert set(opened).isdisjoint(split.test)


def batches_of(monkeypatch):
    seen, really = [], StudentTask.compute

    def compute(self, image_BC, label_B, step, **more):
        seen.append((step, weights_hash(self.network), image_BC.clone(), label_B.clone()))
        return really(self, image_BC, label_B, step, **more)

    monkeypatch.setattr(StudentTask, "compute", compute)
    return seen


def test_fault_5_references_share_recipe_initial_weights_and_what_they_can_of_the_batches(
    tiny, tiny_with, tmp_path, monkeypatch, teacher
):
    material = tiny.material(
        tiny_with(distillation={"unlabelled_batch": 2}), validate=lambda _: {"liver": 0.5}
    )
    seen = batches_of(monkeypatch)
    for ref in (CONTROL, DISTILLED, *REFERENCES):
        guide = teacher if ref.arm in ("distilled", "pseudo-labels") else None
        training.train_student(material, ref, guide, tmp_path / ref.arm, {})
    control, distilled, whole, pseudo = (seen[start : start + 4] for start in range(0, 16, 4))
    assert len({arm[0][1] for arm in (control, distilled, whole, pseudo)}) == 1
    assert len({arm[1][1] for arm in (control, distilled, whole, pseudo)}) == 4
    for (_, _, image, label), (_, _, more_image, more_label) in zip(distilled, pseudo, strict=True):
        assert torch.equal(image, more_image)
        assert torch.equal(label, more_label)
    assert [len(image) for _, _, image, _ in whole] == [4] * 4
    assert not all(torch.equal(one[2], two[2]) for one, two in zip(control, whole, strict=True))


@pytest.mark.parametrize("unlabelled", [0, 2])
def test_fault_5_arms_share_recipe_initial_weights_and_labelled_batches(
    tiny, tiny_with, tmp_path, monkeypatch, teacher, unlabelled
):
    study = tiny_with(distillation={"unlabelled_batch": unlabelled})
    material = tiny.material(study, validate=lambda _: {"liver": 0.5})
    seen = batches_of(monkeypatch)
    for ref in (CONTROL, DISTILLED):
        guide = teacher if ref == DISTILLED else None
        training.train_student(material, ref, guide, tmp_path / ref.arm, {})
    control, distilled = seen[:4], seen[4:]
    assert control[0][1] == distilled[0][1]
    assert control[1][1] != distilled[1][1]
    for (step, _, image, label), (other_step, _, more_image, more_label) in zip(
        control, distilled, strict=True
    ):
        assert step == other_step
        assert len(more_image) == len(image) + unlabelled
        assert torch.equal(more_image[: len(image)], image)
        assert torch.equal(more_label[: len(label)], label)
        assert (more_label[len(label) :] == 255).all()


def test_fault_5_no_arm_can_have_a_recipe_of_its_own(tiny, tiny_with):
    run = stages.open_prepared(tiny.out)
    control, distilled = (stages.training_key(run, ref) for ref in (CONTROL, DISTILLED))
    shared = {"student", "seed", "training", "prepared", "cases", "prior"}
    assert all(control[name] == distilled[name] for name in shared)
    assert set(control) - shared == {"stage", "arm", "segmentation_weight"}
    whole, pseudo = (stages.training_key(run, ref) for ref in REFERENCES)
    assert {name for name in control if control[name] != whole[name]} == {"arm", "cases"}
    assert set(whole) == set(control)
    assert {name for name in control if control[name] != pseudo[name]} == {"arm"}
    assert set(pseudo) - set(control) == {"teacher", "unlabelled_batch"}
    assert pseudo["teacher"] == distilled["teacher"]


def test_fault_8_masks_meet_by_name_whatever_the_order_in_their_folders(tmp_path):
    for name, width in (("case_b", 2), ("case_a", 5), ("case_c", 9)):
        mask_ZYX = np.zeros((5, 7, 11), np.uint8)
        mask_ZYX[1:4, 2:5, :width] = 1
        image = sitk.GetImageFromArray(mask_ZYX)
        for folder, suffix in (("prediction", ".nii.gz"), ("truth", ".nii.gz")):
            (tmp_path / folder).mkdir(exist_ok=True)
            sitk.WriteImage(image, str(tmp_path / folder / f"{name}{suffix}"))
    scores = score_folders(tmp_path / "prediction", tmp_path / "truth")
    assert sorted(case.case for case in scores.cases) == ["case_a", "case_b", "case_c"]
    assert list(scores.per_patient_mean("dice").values()) == [1.0, 1.0, 1.0]


def test_fault_9_every_patient_counts_alike_not_every_voxel():
    big, small = np.zeros((2, 12, 20, 30), np.uint8)
    big[2:10, 2:18, 2:28] = 1
    small[5:7, 5:7, 5:7] = 1
    missed = np.zeros_like(small)
    cases = tuple(
        score_case(truth, found, SPACING_ZYX, ("spleen",), case=name, patient=name)
        for name, truth, found in (("big", big, big), ("small", small, missed))
    )
    scores = ModelScores(model="x", cases=cases, nsd_tolerance_mm=2.0)
    pooled = 2 * big.sum() / (2 * big.sum() + small.sum())
    per_patient = scores.per_patient_mean("dice")
    assert per_patient == {"big": 1.0, "small": 0.0}
    assert pooled > 0.99


def test_fault_9_a_patient_with_many_scans_counts_once():
    full, half = np.zeros((2, 5, 7, 11), np.uint8)
    full[1:4, 2:5, 2:8] = 1
    half[1:4, 2:5, 2:5] = 1
    cases = tuple(
        score_case(full, found, SPACING_ZYX, ("spleen",), case=f"c{index}", patient=patient)
        for index, (patient, found) in enumerate([("p", full), ("p", half), ("q", half)])
    )
    dice = ModelScores(model="x", cases=cases, nsd_tolerance_mm=2.0).per_patient("spleen", "dice")
    assert dice["q"] == pytest.approx(2 / 3)
    assert dice["p"] == pytest.approx((1 + 2 / 3) / 2)


def scan(values_ZYX, code):
    image = sitk.GetImageFromArray(values_ZYX)
    image.SetSpacing((1.0, 2.0, 3.0))
    return sitk.DICOMOrient(image, code)


def test_fault_10_hounsfield_units_below_0_and_above_255_are_told_apart(tiny):
    from medstill.volumes.preparation import prepare_image
    from medstill.volumes.records import ChannelIntensity

    preparation = tiny.material().preparation.model_copy(
        update={
            "spacing_zyx_mm": (None, 2.0, 1.0),
            "intensity": (ChannelIntensity(kind="ct-window", low=-200.0, high=600.0),),
        }
    )
    hu_ZYX = np.full((5, 7, 11), 100, np.int16)
    hu_ZYX[1, 2, 3], hu_ZYX[1, 2, 4], hu_ZYX[1, 2, 5], hu_ZYX[1, 2, 6] = -100, -50, 300, 500
    found_ZYX = prepare_image(scan(hu_ZYX, "LPS"), preparation).array_CZYX[0]
    assert found_ZYX[1, 2, 3:7] == pytest.approx([0.125, 0.1875, 0.625, 0.875], abs=1e-3)


@pytest.mark.parametrize("code", ["LPS", "RAI", "ASL", "PIR"])
def test_fault_10_orientation_and_spacing_of_the_file_do_not_change_what_a_network_sees(tiny, code):
    from medstill.volumes.preparation import prepare_image

    preparation = tiny.material().preparation.model_copy(
        update={"spacing_zyx_mm": (None, 4.0, 2.0)}
    )
    hu_ZYX = np.random.default_rng(0).normal(40, 60, (5, 14, 22)).astype(np.float32)
    expected = prepare_image(scan(hu_ZYX, "LPS"), preparation).array_CZYX
    found = prepare_image(scan(hu_ZYX, code), preparation).array_CZYX
    assert found.shape == (1, 5, 7, 11)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_fault_11_all_slices_of_a_patient_are_in_one_part(tiny):
    split = stages.open_prepared(tiny.out).split
    parts = [split.train, split.validation, split.test]
    patients = [{split.patients[case] for case in part} for part in parts]
    assert sum(map(len, patients)) == len(set.union(*patients)) == 6
    assert {split.patients[case] for case in split.student} < patients[0]


def test_fault_11_samples_of_both_arms_come_from_their_own_patients_alone(tiny, tiny_with):
    from medstill.training.assembly import student_source

    material = tiny.material(tiny_with(distillation={"unlabelled_batch": 2}))
    split = material.split
    control, distilled = (student_source(material, ref) for ref in (CONTROL, DISTILLED))
    assert control.labelled == distilled.labelled == split.student
    assert control.unlabelled == ()
    assert set(distilled.unlabelled) == set(split.train) - set(split.student)
    assert student_source(material, ModelRef("pseudo-labels", "unet-s1", 0)) == distilled
    whole = student_source(material, ModelRef("all-labels", "unet-s1", 0))
    assert (whole.labelled, whole.unlabelled) == (split.train, ())
    assert control.samples_per_step == 4
    assert distilled.samples_per_step == 6


def calls_of(*networks):
    calls = []
    for network in networks:
        network.register_forward_hook(lambda module, *_: calls.append(module))
    return calls


def test_fault_12_the_teacher_learns_both_tasks_in_one_forward_pass(tiny):
    material = tiny.material()
    network = build_teacher(tiny.study, material.preparation)
    calls = calls_of(network, network.encoder, network.segmentation, network.reconstruction)
    settings = tiny.study.teacher
    task = TeacherTask(
        network, student_task_of(tiny, None).objective.segmentation, settings.reconstruction, 0
    )
    image = torch.rand(2, 1, 48, 48)
    terms = task.compute(image, torch.zeros(2, 48, 48, dtype=torch.long), 0).terms
    assert "reconstruction" in terms
    assert len(calls) == len(set(calls)) == 4


def student_task_of(tiny, teacher):
    ref = DISTILLED if teacher else CONTROL
    return student_task(tiny.study, tiny.material().preparation, ref, teacher)


def test_fault_12_distillation_runs_each_network_once_a_batch(tiny):
    teacher = build_teacher(tiny.study, tiny.material().preparation)
    task = student_task_of(tiny, teacher)
    image = torch.rand(2, 1, 48, 48)
    task.before_training(Place(torch.device("cpu"), 2), [image])
    calls = calls_of(task.network, teacher.encoder, teacher.segmentation, teacher.reconstruction)
    task.compute(image, torch.zeros(2, 48, 48, dtype=torch.long), 0)
    assert len(calls) == 3
    assert set(calls) == {task.network, teacher.encoder, teacher.segmentation}


def test_fault_13_reconstructions_are_clipped_and_never_cast():
    truth = np.random.default_rng(0).random((1, 3, 16, 16)).astype(np.float32)
    overshoot = truth + 0.0
    overshoot[0, 0, 0, 0] = 1.02
    wrapped = (overshoot * 255).astype(np.int64).astype(np.uint8) / 255.0
    assert psnr(truth, overshoot) > psnr(truth, wrapped.astype(np.float32))
    clipped = np.clip(overshoot, 0, 1)
    assert psnr(truth, overshoot) == psnr(truth, clipped)
    assert ssim(truth, overshoot) == ssim(truth, clipped)


def test_the_initial_weights_of_a_student_do_not_depend_on_the_arm(tiny, teacher):
    preparation = tiny.material().preparation
    hashes = {
        weights_hash(student_task_of(tiny, None).network),
        weights_hash(student_task_of(tiny, teacher).network),
        weights_hash(build_network(tiny.study.students[0], preparation, seed=0)),
    }
    assert len(hashes) == 1
