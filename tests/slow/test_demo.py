"""The README's first command in its smallest form, and the gain of the committed demo recipe."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PHANTOM = {"PATIENTS": "8", "SIZE": "64", "SLICES": "12"}


def medstill(*arguments: str) -> str:
    """Run the installed command and return what it prints."""
    command = [sys.executable, "-m", "medstill", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_make_demo_in_its_smallest_form(tmp_path: Path) -> None:
    variables = {"DEMO": str(tmp_path / "demo"), "STUDY": "studies/smallest.yaml", **PHANTOM}
    command = ["make", "demo", *(f"{key}={value}" for key, value in variables.items())]
    environment = {**os.environ, "COLUMNS": "200"}

    first = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment
    )
    assert first.returncode == 0, first.stdout + first.stderr
    run = tmp_path / "demo" / "run"
    assert "compact: distilled against control: Dice" in first.stdout
    assert "95% interval" in first.stdout
    assert f"Report: {run / 'report.html'}" in first.stdout
    assert f"Model: {run / 'models'}" in first.stdout
    assert (run / "report.html").stat().st_size > 10_000
    assert (run / "models" / "compact.onnx").stat().st_size > 100_000

    weights = [path.stat().st_mtime_ns for path in sorted(run.rglob("best.ckpt"))]
    again = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment
    )
    assert again.returncode == 0, again.stdout + again.stderr
    assert [path.stat().st_mtime_ns for path in sorted(run.rglob("best.ckpt"))] == weights
    assert len(weights) == 3


@pytest.mark.slow
def test_mean_gain_of_the_demo_recipe_over_five_seeds(
    tmp_path: Path, record_property: pytest.FixtureRequest
) -> None:
    """Reports the gain, whatever its sign: it asserts that it was measured, not that it is good."""
    medstill("phantom", str(tmp_path / "data"), "--patients", "24")
    run = tmp_path / "run"
    medstill(
        "run",
        "studies/demo.yaml",
        "--data",
        str(tmp_path / "data"),
        "--out",
        str(run),
        "--set",
        "seeds=[0, 1, 2, 3, 4]",
    )
    gains = json.loads((run / "comparison.json").read_text())["gains"]
    gain = next(g for g in gains if g["metric"] == "dice" and g["control"] == "control")
    difference = gain["comparison"]["difference"]
    record_property("mean_dice_gain", difference)  # type: ignore[operator]
    sys.stderr.write(f"mean Dice gain over 5 seeds: {difference}\n")
    seeds = {path.name for path in (run / "students" / "compact" / "distilled").iterdir()}
    assert seeds == {f"seed-{seed}" for seed in range(5)}
    assert difference["n"] == 8
    assert difference["low"] <= difference["mean"] <= difference["high"]
