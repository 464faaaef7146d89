"""medstill distils a large segmentation network into a tiny one that runs on a laptop CPU.

The stages of a run, each also a command: `prepare`, `train_teacher`, `distill`, `evaluate`,
`export`, `predict`, `report`; `run` does them all. A study comes from `load_study` or is a `Study`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from medstill.lazy import lazy_names

if TYPE_CHECKING:
    from medstill.config import Study
    from medstill.errors import MedstillError
    from medstill.pipeline import (
        check,
        distill,
        evaluate,
        evaluate_masks,
        export,
        predict,
        prepare,
        report,
        run,
        train_teacher,
    )
    from medstill.studyfile import load_study

_STAGES = (
    "check",
    "distill",
    "evaluate",
    "evaluate_masks",
    "export",
    "predict",
    "prepare",
    "report",
    "run",
    "train_teacher",
)

__all__ = [
    "MedstillError",
    "Study",
    "check",
    "distill",
    "evaluate",
    "evaluate_masks",
    "export",
    "load_study",
    "predict",
    "prepare",
    "report",
    "run",
    "train_teacher",
]

__getattr__ = lazy_names(
    __name__,
    {
        **dict.fromkeys(_STAGES, "medstill.pipeline"),
        "MedstillError": "medstill.errors",
        "Study": "medstill.config",
        "load_study": "medstill.studyfile",
    },
)
