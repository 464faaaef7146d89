"""Finished runs of a grid become small files, and these the page of results."""

import importlib.util
import json
import re
from pathlib import Path

import pytest
from grid_scores import entry

from medstill.config import Study
from medstill.errors import RunError
from medstill.evaluation.archive import facts_of, load_run, load_runs
from medstill.evaluation.arms import FILTERED
from medstill.evaluation.collecting import collect, read_run
from medstill.evaluation.grid import summarise_grid
from medstill.evaluation.scores import save_scores
from medstill.refs import TEACHER, student_refs
from medstill.runs import open_run, write_json

FOLDS = {"0": ("a", "b", "c"), "1": ("d", "e", "f")}
LOSSES = ("none", "kl")
POINTS = [(fold, loss) for fold in FOLDS for loss in LOSSES]


def name_of(fold, loss):
    return f"fold-{fold}_loss-{loss}"


def dice(patient, ref, loss):
    if ref.arm == "teacher":
        return 0.912345678, 0.8
    place = "abcdef".index(patient)
    gain = 0.05 * (ref.arm == "distilled") * (loss == "kl") * (1 + place / 10)
    return 0.5 + 0.03 * place + gain, None if patient == "b" else 0.4 + gain


def write_run(folder, fold, loss, *, widths=None, steps=4000):
    """A run folder as it stands after `medstill run`, without a training."""
    study = Study.model_validate(
        {
            "name": f"losses-{name_of(fold, loss).replace('_', '-')}",
            "students": [{"name": "compact"}],
            "training": {"steps": steps},
            "evaluation": {"resamples": 199},
        }
    )
    open_run(folder, study)
    parts = {"train": ["x", "y"], "student": ["x"], "validation": ["z"]}
    split = {**parts, "test": list(FOLDS[fold]), "data_hash": "d" * 32}
    write_json(folder / "split.json", split)
    for ref in (TEACHER, *student_refs(study)):
        write_network(folder, ref, fold, loss, parameters=(widths or {}).get(loss, 57_607))


def write_network(folder, ref, fold, loss, *, parameters):
    shared = ref.arm != "distilled"
    result = {
        "best_dice": 0.8 + 0.01 * len(ref.arm) + 0.02 * (loss == "kl"),
        "best_step": 400,
        "collapsed": ["spleen"] if ref.arm == "control" else [],
        "weights": f"{ref.name}-{fold}" + ("" if shared else loss),
        "facts": {
            "name": ref.student or "unet-t1",
            "parameters": parameters if ref.student else 2_707_058,
            "macs": 110_000_000,
            "size": [128, 128],
            "receptive_field": {"size": [188, 188], "lower_bound": False},
        },
    }
    place = ref.folder(folder)
    history = [{"step": s, "dice": 0.7, "steps_per_s": 20 / 3} for s in (200, 400)]
    write_json(place / "history.json", history)
    write_json(place / "stage.json", {"finished": True, "hash": "", "result": result})
    write_json(place / "test" / "stage.json", {"finished": True, "hash": "", "result": {}})
    scores = entry(ref.student, ref.arm, ref.seed, {p: dice(p, ref, loss) for p in FOLDS[fold]})
    save_scores(scores.scores, place / "test" / "scores.json")
    if ref.arm in FILTERED:
        save_scores(scores.scores, place / "test" / "scores-largest-component.json")


def write_grid(out, points=POINTS, against=None, **options):
    grid = {
        "grid": {"against": against},
        "name": "losses",
        "description": "Which loss helps.",
        "hash": "0123456789abcdef",
        "versions": {},
        "axes": [["loss", LOSSES], ["fold", list(FOLDS)]],
        "pooled": ["fold"],
        "runs": [
            {"name": name_of(*p), "values": [["fold", p[0]], ["loss", p[1]]], "networks": []}
            for p in POINTS
        ],
    }
    write_json(out / "grid.json", grid)
    for fold, loss in points:
        write_run(out / "runs" / name_of(fold, loss), fold, loss, **options)


@pytest.fixture
def out(tmp_path):
    """The folder of a finished grid."""
    write_grid(tmp_path / "out")
    return tmp_path / "out"


