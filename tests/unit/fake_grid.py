"""The folder of a study of many runs that nobody ran: scores are drawn, one run has pictures."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from fake_run import FakeRun
from grid_scores import entry

from medstill.config import EvaluationConfig
from medstill.evaluation.arms import FILTERED
from medstill.evaluation.grid import GridEntry, summarise_grid
from medstill.runs import write_json

GAINS = {"none": 0.0, "kl": 0.01, "cwd": 0.035, "dist": -0.03}
FACTS = {
    "unet-t1": (43_236_036, 2_400_000_000),
    "unet-s1": (57_297, 110_000_000),
    "compact": (57_010, 110_000_000),
}
LATE = "fold-0_loss-late_fraction-1.0"
"""A run that failed."""
FRACTION_LOSS = {"1.0": 0.0, "0.5": 0.03, "0.25": 0.08, "0.1": 0.2}


class FakeGrid:
    """Builds the folder; with `folders` its runs are there, one of them finished, with pictures."""

    def __init__(
        self,
        folder: Path,
        *,
        losses: Sequence[str] = ("none", "cwd"),
        fractions: Sequence[str] = ("1.0", "0.25"),
        students: Sequence[str] = ("compact", "unet-s1"),
        classes: Sequence[str] = ("spleen", "left kidney"),
        folds: int = 2,
        patients: int = 6,
        folders: bool = True,
    ) -> None:
        self.folder, self.losses, self.fractions = folder, tuple(losses), tuple(fractions)
        self.students, self.classes, self.folders = tuple(students), tuple(classes), folders
        self.folds = tuple(str(fold) for fold in range(folds))
        self.patients = patients

    def build(self) -> FakeGrid:
        """Write what the commands of a study write."""
        axes = {"fold": self.folds, "loss": self.losses, "fraction": self.fractions}
        summary = summarise_grid(
            "fake-grid",
            axes,
            ["fold"],
            [one for values in self._combinations() for one in self._entries(*values)],
            EvaluationConfig(resamples=199),
            missing=(LATE,),
        )
        facts = {name: self._facts(name) for name in (*self.students, "unet-t1")}
        table = summary.model_dump(mode="json") | {"facts": facts}
        write_json(self.folder / "table.json", table, sort_keys=False)
        write_json(self.folder / "grid.json", self._grid(axes))
        failure = {"job": "teacher", "message": "No file '/home/somebody/a.nii.gz'.", "skipped": []}
        write_json(self.folder / "runs" / LATE / "failure.json", [failure])
        if self.folders:
            for values in self._combinations():
                self.run(*values).claim()
            self.run("0", self.losses[0], self.fractions[-1]).build()
        return self

    def run(self, fold: str, loss: str, fraction: str) -> FakeRun:
        """One run of the study."""
        return FakeRun(
            self.folder / "runs" / self._name(fold, loss, fraction),
            classes=self.classes,
            students=self.students,
            patients=self.patients,
            first=int(fold) * self.patients,
            label_fraction=float(fraction),
            seeds=(0,),
        )

    def _name(self, fold: str, loss: str, fraction: str) -> str:
        return f"fold-{fold}_loss-{loss}_fraction-{fraction}"

    def _combinations(self) -> list[tuple[str, str, str]]:
        return list(itertools.product(self.folds, self.losses, self.fractions))

    def _grid(self, axes: dict[str, Sequence[str]]) -> dict[str, Any]:
        points = [
            (self._name(*values), dict(zip(axes, values, strict=True)))
            for values in self._combinations()
        ]
        late = {"fold": "0", "loss": "late", "fraction": "1.0"}
        return {
            "name": "fake-grid",
            "description": "What the loss and the labels change.",
            "hash": "fedcba9876543210",
            "versions": {"numpy": "2.0"},
            "axes": list(axes.items()),
            "pooled": ["fold"],
            "runs": [
                {"name": name, "values": list(values.items()), "networks": []}
                for name, values in [*points, (LATE, late)]
            ],
        }

    def _facts(self, name: str) -> dict[str, Any]:
        parameters, macs = FACTS[name]
        return {"name": name, "parameters": parameters, "macs": macs, "size": [16, 16]}

    def _entries(self, fold: str, loss: str, fraction: str) -> list[GridEntry]:
        found = []
        arms = ["control", "distilled", *FILTERED.values()]
        for student, arm in [
            ("unet-t1", "teacher"),
            *itertools.product(self.students, arms),
        ]:
            first = int(fold) * self.patients
            dice = {
                f"case_{number:03d}": self._dice(number, student, arm, loss, fraction)
                for number in range(first, first + self.patients)
            }
            found.append(
                GridEntry(
                    point=self._name(fold, loss, fraction),
                    values={"fold": fold, "loss": loss, "fraction": fraction},
                    entry=entry(student, arm, 0, dice, classes=self.classes),
                )
            )
        return found

    def _dice(self, number: int, student: str, arm: str, loss: str, fraction: str) -> list[float]:
        """Patients differ most, then networks; the rest is small and drawn by the names."""
        hard = 0.18 * np.random.default_rng(number).random()
        level = 0.95 - hard
        if arm != "teacher":
            level -= 0.03 + FRACTION_LOSS[fraction] * (1 + hard) + 0.05 * (student == "unet-s1")
        rest = np.random.default_rng((number, len(arm), *map(ord, loss + fraction + student)))
        level += GAINS[loss] * (arm == "distilled") + rest.normal(0, 0.008)
        drawn = [level - 0.03 * place for place in range(len(self.classes))]
        if arm == "control" and number == 1 and student == "unet-s1":
            drawn[-1] = 0.0
        return [float(np.clip(value, 0, 1)) for value in drawn]
