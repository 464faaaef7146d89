"""The report page: what it says, and that it loads, names and trusts nothing."""

from __future__ import annotations

import re

import pytest
from html_page import Page

from medstill import errors
from medstill.errors import MissingExtraError, RunError
from medstill.reporting import wording, write_report
from medstill.reporting.figures import Line, curve_chart, paired_chart
from medstill.reporting.page import render
from medstill.reporting.reading import read_run
from medstill.runs import read_json, write_json


@pytest.fixture(scope="module")
def text(finished_run) -> str:
    return render(read_run(finished_run.folder))


@pytest.fixture(scope="module")
def page(text) -> Page:
    return Page(text)


def test_page_loads_nothing(text, page) -> None:
    assert not re.search(r"https?://|@import|url\((?!#)", text)
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.elements}
    loads = page.values("href") + page.values("src")
    assert all(load.startswith(("#", "data:image/")) for load in loads)
    assert sum(load.startswith("data:image/") for load in loads) == 3


def test_references_inside_the_page_have_one_target(text, page) -> None:
    ids = page.values("id")
    assert {ref[1:] for ref in page.values("href") if ref.startswith("#")} <= set(ids)
    assert set(re.findall(r"url\(#([^)]+)\)", text)) <= set(ids)


def test_verdict_counts_and_intervals_are_printed(finished_run, page) -> None:
    summary = read_run(finished_run.folder).summary
    gain = next(g for g in summary.gains if g.control == "control" and g.metric == "dice")
    assert f"changed the mean Dice by +{gain.comparison.difference.mean:.3f} (95 %" in page.plain
    assert "; 4 patients, 2 seeds): no difference shown" in page.plain
    assert "conditional on one teacher" in page.plain
    # Four patients and six comparisons: the least possible p is 6 / 2^3.
    assert "no adjusted p can be below 0.750" in page.plain
    control = summary.model("compact", "control")
    assert f"{control.intervals['hd95_mm'].mean:.1f}" in page.plain
    assert f"{control.counts['missed']} of 16 structures missed" in page.plain
    assert "758 ×" in page.plain
    assert "≥ 188 × 188" in page.plain


def test_a_shown_gain_and_a_shown_loss_are_said(copied_run) -> None:
    stored = read_json(copied_run / "comparison.json")
    for gain in stored["gains"]:
        gain["verdict"] = "worse" if gain["metric"] == "dice" else "better"
    write_json(copied_run / "comparison.json", stored)
    text = render(read_run(copied_run))
    assert '<p class="big bad">Worse</p>' in text
    assert re.search(r"mean HD95 .*: better\.", text)


def test_collapsed_classes_left_out_cases_and_late_bests_are_loud(page, text) -> None:
    assert 'role="alert"' in text
    assert "compact control, seed 1: left kidney" in page.plain
    assert "1 case left out since they could not be read" in page.plain
    assert "'case_900.nii.gz' is cut off." in page.plain
    assert "Perhaps still learning." in page.plain


def test_healthy_run_raises_no_alarm(fake_run) -> None:
    folder = fake_run(classes=("spleen",), patients=2, seeds=(0,)).folder
    (folder / "prepared" / "skipped.json").unlink()
    text = render(read_run(folder))
    assert 'role="alert"' not in text
    assert "left out</strong>" not in text
    assert "<h2>Class by class</h2>" not in text


def test_references_are_beside_the_arms_by_readable_names(fake_run, page) -> None:
    references = ("all-labels", "pseudo-labels")
    run = read_run(fake_run(references=references, seeds=(0,)).folder)
    found = Page(render(run))
    for name in ("plain, all the teacher's labels", "plain, the teacher's answers as labels"):
        assert f"Against {name} : The distilled" in found.plain.replace(":", " :")
        assert f"compact distilled against {name} Dice" in found.plain
        assert name not in page.plain
    gain = next(g for g in run.summary.gains if g.control == "all-labels" and g.metric == "dice")
    number = wording.fixed(gain.comparison.difference.mean, signed=True)
    assert f"The distilled student's mean Dice differs by {number} (95 %" in found.plain
    assert "a student trained without a teacher on all" in page.plain
    assert "a student trained without a teacher on all" not in found.plain
    assert sum(tag == "image" for tag, _ in found.elements) == 3
    # Each arm has lines of its own in the charts.
    assert all(f"var(--{name})" in render(run) for name in references)


def test_control_that_saw_all_labels_is_not_called_untested(fake_run) -> None:
    page = Page(render(read_run(fake_run(label_fraction=1.0, seeds=(0,), patients=2).folder)))
    assert "Not tested here: other teachers" in page.plain


def test_unpaired_patients_are_named(copied_run) -> None:
    stored = read_json(copied_run / "comparison.json")
    stored["gains"][0]["unpaired"] = ["case_001", "case_002"]
    write_json(copied_run / "comparison.json", stored)
    assert "unpaired: case_001, case_002" in Page(render(read_run(copied_run))).plain


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("'/home/o'brien/a.nii' is cut; it's gone.", "'a.nii' is cut; it's gone."),
        ("Cannot read /data/Jane Doe/scan.nii: cut.", "Cannot read scan.nii: cut."),
        ("'\\\\srv\\jane doe\\x.nii' is cut", "'x.nii' is cut"),
        ("the run's '/a/b' and 'c' are not '/d/e f/'", "the run's 'b' and 'c' are not 'e f'"),
        ("copy /a/b to /c/d, or 3/4 of it", "copy b to d, or 3/4 of it"),
    ],
)
def test_paths_become_names(text, expected) -> None:
    assert wording.without_paths(text) == expected


