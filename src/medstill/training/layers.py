"""Which layers of student and teacher are compared."""

from __future__ import annotations

from dataclasses import dataclass

from medstill.config import StudentConfig, Study
from medstill.networks.taps import preset_layer


@dataclass(frozen=True)
class LayerPair:
    """The tapped layer of the student and of the teacher at one scale."""

    student: str
    teacher: str


def tapped_layers(study: Study, student: StudentConfig) -> dict[str, LayerPair]:
    """Scale -> layers; presets where the study names none.

    Raises:
        ConfigError: A scale without a preset and without named layers.
    """
    teacher = study.teacher.network
    return {
        scale: LayerPair(
            term.student_layer or preset_layer(student.name, scale),
            term.teacher_layer or preset_layer(teacher.name, scale),
        )
        for scale, term in study.distillation.features.items()
        if term.weight > 0
    }


def kept_names(study: Study, student: StudentConfig) -> dict[str, str]:
    """Scale -> name under which a cache keeps the teacher's features.

    Raises:
        ConfigError: A scale without a preset and without named layers.
    """
    pairs = tapped_layers(study, student)
    layers = sorted({pair.teacher for pair in pairs.values()})
    return {scale: f"feature-{layers.index(pair.teacher)}" for scale, pair in pairs.items()}
