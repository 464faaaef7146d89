"""A class whose validation Dice is next to nothing is named, early and at the end."""

import logging

import pytest
from judge import Judge

from medstill.runs import read_json

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_class_that_dies_is_warned_about(trained, caplog):
    judge = Judge({"liver": 0.0, "kidneys": 0.3}, {"liver": 0.6, "kidneys": 0.04})
    result = trained(judge=judge)
    assert result.collapsed == ("kidneys",)
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert any("below 0.05 at step 4 for: kidneys" in entry.getMessage() for entry in warnings)


def test_dead_classes_are_said_early_and_kept_in_the_history(trained, caplog, tmp_path):
    scores = [(0.2, 0.01), (0.0, 0.04), (0.3, 0.04), (0.04, 0.9), (0.04, 0.8)]
    judge = Judge(*({"liver": liver, "kidneys": kidneys} for liver, kidneys in scores))
    with caplog.at_level(logging.INFO, logger="medstill"):
        result = trained(judge=judge, training={"steps": 10})
    names = [["kidneys"], ["liver", "kidneys"], ["kidneys"], ["liver"], ["liver"]]
    assert [entry["dead"] for entry in result.history] == names
    assert read_json(tmp_path / "run" / "history.json")[1]["dead"] == ["liver", "kidneys"]
    assert result.collapsed == ("liver",)
    lines = [(record.levelname, record.getMessage()) for record in caplog.records]
    texts = [(level, text.split("at step ", 1)[1]) for level, text in lines if "below 0.05" in text]
    assert texts == [
        ("INFO", "2 for: kidneys (not alive so far)"),
        ("INFO", "4 for: liver (alive until step 2), kidneys (not alive so far)"),
        ("WARNING", "6 for: kidneys (not alive so far)"),
        ("WARNING", "8 for: liver (alive until step 6)"),
        ("WARNING", "10 for: liver (alive until step 6)"),
    ]
    last = [text for level, text in lines if "collapsed at step 8" in text and level == "WARNING"]
    assert len(last) == 1
    assert "liver (alive until step 6). Recipes against it: class_balance, head_prior" in last[0]


def test_classes_that_live_are_not_warned_about(trained, caplog):
    result = trained(judge=Judge(0.06))
    assert (result.collapsed, [entry["dead"] for entry in result.history]) == ((), [[], []])
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
