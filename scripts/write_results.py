"""Keep the figures of finished runs in results/ and write docs/results.md from them.

python scripts/write_results.py                       # docs/results.md from results/
python scripts/write_results.py RUN COMMIT MINUTES    # first collect a run folder
python scripts/write_results.py GRID COMMIT           # first collect the finished runs of a grid
python scripts/write_results.py --anew                # make the tables of all grids again
python scripts/write_results.py --check               # fail when something is not current

results/_summary.md, written by hand, stands at the head of the page: what the figures say together.
A run is one file, results/STUDY.json. A grid is a folder, results/GRID/, with one file per run:
more may be collected later, and none that is there is changed. Its tables take a while to compute
and are kept beside its runs, with the hash of these.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from medstill.errors import MedstillError
from medstill.evaluation.archive import GRID_FILE, GridFacts, KeptRun, load_runs, runs_hash
from medstill.evaluation.collecting import collect as collect_grid
from medstill.evaluation.gridtable import Beside
from medstill.evaluation.keptpage import grid_heading, grid_tables
from medstill.study.gridfile import load_grid
from medstill.study.points import expand

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "results"
PAGE = ROOT / "docs" / "results.md"
TABLE_FILE = "_table.md"
SUMMARY_FILE = "_summary.md"
STUDIES = ROOT / "studies"
GRIDS = (
    "thesis-table",
    "thesis-scales",
    "thesis-losses",
    "label-fraction",
    "teacher-tasks",
    "candidates",
    "recommended",
    "recommended-organs",
    "recommended-hippocampus",
    "controls",
    "thesis-table-hippocampus",
    "thesis-scales-hippocampus",
    "thesis-losses-hippocampus",
    "label-fraction-hippocampus",
    "teacher-tasks-hippocampus",
    "controls-hippocampus",
    "compact-designs",
    "compact-designs-organs",
    "compact-designs-organs-recommended",
    "compact-designs-organs-time",
)
"""The studies of many runs, in the order of the page."""
METRICS = (("dice", "Dice", 3), ("hd95_mm", "HD95 mm", 1), ("nsd", "NSD", 3))

HEAD = """# Results

Measured, not promised. Written by `python scripts/write_results.py` from the files in `results/`; a
test checks that it is current. Means over test patients of the mean over foreground classes and
seeds, on the grid of the scans; in brackets the bootstrap interval over patients. A run has one
teacher and one split, so the intervals include neither the luck of the teacher nor of the split. A
study of many runs pools its folds; it has one teacher a fold, and its intervals hold for these.
"""

TABLE_4_2 = Beside(
    "thesis, Table 4.2 (other data: MSD spleen; pooled over all pixels; one seed)",
    {
        ("unet-s1", "control", ""): "Dice .715, IoU .557",
        ("unet-s2", "control", ""): "Dice .770, IoU .627",
        ("unet-s1", "distilled", "unet-t1"): "Dice .772, IoU .629",
        ("unet-s2", "distilled", "unet-t1"): "Dice .794, IoU .659",
        ("unet-s1", "distilled", "transunet-t2"): "Dice .767, IoU .623",
        ("unet-s2", "distilled", "transunet-t2"): "Dice .793, IoU .658",
    },
)
BESIDE = {"thesis-table": TABLE_4_2, "thesis-table-hippocampus": TABLE_4_2}
"""Grid -> figures of others on other data, as a column beside ours."""


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
    single = [_section(_json(path)) for path in sorted(RESULTS.glob("*.json"))]
    note = RESULTS / SUMMARY_FILE
    summary = note.read_text(encoding="utf-8") if note.exists() else ""
    return "\n".join([HEAD, summary, *_progress(), *map(_grid_section, _grids()), *single])


def _progress() -> list[str]:
    """How much of each study was run."""
    lines = ["## What was run", "", "| study | asks | runs finished |", "|---|---|---:|"]
    for name in GRIDS:
        grid = load_grid(STUDIES / f"{name}.yaml")
        kept = {run.point for run in load_runs(RESULTS / name)[1]} if _kept(name) else set()
        points = [point.name for point in expand(grid)]
        title = f"[{name}](#{name})" if kept else name
        count = sum(point in kept for point in points)
        lines.append(f"| {title} | {grid.description} | {count} of {len(points)} |")
    return [*lines, ""]


def _kept(name: str) -> bool:
    return (RESULTS / name / GRID_FILE).exists()


def stale() -> list[str]:
    """Grids whose tables were made from other runs than those that are there."""
    return [f.name for f in _grids() if _head_of_table(f) != _mark(*load_runs(f))]


def write_table(folder: Path) -> None:
    """Compute the tables of a grid's kept runs and keep them beside these."""
    grid, runs = load_runs(folder)
    text = grid_tables(grid, runs, beside=BESIDE.get(grid.name))
    (folder / TABLE_FILE).write_text(f"{_mark(grid, runs)}\n\n{text}", encoding="utf-8")


def _grids() -> list[Path]:
    found = {path.parent.name for path in RESULTS.glob(f"*/{GRID_FILE}")}
    ordered = [name for name in GRIDS if name in found]
    return [RESULTS / name for name in (*ordered, *sorted(found.difference(ordered)))]


def _mark(grid: GridFacts, runs: tuple[KeptRun, ...]) -> str:
    return f"<!-- of {len(runs)} runs, {runs_hash(grid, runs)} -->"


def _head_of_table(folder: Path) -> str:
    path = folder / TABLE_FILE
    return path.read_text(encoding="utf-8").partition("\n")[0] if path.exists() else ""


def _grid_section(folder: Path) -> str:
    note = folder.with_suffix(".md")
    tables = (folder / TABLE_FILE).read_text(encoding="utf-8").partition("\n")[2]
    parts = [tables, *([note.read_text(encoding="utf-8")] if note.exists() else [])]
    return "\n\n".join([grid_heading(*load_runs(folder)), *map(str.strip, parts)]) + "\n"


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


def main() -> int:
    """Collect a run or a grid if one is given, then write the page; or check it."""
    arguments = sys.argv[1:]
    if arguments == ["--check"]:
        old = [*stale(), *([] if PAGE.read_text(encoding="utf-8") == page() else [PAGE.name])]
        if old:
            sys.stdout.write(
                f"Not current: {', '.join(old)}. Write anew: python scripts/write_results.py\n"
            )
        return bool(old)
    anew = arguments == ["--anew"]
    if len(arguments) == 3:
        collect(Path(arguments[0]), arguments[1], float(arguments[2]))
    elif len(arguments) == 2:
        out = Path(arguments[0])
        added, unfinished = collect_grid(
            out, RESULTS / _json(out / "grid.json")["name"], arguments[1]
        )
        sys.stdout.write(f"{len(added)} runs are new, {len(unfinished)} are not finished.\n")
    elif arguments and not anew:
        sys.stdout.write(__doc__)
        return 2
    for folder in _grids() if anew else [RESULTS / name for name in stale()]:
        write_table(folder)
    PAGE.write_text(page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except MedstillError as error:
        sys.exit(str(error))