def test_a_kept_run_gives_the_scores_of_its_folder(out):
    place = out / "runs" / "fold-0_loss-kl"
    kept = read_run(place, "fold-0_loss-kl", {"fold": "0", "loss": "kl"}, "abc1234")
    arms = [(e.entry.student, e.entry.arm) for e in kept.entries()]
    assert arms == [
        ("unet-t1", "teacher"),
        ("compact", "control"),
        ("compact", "control+largest-component"),
        ("compact", "distilled"),
        ("compact", "distilled+largest-component"),
    ]
    distilled = kept.entries()[3]
    assert (distilled.point, distilled.values) == ("fold-0_loss-kl", {"fold": "0", "loss": "kl"})
    assert distilled.entry.scores.per_patient("spleen", "dice") == {
        "a": pytest.approx(0.55),
        "b": pytest.approx(0.585),
        "c": pytest.approx(0.62),
    }
    assert distilled.entry.scores.count("empty", "left kidney") == 1
    assert [e.entry.collapsed for e in kept.entries()] == [(), ("spleen",), ("spleen",), (), ()]
    assert kept.patients == {"train": 2, "student": 1, "validation": 1, "test": 3}
    assert [v.dice for v in kept.validations()] == pytest.approx([0.89, 0.89, 0.91])
    assert {n.minutes for n in kept.networks} == {1.0}


def test_a_run_whose_distilled_student_was_never_filtered_is_kept_without_that_arm(out):
    place = out / "runs" / "fold-0_loss-kl"
    for file in place.glob("students/*/distilled/*/test/scores-largest-component.json"):
        file.unlink()
    kept = read_run(place, "fold-0_loss-kl", {"fold": "0", "loss": "kl"}, "abc1234")
    arms = [e.entry.arm for e in kept.entries()]
    assert arms == ["teacher", "control", "control+largest-component", "distilled"]


def test_a_kept_run_survives_the_disk_in_few_lines(out, tmp_path):
    collect(out, tmp_path / "kept", "abc1234")
    path = tmp_path / "kept" / "fold-0_loss-kl.json"
    place = out / "runs" / "fold-0_loss-kl"
    fresh = read_run(place, "fold-0_loss-kl", {"fold": "0", "loss": "kl"}, "abc1234")
    assert load_run(path) == fresh
    text = path.read_text(encoding="utf-8")
    assert '["a", "a", ["scored", 0.912346,' in text
    assert len([line for line in text.splitlines() if '["scored", ' in line]) == 5 * 3
    path.write_text("[]")
    with pytest.raises(RunError, match="does not hold a kept run"):
        load_run(path)


def test_kept_runs_give_the_same_statistics_as_the_folder(out, tmp_path):
    collect(out, tmp_path / "kept", "abc1234")
    grid, runs = load_runs(tmp_path / "kept")
    assert dict(grid.axes) == {"loss": ("none", "kl"), "fold": ("0", "1")}
    entries = [entry for run in runs for entry in run.entries()]
    found = summarise_grid("g", dict(grid.axes), grid.pooled, entries, runs[0].evaluation)
    gain = next(g for g in found.gains if g.row == "loss-kl compact")
    assert gain.comparison.n == 6
    assert gain.comparison.difference.mean == pytest.approx(0.05 * 1.25, abs=1e-6)


def test_a_later_call_adds_what_is_new_and_changes_nothing(out, tmp_path):
    late = out / "runs" / "fold-1_loss-kl"
    stage = late / "students/compact/distilled/seed-0/test/stage.json"
    write_json(stage, {"finished": False, "hash": "", "result": {}})
    kept = tmp_path / "kept"
    added, unfinished = collect(out, kept, "abc1234")
    assert len(added) == 3
    assert list(unfinished) == ["fold-1_loss-kl"]
    assert "scoring of 'students/compact/distilled/seed-0' is not finished" in str(unfinished)
    before = {path.name: path.read_bytes() for path in kept.iterdir()}
    write_json(stage, {"finished": True, "hash": "", "result": {}})
    assert collect(out, kept, "fff9999") == (("fold-1_loss-kl",), {})
    for name, content in before.items():
        assert (kept / name).read_bytes() == content
    assert load_run(kept / "fold-1_loss-kl.json").commit == "fff9999"
    assert collect(out, kept, "000") == ((), {})


def test_a_run_of_another_study_replaces_nothing_in_silence(out, tmp_path):
    collect(out, tmp_path / "kept", "abc1234")
    write_grid(tmp_path / "other", steps=5000)
    with pytest.raises(RunError, match=r"keeps a run of another study.*Delete it to replace it"):
        collect(tmp_path / "other", tmp_path / "kept", "abc1234")


def test_files_that_are_no_runs_of_the_grid_are_named(out, tmp_path):
    collect(out, tmp_path / "kept", "abc1234")
    (tmp_path / "kept" / "fold-7.json").write_text("{}")
    with pytest.raises(RunError, match=r"does not have: fold-7\."):
        load_runs(tmp_path / "kept")


def test_a_folder_without_a_grid_is_refused(tmp_path):
    with pytest.raises(RunError, match=r"grid\.json' cannot be read"):
        collect(tmp_path, tmp_path / "kept", "abc1234")
    write_json(tmp_path / "grid.json", {"name": "x"})
    with pytest.raises(RunError, match="does not describe a grid"):
        collect(tmp_path, tmp_path / "kept", "abc1234")


