"""Names of the networks of a run: the teacher, and every student, arm and seed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from medstill.config import Study


@dataclass(frozen=True, order=True)
class ModelRef:
    """One trained network of a run: the teacher, or a student of one arm and seed."""

    arm: str
    """`teacher`, `control` or `distilled`."""
    student: str = ""
    seed: int = 0

    @property
    def name(self) -> str:
        """Name in logs and tables, and path below the run folder."""
        if self.arm == "teacher":
            return "teacher"
        return f"students/{self.student}/{self.arm}/seed-{self.seed}"

    def folder(self, run: Path) -> Path:
        """Folder of this network in a run folder."""
        return run / self.name


TEACHER = ModelRef("teacher")


def student_refs(study: Study) -> tuple[ModelRef, ...]:
    """Every student of a study: each network, control and distilled, each seed."""
    return tuple(
        ModelRef(arm, student.called, seed)
        for student in study.students
        for arm in ("control", "distilled")
        for seed in study.seeds
    )
