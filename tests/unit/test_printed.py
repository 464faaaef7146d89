"""What tables and pages print of numbers and of names that others chose."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from grid_scores import entry
from rich.console import Console

from medstill import terminal, terminal_study
from medstill.config import EvaluationConfig
from medstill.evaluation.comparison import summarise
from medstill.printed import p_text, percent
from medstill.study.status import GridState, RunState


@pytest.mark.parametrize(
    ("p", "confidence", "text"),
    [
        (0.0, 0.95, "< 0.001"),
        (0.0009996, 0.95, "< 0.001"),
        (0.0123, 0.95, "0.012"),
        (0.0497, 0.95, "0.0497"),
        (0.05, 0.95, "0.050"),
        (0.0503, 0.95, "0.050"),
        (0.0497, 0.975, "0.050"),
        (0.024996, 0.975, "0.024996"),
        (0.0499999999, 0.95, "< 0.05"),
        (1.0, 0.95, "1.000"),
    ],
)
def test_p_shows_on_which_side_it_is(p, confidence, text):
    assert p_text(p, confidence) == text


def test_no_confidence_becomes_certainty():
    assert [percent(one) for one in (0.95, 0.975, 0.995, 0.999)] == [
        "95%",
        "97.5%",
        "99.5%",
        "99.9%",
    ]


def printed(confidence=0.95, classes=("spleen", "b"), collapsed=(), arms=("control", "distilled")):
    patients = {f"p{number}": 0.5 + 0.001 * number for number in range(20)}
    entries = [
        entry(
            "compact",
            arm,
            0,
            {name: [dice + gain + 0.0001 * int(name[1:])] * 2 for name, dice in patients.items()},
            classes=classes,
            collapsed=collapsed,
        )
        for arm, gain in zip(arms, (0.0, 0.1), strict=True)
    ]
    summary = summarise(entries, EvaluationConfig(resamples=999, confidence=confidence))
    out = io.StringIO()
    terminal.show_summary(Console(file=out, width=200, highlight=False, markup=False), summary)
    return out.getvalue()


def test_summary_in_the_terminal_rounds_neither_confidence_nor_p():
    text = printed(confidence=0.995)
    assert "Dice (99.5% interval)" in text
    assert "100%" not in text
    assert "p < 0.001 after Holm" in text
    assert "0.000 after" not in text


def test_names_of_classes_are_no_markup_in_the_terminal():
    names = ("cyst [/left]", "cyst [left]")
    text = printed(classes=names, collapsed=names)
    assert "COLLAPSED in compact control: cyst [/left], cyst [left]" in text
    out = io.StringIO()
    result = {"facts": {"parameters": 1}, "best_step": 1, "best_dice": 0.5, "collapsed": names}
    terminal.show_training(Console(file=out, width=200, markup=False), {"teacher": result})
    assert "cyst [/left], cyst [left]" in out.getvalue()


def test_a_collapse_is_told_of_a_training_and_not_of_its_filtered_scores():
    arms = ("control", "control+largest-component")
    text = printed(collapsed=("spleen",), arms=arms)
    assert text.count("COLLAPSED") == 1


def test_the_end_of_a_run_names_its_models(tmp_path):
    out = io.StringIO()
    terminal.show_page(
        Console(file=out, width=40, markup=False), Path("a [b].html"), [Path("m [x].onnx")]
    )
    assert out.getvalue().splitlines() == [
        "Model: m [x].onnx (medstill predict m [x].onnx SCAN LABELS)",
        "Report: a [b].html",
    ]


def test_states_are_colours_and_not_markup(capsys):
    found = GridState(
        name="smoke",
        runs=(RunState(name="a [b]", state="finished", trained=3, networks=3),),
        trainings={},
        left_s=None,
    )
    terminal_study.show_status(terminal.console(), found)
    row = next(line for line in capsys.readouterr().out.splitlines() if "3 of 3" in line)
    assert row.split("3 of 3")[0].split() == ["a", "[b]", "finished"]
