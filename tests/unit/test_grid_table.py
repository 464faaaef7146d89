"""The tables of a grid as Markdown, from scores that are known."""

import pytest
from grid_scores import CLASSES, entry, grid

from medstill.config import EvaluationConfig
from medstill.evaluation.grid import GridEntry, summarise_grid
from medstill.evaluation.gridtable import Beside, table_markdown
from medstill.evaluation.gridwords import sentence

QUICK = EvaluationConfig(resamples=999)
FOLDS = {"0": ("a", "b", "c", "d"), "1": ("e", "f", "g", "h")}
AXES = {"fold": ("0", "1"), "loss": ("none", "kl")}
FACTS = {"compact": {"parameters": 57_607}, "unet-t1": {"parameters": 2_707_058}}


def dice(patient, fold, seed, arm, loss):
    place = "abcdefgh".index(patient)
    if arm == "teacher":
        return 0.9, 0.8
    gain = (0.05 + 0.01 * place) * (arm == "distilled") * (loss == "kl")
    return 0.4 + gain + 0.02 * place, 0.3 + gain


@pytest.fixture(scope="module")
def summary():
    entries = grid(dice, folds=FOLDS, seeds=(0, 1), losses=("none", "kl"))
    return summarise_grid("losses", AXES, ["fold"], entries, QUICK, missing=["fold-2_loss-kl"])


def rows(text, column):
    """The head and the lines of the table that has a column, as cells."""
    blocks = [block.splitlines() for block in text.split("\n\n")]
    (found,) = [block for block in blocks if f"| {column} |" in block[0]]
    head, _, *lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in found]
    return head, lines


def test_the_main_table_has_every_model_once(summary):
    head, models = rows(table_markdown(summary, FACTS), "parameters")
    assert head[:4] == ["loss", "network", "arm", "parameters"]
    assert [row[:4] for row in models] == [
        ["all", "unet-t1", "teacher", "2,707,058"],
        ["all", "compact", "control", "57,607"],
        ["none", "compact", "distilled", "57,607"],
        ["kl", "compact", "distilled", "57,607"],
    ]
    assert models[0][4].startswith("0.850")
    assert {row[-1] for row in models} == {"8"}
    assert models[1][-2] == "2"


def test_every_comparison_is_told_in_words(summary):
    gains = [g for g in summary.gains if g.row == "loss-kl compact"]
    text = sentence(gains)
    assert text.startswith(
        "**loss-kl compact**, distilled against control (n = 8): Dice better by 0.085 (95% +0.0"
    )
    assert "; HD95 better by 8.5 mm (95% -" in text
    assert f"* {text}" in table_markdown(summary, FACTS)


def test_what_does_not_hold_says_what_would_have_been_found(summary):
    gain = next(g for g in summary.gains if g.row == "loss-kl compact")
    weak = gain.model_copy(update={"verdict": "no difference shown", "p_holm": 0.2})
    assert "no difference shown (+0.085, 95% +0.0" in sentence([weak])
    assert "p after Holm 0.200, by itself p 0.0" in sentence([weak])
    found = gain.comparison.model_copy(update={"p_value": 0.2})
    weaker = weak.model_copy(update={"comparison": found, "detectable": 0.0312})
    assert "p after Holm 0.200, detectable 0.031)" in sentence([weaker])


def test_the_gains_show_counts_in_the_direction_that_is_better(summary):
    _, gains = rows(table_markdown(summary, FACTS), "p (Holm)")
    hd95 = next(row for row in gains if row[0] == "loss-kl compact" and row[2] == "HD95 mm")
    assert hd95[3].startswith("-8.5 (")
    assert hd95[4] == "8 / 0 of 8"
    assert hd95[-1] == "better"


