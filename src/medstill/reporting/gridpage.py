"""One self-contained HTML page of a study of many runs; it names no machine and no person."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from medstill.errors import RunError
from medstill.refs import TEACHER, student_refs
from medstill.reporting import gridrows, gridtables, wording
from medstill.reporting.charts import PAIRED_ARMS
from medstill.reporting.gallery import Row, row_of
from medstill.reporting.gridcharts import fraction_charts, pareto_charts, row_pairs
from medstill.reporting.gridreading import GridStudy, read_grid
from medstill.reporting.gridrecords import GridSummary
from medstill.reporting.modelcard import is_late
from medstill.reporting.reading import read_run, read_slice, read_training
from medstill.reporting.templating import filled, write_text
from medstill.runs import read_study

TEMPLATE = "grid.html.j2"
PICTURES = 4
"""Patients among the worst whose pictures are shown."""
FEW = 24
"""So many comparisons are shown at once; more are folded away."""
FEW_RUNS = 6
"""So many runs that wait for their scores are named at once."""


@dataclass(frozen=True)
class Picture:
    """The pictures of one of the worst patients."""

    title: str
    row: Row


def write_grid_report(folder: Path, target: Path) -> Path:
    """Write the report of a study of many runs.

    Args:
        folder: Folder of the study, with `grid.json` and `table.json`; pictures are taken from
            the runs below it, where they are.
        target: The HTML file to write; replaced when it exists.

    Returns:
        `target`.

    Raises:
        RunError: It is no such folder, it has no table yet, or a file is damaged.
        MissingExtraError: jinja2 or matplotlib is not installed.
        StorageError: The page cannot be written.
    """
    return write_text(target, render_grid(read_grid(folder)))


def render_grid(study: GridStudy) -> str:
    """The page of a study of many runs as HTML."""
    return filled(TEMPLATE, content_of_grid(study))


def content_of_grid(study: GridStudy) -> dict[str, Any]:
    """All that the template shows, by name."""
    summary = study.summary
    worst = gridtables.worst(summary)
    return {
        "study": study,
        "summary": summary,
        "titles": gridrows.titles(summary),
        "free": gridrows.free_axes(summary),
        "verdicts": gridtables.verdicts(summary),
        "counts": gridtables.counts(summary),
        "networks": gridrows.networks(study),
        "axis_tables": gridtables.axis_tables(summary),
        "fractions": fraction_charts(study),
        "paretos": pareto_charts(study),
        "class_tables": gridtables.class_tables(summary),
        "pairs": row_pairs(summary),
        "worst": worst,
        "pictures": pictures(study, worst),
        "spreads": gridtables.spreads(summary),
        "patients": _patients(study),
        "size": _size(study),
        "missing": _missing(study),
        "failed": _failed(study),
        "unfinished": _still_rising(study),
        "least_p": _least_p(study),
        "families": _families(summary),
        "few": FEW,
        "few_runs": FEW_RUNS,
        "metric_names": wording.METRIC_NAMES,
        "configuration": _configuration(study),
    }


def pictures(study: GridStudy, worst: Sequence[gridtables.Worst]) -> tuple[Picture, ...]:
    """The pictures of the first few different patients among the worst that a run has kept."""
    found: dict[str, Picture] = {}
    for one in worst:
        if one.patient not in found and len(found) < PICTURES:
            row = _picture(study, one, f"worst-{len(found)}")
            if row is not None:
                found[one.patient] = Picture(one.title, row)
    return tuple(found.values())


def _picture(study: GridStudy, one: gridtables.Worst, key: str) -> Row | None:
    for folder in study.runs_of(one.row):
        split = study.split_of(folder)
        cases = [case for case in split.test if split.patients.get(case, case) == one.patient]
        if not cases:
            continue
        try:
            run = read_run(folder)
        except RunError:
            # Another run of the row may be whole; a page without one picture is still a page.
            continue
        shown = read_slice(run, cases[0])
        refs = [ref for ref in student_refs(run.study) if ref.student == one.row.student]
        arms = {ref.arm: ref for ref in reversed(refs)}
        if shown is not None:
            named = {"teacher": TEACHER}
            named |= {arm: arms[arm] for arm in PAIRED_ARMS if arm in arms}
            return row_of(run, one.title, shown, named, (cases[0], key, True))
    return None


def _patients(study: GridStudy) -> int:
    """Test patients of the whole study."""
    rows = study.summary.rows
    return len({p for row in rows for m in row.models for p in m.patients.get("dice", {})})


def _size(study: GridStudy) -> str | None:
    """The input that multiply-adds are counted at, when it is the same for all."""
    facts = [study.facts_of(row, model) for row in study.summary.rows for model in row.models]
    sizes = {one.size for one in facts if one is not None}
    return " × ".join(map(str, sizes.pop())) if len(sizes) == 1 else None


def _configuration(study: GridStudy) -> tuple[str, str]:
    """Name and study of the first run that is there; both empty when none is."""
    runs = [run for row in study.summary.rows for run in study.runs_of(row)]
    if not runs:
        return "", ""
    content = read_study(runs[0]).model_dump(mode="json")
    return runs[0].name, yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def _missing(study: GridStudy) -> list[tuple[str, str]]:
    """Runs without scores, each with the message it ended with, if it ended with one."""
    return [(name, _failure(study, name)) for name in study.summary.missing]


def _failed(study: GridStudy) -> list[tuple[str, str]]:
    """Runs whose scores are in the table, but of which something later failed, with its message."""
    names = [name for name in study.failures if name not in study.summary.missing]
    return [(name, _failure(study, name)) for name in names]


def _failure(study: GridStudy, name: str) -> str:
    return wording.without_paths(study.failures.get(name, ""))


def _still_rising(study: GridStudy) -> list[str]:
    """The networks whose best validation is their last one: they may not have converged."""
    groups: dict[str, dict[Path, bool]] = {}
    for row in study.summary.rows:
        for arm, folder in study.trainings_of(row):
            # Rows share teachers, and a page says of each once that it was late.
            name = arm if arm == "teacher" else f"{gridrows.title_of(row)}, {wording.arm_name(arm)}"
            group = groups.setdefault(name, {})
            if folder not in group:
                group[folder] = is_late(read_training(folder))
    return [
        f"{name} ({sum(late.values())} of {wording.plural(len(late), 'network')})"
        for name, late in groups.items()
        if any(late.values())
    ]


def _least_p(study: GridStudy) -> float:
    """The smallest adjusted p that the sign-flip test can give: all patients on one side."""
    summary = study.summary
    found = [(g.family or summary.comparisons) * 2.0 ** (1 - g.comparison.n) for g in summary.gains]
    return min([1.0, *found])


def _families(summary: GridSummary) -> str:
    """Over what Holm's adjustment is."""
    sizes = sorted({gain.family or summary.comparisons for gain in summary.gains})
    named = ", ".join(f"{axis} {value}" for axis, value in (summary.primary or {}).items())
    apart = f", those of {named}, which the study is about, by themselves" if named else ""
    return (
        f"the rows of one comparison in one metric{apart} ({' or '.join(map(str, sizes))} at a "
        "time)"
    )
