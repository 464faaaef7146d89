"""One self-contained HTML page of a run: it needs no network and names no machine and no person."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from medstill.printed import p_text
from medstill.refs import student_arms
from medstill.reporting import wording
from medstill.reporting.charts import history_charts, paired_charts, speeds
from medstill.reporting.gallery import galleries
from medstill.reporting.modelcard import TEXTS, card_text, is_late
from medstill.reporting.reading import Run, facts_of, parts_of, read_run
from medstill.reporting.records import Gain, ModelRow, Training
from medstill.reporting.templating import filled, write_text

TEMPLATE = "page.html.j2"


def write_report(run: Path, page: Path) -> Path:
    """Write the report of a run.

    Args:
        run: Folder of a run that is trained and scored.
        page: The HTML file to write; replaced when it exists.

    Returns:
        `page`.

    Raises:
        RunError: A stage is missing or unfinished, or a file is damaged.
        MissingExtraError: jinja2 or matplotlib is not installed.
        StorageError: The page cannot be written.
    """
    return write_text(page, render(read_run(run)))


def render(run: Run) -> str:
    """The page of a run as HTML."""
    return filled(TEMPLATE, content_of(run))


def content_of(run: Run) -> dict[str, Any]:
    """All that the template shows, by name."""
    study, summary = run.study, run.summary
    return {
        "run": run,
        "study": study,
        "summary": summary,
        "verdicts": [_verdict(run, gain) for gain in summary.gains if gain.control == "control"],
        "beside": [
            _verdict(run, gain) for gain in summary.gains if gain.control not in wording.CONTROLS
        ],
        "references": [arm for arm in student_arms(study) if arm not in ("control", "distilled")],
        "collapsed": _collapsed(run),
        "left_out": [(one.id, wording.without_paths(one.reason)) for one in run.left_out],
        "models": [_model(run, row) for row in summary.models],
        "arm_names": wording.ARM_NAMES,
        "metric_names": wording.METRIC_NAMES,
        "class_tables": _class_tables(run),
        "pairs": paired_charts(run),
        "galleries": galleries(run),
        "histories": history_charts(run),
        "speeds": speeds(run),
        "unfinished": _still_rising(run),
        "reconstruction": _reconstruction(run),
        "parts": parts_of(run.split),
        "least_p": _least_p(run),
        "cards": [
            (student.called, kind, card_text(run, student, kind))
            for student in study.students
            for kind in TEXTS
        ],
        "configuration": yaml.safe_dump(
            study.model_dump(mode="json"), sort_keys=False, allow_unicode=True
        ),
    }


def _least_p(run: Run) -> float:
    """The smallest adjusted p that the sign-flip test can give: all patients on one side."""
    gains = run.summary.gains
    return min(1.0, len(gains) * 2.0 ** (1 - max((g.comparison.n for g in gains), default=1)))


def _verdict(run: Run, gain: Gain) -> dict[str, str]:
    interval, tie = gain.comparison.difference, gain.verdict not in ("better", "worse")
    uncertain = tie and (interval.low > 0 or interval.high < 0)
    adjusted = p_text(gain.p_holm, interval.confidence)
    return {
        "student": gain.student,
        "control": gain.control,
        "metric": gain.metric,
        "text": wording.change_text(gain, len(run.study.seeds)),
        "verdict": gain.verdict,
        "reason": f", since the adjusted p is {adjusted}" if uncertain else "",
        "tone": {"better": "good", "worse": "bad"}.get(gain.verdict, "even"),
    }


def _collapsed(run: Run) -> list[str]:
    """Each network that lost a class, with the class."""
    found = []
    for ref, training in run.trainings.items():
        who = f"{ref.student} {ref.arm}, seed {ref.seed}" if ref.student else "teacher"
        if training.collapsed:
            found.append(f"{who}: {', '.join(training.collapsed)}")
    return found


def _training_of(run: Run, row: ModelRow) -> Training:
    if row.arm == "teacher":
        return facts_of(run)
    student = next(one for one in run.study.students if one.called == row.student)
    return facts_of(run, student)


def _model(run: Run, row: ModelRow) -> dict[str, Any]:
    facts, teacher = _training_of(run, row).facts, facts_of(run).facts
    return {
        "row": row,
        "kind": row.arm.split("+")[0],
        "parameters": facts.parameters,
        "smaller": teacher.parameters / facts.parameters if row.arm != "teacher" else None,
        "macs": facts.macs,
        "field": wording.field_text(facts),
        "true": row.counts.get("scored", 0) + row.counts.get("missed", 0),
        "missed": row.counts.get("missed", 0),
        "invented": row.counts.get("invented", 0),
    }


def _class_tables(run: Run) -> list[dict[str, Any]]:
    """For each student: class -> the rows of the teacher and of every arm."""
    summary = run.summary
    teacher = next((row for row in summary.models if row.arm == "teacher"), None)
    tables = []
    for student in run.study.students:
        arms = [summary.model(student.called, arm) for arm in student_arms(run.study)]
        models = [row for row in (teacher, *arms) if row is not None]
        classes = [
            (name, [next(c for c in row.classes if c.class_name == name) for row in models])
            for name in summary.class_names
        ]
        tables.append({"student": student.called, "models": models, "classes": classes})
    return tables if len(summary.class_names) > 1 else []


def _still_rising(run: Run) -> list[str]:
    """The networks whose best validation is their last one: they may not have converged."""
    found = []
    for student, arm in dict.fromkeys((ref.student, ref.arm) for ref in run.trainings):
        trainings = [t for r, t in run.trainings.items() if (r.student, r.arm) == (student, arm)]
        late = [t for t in trainings if is_late(t)]
        if late:
            of_seeds = f"{len(late)} of {wording.plural(len(trainings), 'seed')}"
            found.append(f"{student} {arm} ({of_seeds})" if student else arm)
    return found


def _reconstruction(run: Run) -> list[tuple[str, str, str]]:
    """PSNR and SSIM: name, mean, range over the test cases."""
    if not run.reconstruction:
        return []
    rows = []
    for name, digits, values in (
        ("PSNR (dB)", 1, [row.psnr_db for row in run.reconstruction]),
        ("SSIM", 3, [row.ssim for row in run.reconstruction]),
    ):
        mean = sum(values) / len(values)
        extent = f"{min(values):.{digits}f} to {max(values):.{digits}f}"
        rows.append((name, f"{mean:.{digits}f}", extent))
    return rows
