"""The boxes of a study's page: what went wrong after the scores, and what still learns."""

from __future__ import annotations

from fake_grid import FakeGrid
from html_page import Page

from medstill.reporting.gridpage import render_grid
from medstill.reporting.gridreading import read_grid
from medstill.runs import read_json, write_json


def test_run_that_failed_after_its_scores_is_not_called_without(tmp_path) -> None:
    made = FakeGrid(tmp_path, students=("compact",), folds=1, patients=3, folders=False).build()
    name = "fold-0_loss-none_fraction-1.0"
    failure = {"job": "comparison", "message": "No space left.", "skipped": []}
    write_json(tmp_path / "runs" / name / "failure.json", [failure])
    found = Page(render_grid(read_grid(made.folder))).plain
    assert "1 run without scores : unfinished or failed" in found
    assert "1 run with scores, but not whole : in the tables below" in found
    assert f"{name} : comparison: No space left." in found
    assert "one a fold" not in found


def test_networks_that_still_learn_are_named(tmp_path) -> None:
    made = FakeGrid(tmp_path, students=("compact",), folds=1, patients=3).build()
    run = made.run("0", "none", "0.25")
    for name, step in (("teacher", 500), ("students/compact/control/seed-0", 4000)):
        path = run.folder / name / "stage.json"
        stage = read_json(path)
        stage["result"]["best_step"] = step
        write_json(path, stage)
    distilled = run.folder / "students" / "compact" / "distilled" / "seed-0" / "stage.json"
    stage = read_json(distilled)
    stage["result"]["best_step"] = 500
    write_json(distilled, stage)
    found = Page(render_grid(read_grid(made.folder))).plain
    assert "Perhaps still learning." in found
    assert "loss none · fraction 0.25 · compact, control (1 of 1 network)" in found
    assert "compact, distilled (" not in found
    assert "teacher (1 of" not in found
