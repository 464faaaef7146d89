"""Keep the figures of finished runs in results/ and write docs/results.md from them.

python scripts/write_results.py                       # docs/results.md from results/*.json
python scripts/write_results.py RUN COMMIT MINUTES    # first collect a run folder
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "results"
PAGE = ROOT / "docs" / "results.md"
METRICS = (("dice", "Dice", 3), ("hd95_mm", "HD95 mm", 1), ("nsd", "NSD", 3))

HEAD = """# Results

Measured, not promised. Written by `python scripts/write_results.py` from the files in `results/`; a
test checks that it is current. Means over test patients of the mean over foreground classes and
seeds, on the grid of the scans; in brackets the bootstrap interval over patients. A run has one
teacher and one split, so the intervals include neither the luck of the teacher nor of the split.
"""


def collect(run: Path, commit: str, minutes: float) -> Path:
    """Copy what a table needs from a finished run folder to `results/`."""
    manifest = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
    split = json.loads((run / "split.json").read_text(encoding="utf-8"))
    facts = {
        stage["result"]["facts"]["name"]: stage["result"]["facts"]
        for stage in map(
            _json, [run / "teacher/stage.json", *run.glob("students/*/*/*/stage.json")]
        )
    }
    content = {
        "commit": commit,
        "minutes": minutes,
        "study": manifest["study"]["name"],
        "study_hash": manifest["study_hash"],
        "data_hash": split["data_hash"],
        "versions": manifest["versions"],
        "patients": {part: len(split[part]) for part in ("train", "student", "validation", "test")},
        "validation": {
            path.parent.relative_to(run).as_posix(): {
                "dice": _json(path)["result"]["best_dice"],
                "step": _json(path)["result"]["best_step"],
                "collapsed": _json(path)["result"]["collapsed"],
            }
            for path in [run / "teacher/stage.json", *sorted(run.glob("students/*/*/*/stage.json"))]
        },
        "facts": {
            name: {key: fact[key] for key in ("parameters", "macs", "size")}
            for name, fact in facts.items()
        },
        "comparison": _json(run / "comparison.json"),
    }
    target = RESULTS / f"{content['study']}.json"
    target.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return target


def page() -> str:
    """The text of docs/results.md."""
    return "\n".join([HEAD, *(_section(_json(path)) for path in sorted(RESULTS.glob("*.json")))])


def _section(result: dict[str, Any]) -> str:
    comparison = result["comparison"]
    seeds = max(len(model["seeds"]) for model in comparison["models"])
    counts = result["patients"]
    note = ROOT / "results" / f"{result['study']}.md"
    return "\n".join(
        [
            f"## {result['study']}",
            "",
            f"`medstill run studies/{result['study']}.yaml --data DATA --out RUN`, commit "
            f"`{result['commit']}`, {result['minutes']:.0f} minutes on two cores. Study "
            f"`{result['study_hash']}`, data `{result['data_hash'][:16]}`; torch "
            f"{result['versions'].get('torch', '-')}. Patients: {counts['train']} train the "
            f"teacher, {counts['student']} of them are labelled for the students, "
            f"{counts['validation']} validate, {counts['test']} test. "
            f"{seeds} seed{'s' if seeds > 1 else ''} for each student.",
            "",
            *_models(result),
            "",
            *_gains(comparison),
            "",
            *_validation(result),
            *([note.read_text(encoding="utf-8").rstrip(), ""] if note.exists() else []),
        ]
    )


def _models(result: dict[str, Any]) -> list[str]:
    confidence = f"{result['comparison']['confidence']:.0%}"
    lines = [
        "| model | parameters | "
        + " | ".join(f"{title} ({confidence})" for _, title, _ in METRICS)
        + " | missed | invented | n |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for model in result["comparison"]["models"]:
        values = [_interval(model["intervals"].get(key), digits) for key, _, digits in METRICS]
        parameters = f"{result['facts'][model['student']]['parameters']:,}"
        counts = (str(model["counts"]["missed"]), str(model["counts"]["invented"]))
        cells = (f"{model['student']} {model['arm']}", parameters, *values, *counts)
        lines.append(f"| {' | '.join(cells)} | {model['n_patients']} |")
    return lines


def _gains(comparison: dict[str, Any]) -> list[str]:
    lines = [
        "| distilled minus | metric | difference "
        f"({comparison['confidence']:.0%}) | better / worse "
        "| p | p (Holm) | verdict |",
        "|---|---|---:|---:|---:|---:|---|",
    ]
    digits = {key: places for key, _, places in METRICS}
    for gain in comparison["gains"]:
        found, up = gain["comparison"], gain["higher_is_better"]
        higher, lower = found["higher"], found["lower"]
        better, worse = (higher, lower) if up else (lower, higher)
        lines.append(
            f"| {gain['student']} {gain['control']} | {gain['metric']} | "
            f"{_interval(found['difference'], digits[gain['metric']], sign=True)} | "
            f"{better} / {worse} of {found['n']} | {found['p_value']:.3f} | {gain['p_holm']:.3f} | "
            f"{gain['verdict']} |"
        )
    return lines


def _validation(result: dict[str, Any]) -> list[str]:
    rows = [
        f"{name.removeprefix('students/')} {row['dice']:.3f} (step {row['step']})"
        for name, row in result["validation"].items()
    ]
    return ["Validation Dice of the chosen checkpoints: " + ", ".join(rows) + ".", ""]


def _interval(interval: dict[str, Any] | None, digits: int, *, sign: bool = False) -> str:
    if interval is None:
        return "-"
    form = f"{'+' if sign else ''}.{digits}f"
    mean, low, high = (format(interval[key], form) for key in ("mean", "low", "high"))
    return f"{mean} ({low} to {high})"


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def main() -> None:
    """Collect a run if one is given, then write the page."""
    if len(sys.argv) == 4:
        collect(Path(sys.argv[1]), sys.argv[2], float(sys.argv[3]))
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
