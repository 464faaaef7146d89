"""medstill distils a large segmentation network into a tiny one that runs on a laptop CPU.

The stages of a run, each also a command: `prepare`, `train_teacher`, `distill`, `evaluate`,
`export`, `predict`, `report`; `run` does them all. A study comes from `load_study` or is a `Study`.
`run_grid` runs a study of many runs, which `load_grid` reads. `Segmenter` holds an exported network
and segments files, images and arrays.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from medstill.lazy import lazy_names

if TYPE_CHECKING:
    from medstill.config import Study
    from medstill.deploy.cases import PredictOptions
    from medstill.deploy.export import ExportOptions
    from medstill.deploy.segmenter import Segmenter
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
    from medstill.study.grid import GridOptions, run_grid
    from medstill.study.gridfile import load_grid
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
    "ExportOptions",
    "GridOptions",
    "MedstillError",
    "PredictOptions",
    "Segmenter",
    "Study",
    "check",
    "distill",
    "evaluate",
    "evaluate_masks",
    "export",
    "load_grid",
    "load_study",
    "predict",
    "prepare",
    "report",
    "run",
    "run_grid",
    "train_teacher",
]

__getattr__ = lazy_names(
    __name__,
    {
        **dict.fromkeys(_STAGES, "medstill.pipeline"),
        "ExportOptions": "medstill.deploy.export",
        "GridOptions": "medstill.study.grid",
        "MedstillError": "medstill.errors",
        "PredictOptions": "medstill.deploy.cases",
        "Segmenter": "medstill.deploy.segmenter",
        "Study": "medstill.config",
        "load_grid": "medstill.study.gridfile",
        "load_study": "medstill.studyfile",
        "run_grid": "medstill.study.grid",
    },
)
