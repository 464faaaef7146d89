"""Model cards and check lists: they say what the run says, and nothing else."""

from __future__ import annotations

import hashlib
import re

import pytest
from fake_run import FakeRun

from medstill import pipeline
from medstill.evaluation.scores import load_scores
from medstill.reporting import write_cards
from medstill.reporting.modelcard import card_of, card_text, patient_means
from medstill.reporting.page import render
from medstill.reporting.reading import read_case_scores, read_run
from medstill.reporting.records import ScoredCase
from medstill.runs import read_json, write_json
from medstill.volumes.records import CaseInfo
from medstill.volumes.store import StoredCase


def text_of(folder, kind="model-card", student=0):
    run = read_run(folder)
    return card_text(run, run.study.students[student], kind)


def row(text, number):
    (line,) = re.findall(rf"^\| {number} \| [^|]+ \| (.*) \|$", text, re.MULTILINE)
    return line


@pytest.fixture(scope="module")
def card(finished_run):
    return text_of(finished_run.folder)


@pytest.fixture(scope="module")
def claim(finished_run):
    return text_of(finished_run.folder, "claim")


def test_card_says_which_network_it_is_of(finished_run, card) -> None:
    run = read_run(finished_run.folder)
    seeds = {ref: t for ref, t in run.trainings.items() if ref.arm == "distilled"}
    best = max(seeds, key=lambda ref: seeds[ref].best_dice)
    assert card.startswith("# Model card: compact\n\n**Research use only, not a medical device.**")
    assert "compact, 57010 parameters" in card
    assert "it sees 188 x 188 pixels" in card
    assert "unet-t1 (43236036 parameters, 758 times as many)" in card
    assert f"seed {best.seed}, the one with the best validation Dice" in card
    assert f"({seeds[best].best_dice:.3f} at step {seeds[best].best_step}) of 2 seeds" in card
    assert "`fedcba9876543210`" in card
    assert "| Students: training, with labels | 4 | 4 |" in card
    assert "50 % of the teacher's training patients" in card
    assert "supcon on the features B (weight 0.2)" in card
    assert f"`{run.manifest.study_hash}`" in card


def test_scores_stand_by_arm_and_by_class_with_their_intervals(finished_run, card) -> None:
    summary = read_run(finished_run.folder).summary
    for arm in ("control", "distilled"):
        found = summary.model("compact", arm).intervals
        dice, hd95 = found["dice"], found["hd95_mm"]
        assert (
            f"| {arm} | 4 | {dice.mean:.3f} ({dice.low:.3f} to {dice.high:.3f}) | "
            f"{hd95.mean:.1f} ({hd95.low:.1f} to {hd95.high:.1f}) |"
        ) in card
    for one in summary.model("compact", "distilled").classes:
        dice = one.intervals["dice"]
        assert f"| {one.class_name} | 4 | {dice.mean:.3f} ({dice.low:.3f} to" in card
    assert card.count("adjusted p") == len(summary.gains)
    fair = [line for line in card.splitlines() if "The filtered distilled student's" in line]
    assert len(fair) == 2
    assert all("against control (largest component)" in line for line in fair)


def test_worst_patients_are_those_of_the_network_itself(finished_run, card) -> None:
    run = read_run(finished_run.folder)
    ref = card_of(run, run.study.students[0])["ref"]
    scores = load_scores(ref.folder(finished_run.folder) / "test" / "scores.json")
    dice, hd95 = (scores.per_patient_mean(metric) for metric in ("dice", "hd95_mm"))
    for metric, expected in (("dice", dice), ("hd95_mm", hd95)):
        assert patient_means(read_case_scores(run, ref).values(), metric) == pytest.approx(expected)
    worst = min(dice, key=lambda patient: dice[patient])
    assert (
        f"Worst test patient: {worst}, Dice {dice[worst]:.3f}, HD95 {hd95[worst]:.1f} mm." in card
    )


def test_a_patients_cases_count_once_and_empty_structures_not_at_all() -> None:
    def case(name, first, second):
        classes = [
            {"class_name": "a", "state": "scored", "dice": first},
            {"class_name": "b", "state": "empty", "dice": second},
        ]
        return ScoredCase.model_validate({"case": name, "patient": "p", "classes": classes})

    cases = [case("1", 0.2, 0.9), case("2", 0.4, None), case("3", 0.9, None)]
    assert patient_means(cases, "dice") == {"p": pytest.approx((0.5 + 0.9) / 2)}