def test_facts_are_by_row_where_rows_differ(tmp_path):
    write_grid(tmp_path / "out", widths={"kl": 14_000})
    collect(tmp_path / "out", tmp_path / "kept", "abc1234")
    grid, runs = load_runs(tmp_path / "kept")
    found = {name: facts["parameters"] for name, facts in facts_of(runs, grid.pooled).items()}
    assert found["unet-t1"] == 2_707_058
    assert found["loss-none compact: compact"] == 57_607
    assert found["loss-kl compact: compact"] == 14_000
    assert not [name for name in found if name.endswith(": unet-t1")]


@pytest.fixture
def script(tmp_path, monkeypatch):
    """The script, writing into a folder of its own."""
    path = Path(__file__).resolve().parents[2] / "scripts" / "write_results.py"
    spec = importlib.util.spec_from_file_location("write_results", path)
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    monkeypatch.setattr(found, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(found, "PAGE", tmp_path / "results.md")
    return found


def call(script, monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["write_results.py", *map(str, arguments)])
    return script.main()


def test_the_page_shows_a_grid_with_its_tables_and_note(out, tmp_path, script, monkeypatch, capsys):
    assert call(script, monkeypatch, out, "abc1234") == 0
    assert "4 runs are new, 0 are not finished." in capsys.readouterr().out
    (tmp_path / "results" / "losses.md").write_text("What can be seen.\n")
    assert call(script, monkeypatch) == 0
    text = (tmp_path / "results.md").read_text(encoding="utf-8")
    assert "## losses\n\nWhich loss helps.\n\n`medstill study run studies/losses.yaml" in text
    # 2 teachers, 2 controls and 4 distilled students, though 4 runs have 12 networks.
    assert "commit `abc1234`: 4 of 4 runs with 8 different networks, 0.1 hours" in text
    assert "6 patients are tested" in text
    assert re.search(r"\| kl \| compact \| distilled - control \| [+-]0\.\d{3} .* of 6 \|", text)
    assert "Chosen for compact: **loss-kl compact**." in text
    assert "control, fold 0, seed 0: spleen (loss-none compact, loss-kl compact); control," in text
    assert text.endswith("What can be seen.\n")
    assert re.search(r"\| thesis-scales \| Every subset .* \| 0 of 90 \|", text)
    assert "<!--" not in text


def test_the_page_begins_with_what_all_studies_say(out, tmp_path, script, monkeypatch):
    call(script, monkeypatch, out, "abc1234")
    (tmp_path / "results" / "_summary.md").write_text("## In short\n\nIt helps.\n")
    assert call(script, monkeypatch, "--check") == 1
    assert call(script, monkeypatch) == 0
    text = (tmp_path / "results.md").read_text(encoding="utf-8")
    assert text.index("It helps.") < text.index("## What was run") < text.index("## losses")


def test_the_check_finds_an_old_table_and_an_old_page(out, tmp_path, script, monkeypatch, capsys):
    call(script, monkeypatch, out, "abc1234")
    assert call(script, monkeypatch, "--check") == 0
    path = tmp_path / "results" / "losses" / "fold-0_loss-kl.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["networks"][0]["validation_dice"] = 0.1
    path.write_text(json.dumps(content))
    capsys.readouterr()
    assert call(script, monkeypatch, "--check") == 1
    assert capsys.readouterr().out.startswith("Not current: losses. Write anew")
    assert call(script, monkeypatch) == 0
    assert call(script, monkeypatch, "--check") == 0
    (tmp_path / "results.md").write_text("# Results\n")
    assert call(script, monkeypatch, "--check") == 1


def test_rows_are_compared_as_the_grid_file_says(tmp_path, script, monkeypatch):
    write_grid(tmp_path / "out", against={"loss": "none"})
    call(script, monkeypatch, tmp_path / "out", "abc1234")
    text = (tmp_path / "results.md").read_text(encoding="utf-8")
    compared = r"\| kl \| compact \| distilled - distilled of loss-none compact \| .* of 6 \|"
    assert re.search(compared, text)


def test_tables_made_again_are_the_same_bytes(out, tmp_path, script, monkeypatch):
    call(script, monkeypatch, out, "abc1234")
    table = tmp_path / "results" / "losses" / "_table.md"
    before = table.read_bytes()
    table.write_text("")
    call(script, monkeypatch, "--anew")
    assert table.read_bytes() == before


def test_a_wrong_call_changes_nothing_and_explains(script, monkeypatch, capsys, tmp_path):
    assert call(script, monkeypatch, "--no-such") == 2
    assert "python scripts/write_results.py --check" in capsys.readouterr().out
    assert not (tmp_path / "results.md").exists()
