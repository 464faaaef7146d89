"""Training: the frozen teacher, what a step computes, the Lightning module, fit and resume."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medstill.lazy import lazy_names

if TYPE_CHECKING:
    from medstill.training.assembly import (
        Material,
        build_network,
        build_teacher,
        load_student,
        load_teacher,
        load_weights,
        student_config,
        train_student,
    )
    from medstill.training.checkpoint import weights_hash
    from medstill.training.checks import check_networks
    from medstill.training.costs import Estimate, Steps, estimate, taught_images
    from medstill.training.facts import network_facts, network_table
    from medstill.training.folds import train_teachers
    from medstill.training.inference import (
        logits_function,
        reconstruction_function,
        set_threads,
    )
    from medstill.training.keys import student_key, teacher_key
    from medstill.training.memory import kept_memory
    from medstill.training.teaching import train_teacher
    from medstill.training.tuning import Pupil, TunedStudent, tune_student

__all__ = [
    "Estimate",
    "Material",
    "Pupil",
    "Steps",
    "TunedStudent",
    "build_network",
    "build_teacher",
    "check_networks",
    "estimate",
    "kept_memory",
    "load_student",
    "load_teacher",
    "load_weights",
    "logits_function",
    "network_facts",
    "network_table",
    "reconstruction_function",
    "set_threads",
    "student_config",
    "student_key",
    "taught_images",
    "teacher_key",
    "train_student",
    "train_teacher",
    "train_teachers",
    "tune_student",
    "weights_hash",
]

_HOMES = {
    "assembly": (
        "Material",
        "build_network",
        "build_teacher",
        "load_student",
        "load_teacher",
        "load_weights",
        "student_config",
        "train_student",
    ),
    "checkpoint": ("weights_hash",),
    "checks": ("check_networks",),
    "costs": ("Estimate", "Steps", "estimate", "taught_images"),
    "facts": ("network_facts", "network_table"),
    "folds": ("train_teachers",),
    "inference": ("logits_function", "reconstruction_function", "set_threads"),
    "keys": ("student_key", "teacher_key"),
    "memory": ("kept_memory",),
    "teaching": ("train_teacher",),
    "tuning": ("Pupil", "TunedStudent", "tune_student"),
}

__getattr__ = lazy_names(
    __name__,
    {name: f"{__name__}.{module}" for module, names in _HOMES.items() for name in names},
)