def test_the_mixed_view_has_a_column_for_each_fold_seed_and_source(summary):
    head, lines = rows(table_markdown(summary, FACTS), "sd by patient")
    assert head[3:7] == ["fold 0", "fold 1", "seed 0", "seed 1"]
    assert head[7:] == ["sd by patient", "sd by fold", "sd by seed", "sd by rest"]
    assert lines[2][:3] == ["loss-kl compact", "distilled - control", "Dice"]
    assert lines[2][3:5] == ["+0.065 (4)", "+0.105 (4)"]
    other = summary.model_copy(update={"gains": tuple(reversed(summary.gains))})
    turned = [gain.model_copy(update={"levels": gain.levels[::-1]}) for gain in other.gains]
    head, _ = rows(
        table_markdown(other.model_copy(update={"gains": tuple(turned)}), FACTS), "sd by patient"
    )
    assert head[3:7] == ["fold 0", "fold 1", "seed 0", "seed 1"], "whichever row comes first"


def test_classes_have_dice_and_distance(summary):
    text = table_markdown(summary, FACTS)
    assert f"| loss | Dice / HD95 mm | {' | '.join(CLASSES)} |" in text
    assert "| all | unet-t1 teacher | 0.900 / 10.0 | 0.800 / 20.0 |" in text


def test_names_of_classes_are_no_markup():
    names = ("a|b <img src=x>", "cyst")
    entries = [
        GridEntry(
            point="p",
            values={},
            entry=entry("compact", arm, 0, {"x": [0.5, 0.6]}, classes=names, collapsed=names),
        )
        for arm in ("control", "distilled")
    ]
    text = table_markdown(summarise_grid("g", {}, [], entries, QUICK), {})
    assert "| Dice / HD95 mm | a/b &lt;img src=x> | cyst |" in text
    assert "seed 0: a/b &lt;img src=x>, cyst" in text
    assert "<" not in text


def test_what_is_missing_or_died_is_said(summary):
    dead = {"collapsed": ("control, fold 1, seed 0: spleen",)}
    rows = tuple(row.model_copy(update=dead) for row in summary.rows)
    died = summary.model_copy(update={"rows": rows, "notes": ("Mind this.",)})
    text = table_markdown(died, FACTS)
    assert (
        "* **Collapsed classes** (validation Dice under .05): control, fold 1, seed 0: spleen "
        "(loss-none compact, loss-kl compact)."
    ) in text
    assert text.endswith("* Mind this.\n\n* Not finished: fold-2_loss-kl.\n")


def test_figures_of_others_stand_beside_and_never_between(summary):
    cells = {("compact", "control", ""): ".715", ("compact", "distilled", "unet-t1"): ".772"}
    text = table_markdown(summary, FACTS, beside=Beside("other data", cells))
    head, models = rows(text, "parameters")
    assert head[-1] == "other data"
    assert [(row[2], row[-1]) for row in models] == [
        ("teacher", "-"),
        ("control", ".715"),
        ("distilled", ".772"),
        ("distilled", ".772"),
    ]


def test_facts_of_one_row_go_before_those_of_a_name(summary):
    facts = {**FACTS, "loss-kl compact: compact": {"parameters": 1_234}}
    text = table_markdown(summary, facts)
    assert "| kl | compact | distilled | 1,234 |" in text
    assert "| - |" in table_markdown(summary, {})


def test_equal_summaries_give_equal_bytes_and_json_keeps_them(summary):
    again = type(summary).model_validate_json(summary.model_dump_json())
    assert table_markdown(again, FACTS) == table_markdown(summary, FACTS)


def test_a_grid_of_one_row_and_one_class_has_no_needless_column():
    entries = [
        GridEntry(
            point="only",
            values={"fold": "0"},
            entry=entry("compact", arm, 0, {"a": (0.5,), "b": (0.6,)}, classes=("spleen",)),
        )
        for arm in ("control", "distilled")
    ]
    text = table_markdown(summarise_grid("g", {"fold": ("0",)}, ["fold"], entries, QUICK), FACTS)
    assert "| network | arm |" in text
    assert "Dice / HD95" not in text
