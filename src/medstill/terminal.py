"""What the commands print: tables for people, drawn by rich."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from medstill.printed import p_text, percent

PLAIN_WIDTH = 200

if TYPE_CHECKING:
    from medstill.config import Study
    from medstill.deploy.contract import Contract
    from medstill.deploy.export import ExportReport
    from medstill.deploy.metadata import ModelText
    from medstill.evaluation.comparison import Gain, ModelSummary, Summary
    from medstill.evaluation.scores import ModelScores
    from medstill.evaluation.statistics import Interval
    from medstill.networks.facts import NetworkFacts
    from medstill.training.costs import Estimate


def console() -> Console:
    """Where the commands print, [brackets] too; a file or a pipe gets lines of any length."""
    width = None if sys.stdout.isatty() else PLAIN_WIDTH
    return Console(highlight=False, markup=False, width=width)


def show_estimate(out: Console, study: Study, found: Estimate) -> None:
    """What a study will cost."""
    from medstill.training.schedule import idle_warmups

    table = new_table("training", "s / step, one thread", "steps", "trainings")
    taught = study.teacher
    once = {"teacher": taught.training.steps, "teacher pretraining": taught.pretraining.steps}
    for name, seconds in found.step_s.items():
        steps = once.get(name, study.training.steps)
        count = 1 if name in once else len(study.seeds)
        table.add_row(name, f"{seconds:.3f}", str(steps), str(count))
    out.print(table)
    out.print(
        f"Everything checked. The trainings take {duration(found.training_s)} with "
        f"{found.workers} worker(s) and {found.memory_mb:.0f} MB of memory each."
    )
    if found.cache_mb:
        out.print(f"What the teacher says is kept on disk: about {found.cache_mb:.0f} MB.")
    for text in idle_warmups(study):
        out.print(text, style="yellow", markup=False, soft_wrap=True)


def show_training(out: Console, results: Mapping[str, Mapping[str, Any]]) -> None:
    """How trainings ended."""
    table = new_table("training", "parameters", "best step", "validation Dice", "collapsed")
    for name, result in results.items():
        table.add_row(
            name,
            f"{result['facts']['parameters']:,}",
            str(result["best_step"]),
            f"{result['best_dice']:.3f}",
            ", ".join(result["collapsed"]) or "-",
        )
    out.print(table)


def show_summary(out: Console, summary: Summary, facts: Mapping[str, Any] | None = None) -> None:
    """Every model's scores and each student's gain.

    Args:
        out: Where to print.
        summary: Scores and comparisons.
        facts: Student, or `teacher` -> its facts, for the column of parameters.
    """
    from medstill.evaluation.arms import FILTERED

    level = percent(summary.confidence)
    table = new_table(
        "model", "parameters", f"Dice ({level} interval)", "HD95 mm", "NSD", "missed", "invented"
    )
    for model in summary.models:
        table.add_row(*_model_row(model, facts or {}))
    out.print(table)
    patients = len(summary.test_patients)
    out.print(f"Means over {patients} test patients; intervals are over patients, for one teacher.")
    for gain in summary.gains:
        out.print(_gain_line(gain, level))
    for model in summary.models:
        if model.arm in FILTERED.values():
            continue  # the networks of another row
        if dead := sorted({c.class_name for c in model.classes if c.collapsed_seeds}):
            text = f"COLLAPSED in {_model_name(model)}: {', '.join(dead)}"
            out.print(text, style="bold red", markup=False)


def show_scores(out: Console, scores: ModelScores) -> None:
    """Scores of a folder of masks, class by class."""
    table = new_table("class", "patients", "Dice", "IoU", "HD95 mm", "ASSD mm", "NSD", "missed")
    for name in scores.class_names:
        means = [
            _mean(scores.per_patient(name, metric))
            for metric in ("dice", "iou", "hd95_mm", "assd_mm", "nsd")
        ]
        count = str(len(scores.per_patient(name, "dice")))
        table.add_row(name, count, *means, str(scores.count("missed", name)))
    out.print(table)
    out.print("Values are compared as they are: value 1 of one mask with value 1 of the other.")


def show_export(out: Console, report: ExportReport) -> None:
    """What was written and how well it agrees."""
    out.print(f"{report.path}: {report.size_bytes / 1024:.0f} KiB, {report.precision}")
    if (tuning := report.tuning) is not None:
        dice = f"{tuning.dice_before:.4f} before, {tuning.dice_after:.4f} at {tuning.chosen_step}"
        out.print(f"Tuned for {tuning.steps} steps: validation Dice in 8 bits {dice}.")
    if (found := report.verification) is None:
        out.print("Not verified: nobody knows whether it agrees with PyTorch.", style="yellow")
        return
    out.print(
        f"On {found.cases} validation cases: labels agree with PyTorch at "
        f"{found.label_agreement:.4%} of {found.voxels} voxels, mean Dice {found.dice:.4f} against "
        f"{found.dice_pytorch:.4f} ({found.dice_change:+.4f}), greatest logit difference "
        f"{found.largest_logit_difference:.2g}."
    )
    if (files := report.files) is not None:
        out.print(
            f"From file to file, on scans made of them: labels are medstill's at "
            f"{files.label_agreement:.4%} of {files.voxels} voxels, mean Dice {files.dice:.4f} "
            f"against {files.dice_medstill:.4f}."
        )


def show_receivers(out: Console, answers: Mapping[str, str | None]) -> None:
    """Which receivers of a DICOM node answer an echo."""
    for aet, problem in answers.items():
        text = "answers" if problem is None else f"does not answer: {problem}"
        style = None if problem is None else "red"
        out.print(f"receiver {aet} {text}", style=style, markup=False, soft_wrap=True)


def show_page(out: Console, page: Path, models: Sequence[Path] = ()) -> None:
    """Where the report is, and the exported students."""
    for model in models:
        text = f"Model: {model} (medstill predict {model} SCAN LABELS)"
        out.print(text, markup=False, soft_wrap=True)
    out.print(f"Report: {page}", markup=False, soft_wrap=True)


def show_model(out: Console, text: ModelText, contract: Contract) -> None:
    """What an exported file says about itself, and what its graph is made of, as JSON."""
    file = {
        "bytes": text.size_bytes,
        "opset": text.opset,
        "stored_numbers": text.weights,
        "operators": text.operators,
    }
    out.print_json(data={"file": file, **contract.model_dump(mode="json")})


def show_networks(out: Console, rows: Sequence[tuple[NetworkFacts, str]]) -> None:
    """Networks with what they cost and how far they see."""
    table = new_table(
        "network", "parameters", "MACs", "at size", "receptive field", "size multiple"
    )
    table.add_column("purpose")
    for facts, purpose in rows:
        field = " x ".join(str(edge) for edge in facts.receptive_field.size)
        table.add_row(
            facts.name,
            f"{facts.parameters:,}",
            f"{facts.macs / 1e9:.3g} G",
            " x ".join(str(edge) for edge in facts.size),
            f">= {field}" if facts.receptive_field.lower_bound else field,
            str(facts.size_multiple),
            purpose,
        )
    out.print(table)


def show_phantom(out: Console, folder: Path, patients: int) -> None:
    """Where the phantom is."""
    out.print(f"{patients} synthetic patients in '{folder}'.", soft_wrap=True)


def new_table(first: str, *others: str) -> Table:
    """A table without lines: texts in the first column, numbers in the others."""
    table = Table(first, box=None, header_style="bold", pad_edge=False)
    for name in others:
        table.add_column(name, justify="right")
    return table


def _model_row(model: ModelSummary, facts: Mapping[str, Any]) -> tuple[str, ...]:
    known = facts.get("teacher" if model.arm == "teacher" else model.student, {})
    parameters = known.get("parameters")
    return (
        _model_name(model),
        "-" if parameters is None else f"{parameters:,}",
        interval_text(model.intervals.get("dice"), 3),
        interval_text(model.intervals.get("hd95_mm"), 1),
        interval_text(model.intervals.get("nsd"), 3),
        str(model.counts["missed"]),
        str(model.counts["invented"]),
    )


def _model_name(model: ModelSummary) -> str:
    if model.arm == "teacher":
        return f"teacher {model.student}"
    seeds = f" ({len(model.seeds)} seeds)" if len(model.seeds) > 1 else ""
    return f"{model.student} {model.arm}{seeds}"


def interval_text(interval: Interval | None, digits: int) -> str:
    """A mean with its interval."""
    if interval is None:
        return "-"
    return f"{interval.mean:.{digits}f} ({interval.low:.{digits}f} to {interval.high:.{digits}f})"


def _gain_line(gain: Gain, level: str) -> str:
    found = gain.comparison
    digits, unit = (3, "") if gain.metric == "dice" else (1, " mm")
    name = {"dice": "Dice", "hd95_mm": "HD95"}.get(gain.metric, gain.metric)
    interval = found.difference
    return (
        f"{gain.student}: {gain.arm} against {gain.control}: {name} {interval.mean:+.{digits}f}"
        f"{unit} ({level} interval {interval.low:+.{digits}f} to {interval.high:+.{digits}f}; "
        f"n = {found.n}, p {p_text(gain.p_holm, interval.confidence)} after Holm): {gain.verdict}"
    )


def _mean(values: Mapping[str, float]) -> str:
    return f"{sum(values.values()) / len(values):.3f}" if values else "-"


def duration(seconds: float) -> str:
    """A rough length of time for people."""
    minutes = round(seconds / 60)
    if minutes < 1:
        return "less than a minute"
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"
