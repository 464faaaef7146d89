"""Finished runs of a grid's folder become kept runs; see `archive`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from medstill.errors import RunError
from medstill.evaluation.archive import (
    FIELDS,
    GRID_FILE,
    Kept,
    KeptRun,
    KeptScores,
    load_run,
    read_grid,
    save_grid,
    save_run,
)
from medstill.evaluation.arms import score_files
from medstill.evaluation.scores import ClassScore, ModelScores, load_scores
from medstill.refs import TEACHER, ModelRef, student_refs
from medstill.runs import is_finished, read_json, read_rows, read_stage, read_study

DIGITS = 6
"""Decimals that are kept: of shares, of mm and of ml."""


def collect(out: Path, target: Path, commit: str) -> tuple[tuple[str, ...], dict[str, str]]:
    """Keep every finished run of a grid's folder that is not kept yet; no kept run is changed.

    Args:
        out: Folder of a grid.
        target: Folder of its kept runs.
        commit: The version of the code that computed them.

    Returns:
        Names of the runs that are new, and of those that are not finished with the reason.

    Raises:
        RunError: `out` holds no grid, or a kept run is of another study now.
    """
    grid = read_grid(out / "grid.json")
    added: list[str] = []
    unfinished: dict[str, str] = {}
    for run in grid.runs:
        try:
            found = read_run(out / "runs" / run.name, run.name, dict(run.values), commit)
        except RunError as error:
            unfinished[run.name] = str(error)
            continue
        path = target / f"{run.name}.json"
        if not path.exists():
            save_run(found, path)
            added.append(run.name)
        elif load_run(path).study_hash != found.study_hash:
            raise RunError(
                f"'{path}' keeps a run of another study ({load_run(path).study_hash}, now "
                f"{found.study_hash}). Delete it to replace it, or give the study a new name."
            )
    save_grid(grid, target / GRID_FILE)
    return tuple(added), unfinished


def read_run(folder: Path, point: str, values: Mapping[str, str], commit: str) -> KeptRun:
    """What is kept of a run folder.

    Args:
        folder: A run folder, by itself or of a grid.
        point: Name of the run in its grid.
        values: Axis -> value of it.
        commit: The version of the code that computed it.

    Raises:
        RunError: A training or its test scores are not finished.
    """
    study, split = read_study(folder), read_json(folder / "split.json")
    manifest = read_json(folder / "manifest.json")
    refs = (TEACHER, *student_refs(study))
    results = {ref: _result(ref.folder(folder), ref) for ref in refs}
    names = {ref: ref.student or study.teacher.network.name for ref in refs}
    scores = [found for ref in refs for found in _read_scores(folder, ref, names[ref])]
    return KeptRun(
        point=point,
        values=dict(values),
        commit=commit,
        study_hash=manifest["study_hash"],
        data_hash=split["data_hash"],
        versions=manifest["versions"],
        patients={part: len(split[part]) for part in ("train", "student", "validation", "test")},
        evaluation=study.evaluation,
        class_names=scores[0][1].class_names,
        nsd_tolerance_mm=scores[0][1].nsd_tolerance_mm,
        facts={
            names[ref]: {key: results[ref]["facts"][key] for key in ("parameters", "macs", "size")}
            for ref in refs
        },
        networks=tuple(_kept(folder, ref, names[ref], results[ref]) for ref in refs),
        scores=tuple(kept for kept, _ in scores),
    )


def _result(folder: Path, ref: ModelRef) -> dict[str, Any]:
    """The result of a finished training whose test scores are finished too."""
    for stage in (folder, folder / "test"):
        if not is_finished(stage):
            what = "The training" if stage == folder else "The scoring"
            raise RunError(f"{what} of '{ref.name}' is not finished. Finish the run first.")
    return dict(read_stage(folder)["result"])


def _kept(folder: Path, ref: ModelRef, name: str, result: Mapping[str, Any]) -> Kept:
    history = read_rows(ref.folder(folder) / "history.json")
    steps = [0, *(entry["step"] for entry in history)]
    seconds = sum(
        (after - before) / entry["steps_per_s"]
        for before, after, entry in zip(steps, steps[1:], history, strict=False)
        if entry["steps_per_s"]
    )
    return Kept.model_validate(
        {
            "student": name,
            "arm": ref.arm,
            "seed": ref.seed,
            "validation_dice": result["best_dice"],
            "step": result["best_step"],
            "steps": steps[-1],
            "minutes": round(seconds / 60, 2),
            "collapsed": result["collapsed"],
            "weights": result["weights"],
        }
    )


def _read_scores(
    folder: Path, ref: ModelRef, name: str
) -> Iterator[tuple[KeptScores, ModelScores]]:
    for arm, file in score_files(ref.arm, ref.folder(folder) / "test").items():
        scores = load_scores(file)
        rows = [[c.case, c.patient, *map(_row, c.classes)] for c in scores.cases]
        kept = {"student": name, "arm": arm, "seed": ref.seed, "cases": rows}
        yield KeptScores.model_validate(kept), scores


def _row(score: ClassScore) -> list[Any]:
    values = (getattr(score, field) for field in FIELDS)
    return [score.state, *(None if v is None else round(v, DIGITS) for v in values)]
