"""Names of the networks of a run: the teacher, and every student, arm and seed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from medstill.config import Study
from medstill.links import follow

GUIDED = ("distilled", "pseudo-labels")
"""Arms that cannot be trained without the teacher."""


@dataclass(frozen=True, order=True)
class ModelRef:
    """One trained network of a run: the teacher, or a student of one arm and seed."""

    arm: str
    """`teacher`, `control`, `distilled`, `all-labels` or `pseudo-labels`."""
    student: str = ""
    seed: int = 0

    @property
    def name(self) -> str:
        """Name in logs and tables, and path below the run folder."""
        if self.arm == "teacher":
            return "teacher"
        return f"students/{self.student}/{self.arm}/seed-{self.seed}"

    def folder(self, run: Path) -> Path:
        """Folder of this network in a run folder, or the one that the run shares with others."""
        return follow(run / self.name)


TEACHER = ModelRef("teacher")


def student_arms(study: Study) -> tuple[str, ...]:
    """Control, distilled and the study's references.

    With a label fraction of 1 the control sees all of the teacher's labels: it is then the
    reference `all-labels`, which is not trained a second time.
    """
    known = ("all-labels",) if study.label_fraction == 1 else ()
    return ("control", "distilled", *(name for name in study.references if name not in known))


def most_at_once(study: Study) -> int:
    """How many trainings of a study can run at the same time.

    The plain students run beside the teacher, or beside the students that wait for it.
    """
    refs = student_refs(study)
    guided = sum(ref.arm in GUIDED for ref in refs)
    return len(refs) - guided + max(1, guided)


def student_refs(study: Study) -> tuple[ModelRef, ...]:
    """Every student of a study: each network, each arm, each seed."""
    return tuple(
        ModelRef(arm, student.called, seed)
        for student in study.students
        for arm in student_arms(study)
        for seed in study.seeds
    )
