"""The page of a study of many runs: what it says, and that it loads, names and trusts nothing."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from fake_grid import LATE, FakeGrid
from html_page import Page

from medstill import pipeline
from medstill.errors import RunError
from medstill.reporting import strips, write_grid_report
from medstill.reporting.gridpage import render_grid
from medstill.reporting.gridreading import read_grid
from medstill.reporting.gridrows import networks
from medstill.reporting.plots import Point, _front, fraction_plot, pareto_plot
from medstill.reporting.records import Interval
from medstill.runs import read_json, write_json

ROW = "loss-cwd_fraction-0.25 compact"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return FakeGrid(tmp_path_factory.mktemp("grid") / "out").build().folder


@pytest.fixture(scope="module")
def study(folder):
    return read_grid(folder)


@pytest.fixture(scope="module")
def text(study):
    return render_grid(study)


@pytest.fixture(scope="module")
def page(text):
    return Page(text)


def interval(mean, low, high):
    return Interval(mean=mean, low=low, high=high, n=9, confidence=0.95, method="bca")


def changed(folder, tmp_path, change):
    """The page of a folder whose table was changed."""
    table = read_json(folder / "table.json")
    change(table)
    write_json(tmp_path / "table.json", table, sort_keys=False)
    write_json(tmp_path / "grid.json", read_json(folder / "grid.json"))
    late = f"runs/{LATE}/failure.json"
    write_json(tmp_path / late, read_json(folder / late))
    return Page(render_grid(read_grid(tmp_path)))


def test_page_loads_nothing_and_its_references_have_one_target(text, page) -> None:
    assert not re.search(r"https?://|@import|url\((?!#)", text)
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.elements}
    ids = page.values("id")
    loads = page.values("href") + page.values("src")
    assert all(load.startswith(("#", "data:image/")) for load in loads)
    assert {ref[1:] for ref in loads if ref.startswith("#")} <= set(ids)
    slices = [one for one in ids if one.startswith("worst-")]
    assert len(slices) == len(set(slices)) == sum(tag == "image" for tag, _ in page.elements)


def test_network_that_rows_share_stands_once_in_the_main_table(study) -> None:
    first = study.summary.rows[0]
    shared = [first.model("teacher"), first.model("control")]
    rows = tuple(
        row.model_copy(update={"models": (*shared, row.model("distilled"))})
        for row in study.summary.rows
        if row.student == first.student
    )
    groups = networks(replace(study, summary=study.summary.model_copy(update={"rows": rows})))
    own = [f"loss {row.values['loss']} · fraction {row.values['fraction']}" for row in rows]
    titles = [group.title for group in groups]
    assert titles == [f"{name} · compact" for name in ("loss (all) · fraction (all)", *own)]
    arms = [[model.row.arm for model in group.models] for group in groups]
    assert arms == [["teacher", "control"], *[["distilled"]] * len(rows)]
    cwd = [
        r for r in study.summary.rows if r.student == first.student and r.values["loss"] == "cwd"
    ]
    some = study.summary.model_copy(update={"rows": (*rows[:2], *cwd)})
    title = networks(replace(study, summary=some))[0].title
    assert title == "loss none · fraction (all) · compact"


def test_every_comparison_has_its_verdict_with_size_and_n(study, page) -> None:
    assert len(study.summary.gains) == 3 * 2 * 8
    for gain in study.summary.gains:
        name = {"dice": "Mean Dice", "hd95_mm": "Mean HD95"}[gain.metric]
        digits = 3 if gain.metric == "dice" else 1
        size = f"{gain.comparison.difference.mean:+.{digits}f}".replace("-", "−")
        size = re.sub(r"^[+−](0\.0+)$", r"\1", size)
        assert f"{name} {size}" in page.plain
    assert "; 12 patients): no difference shown" in page.plain
    assert "this study is too small" not in page.plain


def test_better_and_worse_are_told_apart_and_counted(folder, tmp_path) -> None:
    def change(table):
        for gain in table["gains"]:
            gain["verdict"] = "no difference shown"
            if gain["row"] == ROW:
                gain["verdict"] = "better" if gain["metric"] == "dice" else "worse"

    page = changed(folder, tmp_path, change)
    assert "1 better than their control in Dice 7 without a difference shown 0 worse" in page.plain
    assert "HD95: worse" in page.plain
    assert "Distilled against control: better ." in page.plain
    fair = "Distilled (largest component) against control (largest component): better ."
    assert fair in page.plain


def test_dice_stands_beside_hd95_parameters_macs_and_what_was_missed(study, page) -> None:
    row = next(row for row in study.summary.rows if row.student == "unet-s1")
    control = row.model("control")
    dice, hd95 = control.intervals["dice"], control.intervals["hd95_mm"]
    cells = (
        f"{dice.mean:.3f} {dice.low:.3f} to {dice.high:.3f} "
        f"{hd95.mean:.1f} {hd95.low:.1f} to {hd95.high:.1f}"
    )
    assert cells in page.plain
    assert control.counts["missed"] == 1
    assert re.search(r"12 1 of 24 0 57\.3 k 110\.0 M", page.plain)


def test_axes_that_are_not_pooled_get_tables_and_the_share_of_labels_a_curve(text, page) -> None:
    assert "By loss" in page.plain
    assert "By fraction" in page.plain
    assert "By fold and by seed" in page.plain
    assert "By fold " not in page.plain.replace("By fold and", "")
    labels = page.values("aria-label")
    curves = [one for one in labels if "over the labelled share of the training patients" in one]
    assert len(curves) == 2 * 2 * 2
    assert re.search(r"control 0\.\d+ at 25 % to 0\.\d+ at 100 %", " ".join(curves))
    assert "Labelled patients: 2 at 25 %, 8 at 100 %." in page.plain
    assert text.count('class="forest ') == 2 * (2 * (1 + 8) + 8)


def test_costs_are_plotted_when_they_are_known(folder, tmp_path, page) -> None:
    assert "Dice against parameters" in page.plain
    assert "milliseconds" not in page.plain

    def change(table):
        for number, facts in enumerate(table["facts"].values()):
            facts["milliseconds"] = 1.5 + number

    assert "Dice against milliseconds of one input" in changed(folder, tmp_path, change).plain
    without = changed(folder, tmp_path, lambda table: table.update(facts={}))
    assert "Score against cost" not in without.plain


def test_facts_are_those_of_the_run_before_those_of_the_table(tmp_path) -> None:
    made = FakeGrid(tmp_path).build()
    run = made.run("0", "none", "0.25")
    for path in run.folder.rglob("compact/*/*/stage.json"):
        stage = read_json(path)
        stage["result"]["facts"]["parameters"] = 1234
        write_json(path, stage)
    study = read_grid(tmp_path)
    found = {row.name: study.facts_of(row, row.model("control")) for row in study.summary.rows}
    assert found["loss-none_fraction-0.25 compact"].parameters == 1234
    assert found["loss-none_fraction-1.0 compact"].parameters == 57_010
    (first, *_) = study.summary.rows
    ours = study.facts["compact"].model_copy(update={"parameters": 99})
    other = replace(study, facts={**study.facts, f"{first.name}: {first.student}": ours})
    assert other.facts_of(first, first.model("control")).parameters == 99
    assert other.facts_of(first, first.model("teacher")).parameters == 43_236_036


def test_missing_runs_collapsed_classes_and_notes_are_loud(folder, tmp_path, text) -> None:
    def change(table):
        table["rows"][0]["collapsed"] = ["distilled, fold 1, seed 0: spleen"]
        table["notes"] = ["A row lacks fold 2."]

    page = changed(folder, tmp_path, change)
    assert "loss none · fraction 1.0 · compact: distilled, fold 1, seed 0: spleen" in page.plain
    assert "A row lacks fold 2." in page.plain
    assert "fold-0_loss-late_fraction-1.0 : teacher: No file 'a.nii.gz'." in page.plain
    assert "somebody" not in text
    assert str(folder) not in text
    # Folds that are not scored yet are in no row.
    assert "; each pooled over up to 2 folds" in page.plain


def test_many_runs_that_wait_are_folded_away(folder, tmp_path) -> None:
    def change(table):
        table["missing"] = [f"fold-{number}_loss-kl" for number in range(9)]

    page = changed(folder, tmp_path, change)
    assert "The 9 without a message" in page.plain


def test_worst_patients_come_with_pictures_where_a_run_has_some(study, page, text) -> None:
    model = [row.model("distilled") for row in study.summary.rows]
    lowest = min(min(one.patients["dice"].values()) for one in model)
    after = page.plain[page.plain.index("Worst cases") :]
    assert re.search(
        rf"case_\d+ loss none · fraction 0\.25 · unet-s1 distilled {lowest:.3f} ", after
    )
    assert "data:image/" in text
    found = [one for one in page.values("aria-label") if re.match(r"Case case_00\d.*: truth", one)]
    assert 1 <= len(found) <= 4
    assert len(set(found)) == len(found)


def test_a_study_of_one_class_and_one_student_still_has_a_page(tmp_path) -> None:
    made = FakeGrid(
        tmp_path,
        classes=("spleen",),
        students=("compact",),
        losses=("kl",),
        fractions=("0.5",),
        folds=1,
        patients=3,
        folders=False,
    ).build()
    page = Page(render_grid(read_grid(made.folder)))
    assert "Class by class" not in page.plain
    assert "Axis by axis" not in page.plain
    assert "1 row; each pooled over up to 1 fold." in page.plain
    # Three patients and one row: the least possible p is 1 / 2^2.
    assert "no adjusted p can be below 0.250" in page.plain


def test_names_cannot_break_out_of_the_page(tmp_path) -> None:
    made = FakeGrid(tmp_path, classes=("<script>alert(1)</script>", "b"), folders=False).build()
    grid = read_json(tmp_path / "grid.json")
    grid["description"] = '"><img src=x onerror=alert(1)>'
    write_json(tmp_path / "grid.json", grid)
    page = Page(render_grid(read_grid(made.folder)))
    assert not {"script", "img"} & {tag for tag, _ in page.elements}


def test_report_of_a_folder_is_that_of_its_kind(folder, copied_run, text) -> None:
    assert pipeline.report(folder).read_text(encoding="utf-8") == text
    assert "report of a study" not in pipeline.report(copied_run).read_text(encoding="utf-8")


def test_folder_without_a_table_is_answered(tmp_path) -> None:
    write_json(tmp_path / "grid.json", {"name": "g", "hash": "", "versions": {}, "runs": []})
    with pytest.raises(RunError, match=r"table\.json' is missing. Run 'medstill study table"):
        write_grid_report(tmp_path, tmp_path / "report.html")
    write_json(tmp_path / "table.json", {"name": "g"})
    with pytest.raises(RunError, match=r"table\.json' is damaged .*axes: Field required"):
        write_grid_report(tmp_path, tmp_path / "report.html")


def test_runs_of_a_row_are_those_of_its_values(folder, study) -> None:
    row = next(row for row in study.summary.rows if row.name == ROW)
    names = [f"fold-{fold}_loss-cwd_fraction-0.25" for fold in "01"]
    assert study.runs_of(row) == tuple(folder / "runs" / name for name in names)
    assert study.study_of(row).label_fraction == 0.25


def test_an_interval_lies_on_its_axis() -> None:
    span = strips.span_of([0.3, -0.1])
    svg = strips.forest(interval(0.1, -0.1, 0.3), span, "dice", "good")
    ends = [float(x) for x in re.findall(r'x[12]="([\d.]+)"', svg)][2:]
    assert ends == [strips.MARGIN, strips.WIDTH - strips.MARGIN]
    assert float(re.search(r'cx="([\d.]+)"', svg)[1]) == strips.WIDTH / 2
    assert 'class="forest good"' in svg
    assert "+0.100, −0.100 to +0.300" in svg
    assert strips.axis(span, "dice").count("<text") == 3
    assert strips.axis(strips.span_of([0.3, -0.001]), "dice").count("<text") == 2


@pytest.mark.parametrize(("higher", "names"), [(True, ["a", "c"]), (False, ["a", "b"])])
def test_front_holds_what_nothing_cheaper_surpasses(higher, names) -> None:
    points = [
        Point("control", "a", 1.0, interval(0.5, 0.4, 0.6)),
        Point("control", "b", 2.0, interval(0.4, 0.3, 0.5)),
        Point("control", "c", 3.0, interval(0.6, 0.5, 0.7)),
        Point("control", "d", 3.0, interval(0.55, 0.5, 0.7)),
    ]
    assert [point.network for point in _front(points, higher)] == names


def test_plots_take_the_colours_of_every_arm() -> None:
    arms = ("teacher", "control", "distilled", "all-labels", "pseudo-labels")
    points = [Point(arm, "n", 10.0, interval(0.5, 0.4, 0.6)) for arm in arms]
    svg = pareto_plot(points, alt="", x_label="x", y_label="y", higher_is_better=True)
    assert all(f"var(--{arm})" in svg for arm in arms)
    wide = [Point("control", "n", cost, interval(0.5, 0.4, 0.6)) for cost in (14_700.0, 678_000.0)]
    svg = pareto_plot(wide, alt="", x_label="x", y_label="y", higher_is_better=True)
    assert all(f">{number}<" in svg for number in ("20 k", "50 k", "100 k", "200 k", "500 k"))
    assert "× 10" not in svg
    assert "<svg" in fraction_plot([], alt="", y_label="Dice")