def test_page_names_no_place_of_the_machine(finished_run, text) -> None:
    assert str(finished_run.folder) not in text
    assert "/home/" not in text
    assert "somebody" not in text


def test_pictures_say_what_they_show(page) -> None:
    labels = page.values("aria-label")
    assert any("distilled with spleen, left kidney. Dice 0." in label for label in labels)
    assert sum(": input" in label for label in labels) == 3
    assert "the patient's right is on the left" in page.plain
    assert all(f"{rank}:" in page.plain.replace(" :", ":") for rank in ("Best", "Median", "Worst"))
    # One picture each of input, truth, teacher, control and distilled; the slice is stored once.
    assert sum(tag == "image" for tag, _ in page.elements) == 3
    assert len(re.findall(r"#slice-\d", " ".join(page.values("href")))) == 3 * 4


def test_pictures_are_true_to_the_spacing(page) -> None:
    image = next(found for tag, found in page.elements if tag == "image")
    assert (float(image["width"]), float(image["height"])) == (31.0, 46.0)
    assert "scale(0.5 1.0)" in page.values("transform")


def test_photographs_have_no_side(fake_run) -> None:
    made = fake_run(kind="colour", classes=("vessel",), patients=2, seeds=(0,), orientation="LPS")
    text = render(read_run(made.folder))
    assert "patient's right" not in text
    assert "data:image/" in text


def test_class_that_no_patient_has_is_a_dash(copied_run) -> None:
    stored = read_json(copied_run / "comparison.json")
    for model in stored["models"]:
        model["classes"][1]["intervals"] = {}
    write_json(copied_run / "comparison.json", stored)
    page = Page(render(read_run(copied_run)))
    assert "left kidney – – – collapsed, seed 1 – " in page.plain
    for model in stored["models"][1:]:
        model["classes"][1]["intervals"] = model["classes"][0]["intervals"]
    write_json(copied_run / "comparison.json", stored)
    page = Page(render(read_run(copied_run)))
    assert re.search(r"left kidney 4 – 0\.\d{3} ", page.plain)


def test_run_without_pictures_still_has_a_page(copied_run) -> None:
    for path in copied_run.rglob("*.nii.gz"):
        path.unlink()
    assert "no prediction kept" in render(read_run(copied_run))
    for path in copied_run.rglob("*.npz"):
        path.unlink()
    assert "keeps no pictures" in render(read_run(copied_run))


def test_names_cannot_break_out_of_the_page(fake_run) -> None:
    made = fake_run(classes=("<script>alert(1)</script>",), patients=2, seeds=(0,))
    manifest = read_json(made.folder / "manifest.json")
    manifest["study"]["description"] = '"><img src=x onerror=alert(1)>'
    write_json(made.folder / "manifest.json", manifest)
    page = Page(render(read_run(made.folder)))
    assert not {"script", "img"} & {tag for tag, _ in page.elements}
    assert "<script>alert(1)</script>" in page.plain


def test_same_run_gives_the_same_bytes_and_replaces_the_page(finished_run, tmp_path, text) -> None:
    target = tmp_path / "report.html"
    target.write_text("old", encoding="utf-8")
    assert write_report(finished_run.folder, target) == target
    assert target.read_text(encoding="utf-8") == text
    assert len(text) < 1_000_000


def test_unfinished_run_leaves_no_page(copied_run, tmp_path) -> None:
    (copied_run / "comparison.json").unlink()
    with pytest.raises(RunError, match="is missing"):
        write_report(copied_run, tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_missing_extra_is_answered(finished_run, monkeypatch) -> None:
    def absent(name: str) -> None:
        raise ModuleNotFoundError(name=name)

    monkeypatch.setattr(errors.importlib, "import_module", absent)
    with pytest.raises(MissingExtraError, match=r"pip install 'medstill\[report\]'"):
        render(read_run(finished_run.folder))


def test_charts_follow_the_colours_of_the_page() -> None:
    svg = curve_chart(
        [Line("control", [1, 2], [0.1, 0.2]), Line("distilled", [1, 2], [0.2, 0.4])], alt='a "b"'
    )
    assert svg.startswith('<svg class="chart" role="img" aria-label="a &quot;b&quot;" viewBox="0 0')
    assert "var(--control)" in svg
    assert "var(--distilled)" in svg
    assert "var(--teacher)" not in svg
    assert "currentColor" in svg
    assert not re.search("#0[0-9a-f]0[0-9a-f]0[0-9a-f]", svg)
    assert "<style" not in svg
    assert "<metadata" not in svg


@pytest.mark.parametrize(
    ("higher_is_better", "kinds"), [(True, ("distilled",)), (False, ("control",))]
)
def test_paired_lines_take_the_colour_of_the_better_arm(higher_is_better, kinds) -> None:
    svg = paired_chart(
        {"a$1$": 1.0, "b": 2.0, "only here": 9.0},
        {"a$1$": 1.5, "b": 2.5},
        alt="",
        higher_is_better=higher_is_better,
    )
    found = {kind for kind in ("control", "distilled") if f"var(--{kind})" in svg}
    assert found == set(kinds)
    assert ">a$1$<" in svg
    assert "only here" not in svg


def test_many_patients_are_not_named() -> None:
    values = {f"p{index}": index / 40 for index in range(40)}
    assert "p7" not in paired_chart(values, values, alt="")