def test_text_changes_with_the_run(fake_run, card, claim) -> None:
    made = fake_run(classes=("liver",), patients=3, seeds=(7,), label_fraction=0.25)
    other, checks = text_of(made.folder), text_of(made.folder, "claim")
    assert "25 % of the teacher's training patients" in other
    assert "label maps of liver; values 1 to 1" in other
    assert "seed 7" in other
    assert "spleen" not in other
    same = set(card.splitlines()) & set(other.splitlines())
    assert len(same) < 0.75 * len(card.splitlines())
    changed = [number for number in range(1, 45) if row(claim, number) != row(checks, number)]
    assert {10, 14, 19, 21, 22, 24, 26, 30, 32, 35, 37, 39} <= set(changed)


def test_every_setting_that_does_something_is_named(tmp_path) -> None:
    made = FakeRun(tmp_path / "run", patients=2, seeds=(0,))
    study = made.study.model_dump(mode="json")
    study["training"] |= {"views": 4, "class_balance": 0.5, "dice_over": "sample"}
    study["training"]["augmentation"]["elastic_mm"] = 4.0
    study["students"][0]["reconstruction_weight"] = 0.3
    study["teacher"]["signed_distance"]["weight"] = 0.5
    study["teacher"]["pretraining"]["steps"] = 2000
    study["split"] |= {"kind": "nnunet", "group_by": "site"}
    study["distillation"]["maps"][0] |= {"boundary_weight": 5.0, "ramp_steps": 1000}
    made.study = type(made.study).model_validate(study)
    card, claim = (text_of(made.build().folder, kind) for kind in ("model-card", "claim"))
    for text in (card, claim):
        for words in (
            "all from 4 fixed views of each image, gradients clipped at norm 1, 50 % of the "
            "cross-entropy a mean over classes, Dice over each sample;",
            "elastic displacement of standard deviation 4 mm (together",
            "kl on the output maps (weight 0.2, rising from 0 in 1000 steps, temperature 4, places "
            "within 2 of a class boundary weighted 6) + reconstruction of the image as a second "
            "task (weight 0.3), in the control too.",
            "; third task: signed distance to the border of each structure, weight 0.5, up to 10",
            "; pretrained before by reconstruction alone, 2000 steps on images without their",
        ):
            assert words in text
    assert "Division by patient: fold 0 of the data set's own" in card
    assert row(claim, 20) == "By patient."
    assert row(claim, 10).startswith("4 fixed views of each slice, drawn at random, 50 % of them")


def test_settings_that_do_nothing_are_not_named(card, claim) -> None:
    for words in ("elastic", "fixed view", "signed distance", "pretrained", "rising", "boundary"):
        assert words not in card + claim
    assert row(claim, 10).startswith("Slices drawn at random, 50 % of them")
    assert "in the control too" not in card + claim


def test_collapsed_classes_and_late_bests_are_known_failures(copied_run) -> None:
    run = read_run(copied_run)
    ref = card_of(run, run.study.students[0])["ref"]
    path = ref.folder(copied_run) / "stage.json"
    stage = read_json(path)
    stage["result"] |= {"collapsed": ["left kidney"], "best_step": 4000}
    write_json(path, stage)
    assert "(validation Dice below .05): left kidney." in text_of(copied_run)
    assert "training may not have converged" in text_of(copied_run)
    assert "collapsed classes: left kidney" in row(text_of(copied_run, "claim"), 39)
    stage["result"] |= {"collapsed": [], "best_step": 500}
    write_json(path, stage)
    assert "(validation Dice below .05): none." in text_of(copied_run)
    assert "training may not have converged" not in text_of(copied_run)


def test_exported_file_stands_with_its_hash(copied_run) -> None:
    assert "Not exported yet: `medstill export RUN -o compact.onnx" in text_of(copied_run)
    (copied_run / "models").mkdir(exist_ok=True)
    (copied_run / "models" / "compact.onnx").write_bytes(b"a network")
    digest = hashlib.sha256(b"a network").hexdigest()
    assert f"| compact.onnx | 9 | `{digest}` |" in text_of(copied_run)
    assert digest in row(text_of(copied_run, "claim"), 43)


def test_limits_are_the_ranges_of_the_training_cases(copied_run) -> None:
    assert "not kept: the prepared cases are no longer" in text_of(copied_run)
    split = read_run(copied_run).split
    for number, name in enumerate((*split.train, *split.test)):
        info = CaseInfo(
            id=name,
            patient=name,
            labelled=True,
            spacing_zyx_mm=(1.0, 1.0, 1.0),
            original_spacing_zyx_mm=(2.0 + number, 0.5, 0.75),
            voxels_by_class=(),
            image_file=(),
            content_hash="",
        )
        stored = StoredCase(info=info, raw_range=((-1000.0, 300.0 + number),), key="")
        folder = copied_run / "prepared" / "cases" / name
        write_json(folder / "case.json", stored.model_dump(mode="json"))
    text = text_of(copied_run)
    assert "spacing (z, y, x) 2 to 9, 0.5 to 0.5, 0.75 to 0.75 mm" in text
    assert "-1000 to 307." in text


def test_every_item_of_the_check_list_stands_once_and_is_answered_or_left_open(claim) -> None:
    numbers = [int(found) for found in re.findall(r"^\| (\d+) \|", claim, re.MULTILINE)]
    assert numbers == list(range(1, 45))
    assert "10.1148/ryai.240300" in claim
    left = {n for n in numbers if "To be filled in by the authors" in row(claim, n)}
    assert {2, 5, 15, 16, 17, 18, 34, 36, 44} <= left
    assert not {9, 10, 19, 20, 22, 23, 24, 25, 26, 29, 32, 35, 37} & left
    assert row(claim, 20) == "By patient."
    assert "numpy" in row(claim, 23)
    assert "control: Dice 0." in row(claim, 37)
    assert row(claim, 8).startswith("1 case left out")


def test_texts_name_no_person_no_date_and_no_place(finished_run, card, claim) -> None:
    for text in (card, claim):
        assert "somebody" not in text
        assert str(finished_run.folder) not in text
        assert "/home/" not in text
        assert not re.search(r"\b(19|20)\d\d[-/.]\d\d?[-/.]\d\d?\b", text)


def test_patients_are_called_by_their_pseudonym(copied_run) -> None:
    for path in copied_run.rglob("test/scores.json"):
        scores = read_json(path)
        for case in scores["cases"]:
            case["patient"] = "patient-4711" + case["case"][-1]
        write_json(path, scores)
    text = text_of(copied_run)
    assert re.search(r"Worst test patient: patient-4711\d, Dice", text)
    assert "case_00" not in text


def test_names_are_no_markup(fake_run) -> None:
    made = fake_run(classes=("<b>|x",), patients=2, seeds=(0,))
    for kind in ("model-card", "claim"):
        text = text_of(made.folder, kind)
        assert "<b>" not in text
        assert "&lt;b>/x" in text


def test_report_writes_them_beside_the_file_and_shows_them(copied_run, card, claim) -> None:
    page = pipeline.report(copied_run).read_text(encoding="utf-8")
    names = sorted(path.name for path in (copied_run / "models").iterdir())
    assert names == ["compact.claim.md", "compact.model-card.md"]
    assert (copied_run / "models" / names[0]).read_text(encoding="utf-8").startswith(claim)
    assert (copied_run / "models" / names[1]).read_text(encoding="utf-8").startswith(card)
    assert "Model card of compact" in page
    assert "CLAIM 2024 check list of compact" in page
    assert "57010 parameters" in page


def test_every_student_has_its_own(fake_run) -> None:
    made = fake_run(students=("compact", "unet-s1"), patients=2, seeds=(0,))
    written = write_cards(made.folder)
    assert [path.name for path in written] == [
        f"{name}.{kind}.md" for name in ("compact", "unet-s1") for kind in ("model-card", "claim")
    ]
    assert "57297 parameters" in written[2].read_text(encoding="utf-8")
    assert render(read_run(made.folder)).count("Model card of ") == 2
