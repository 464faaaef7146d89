"""Scores of predictions: overlap, surface distances, statistics over patients. No torch here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medstill.lazy import lazy_names

if TYPE_CHECKING:
    from medstill.evaluation.arms import (
        FILTERED,
        FILTERED_SCORES_FILE,
        SCORES_FILE,
        score_files,
    )
    from medstill.evaluation.comparison import Entry, Summary, summarise
    from medstill.evaluation.folders import score_folders
    from medstill.evaluation.grid import compare_rows, summarise_grid
    from medstill.evaluation.gridrecords import GridEntry, GridGain, GridRow, GridSummary, Level
    from medstill.evaluation.gridtable import Beside, table_markdown
    from medstill.evaluation.image_quality import psnr, ssim
    from medstill.evaluation.overlap import dice_by_class, mean_by_class
    from medstill.evaluation.reach import beyond_reach, comparisons_of
    from medstill.evaluation.scores import (
        CaseScore,
        ModelScores,
        load_scores,
        save_scores,
        score_case,
    )
    from medstill.evaluation.selection import (
        Selection,
        Validation,
        load_selection,
        nested_entries,
        save_selection,
        select_rows,
        selection_markdown,
    )
    from medstill.evaluation.statistics import bootstrap_interval

__all__ = [
    "FILTERED",
    "FILTERED_SCORES_FILE",
    "SCORES_FILE",
    "Beside",
    "CaseScore",
    "Entry",
    "GridEntry",
    "GridGain",
    "GridRow",
    "GridSummary",
    "Level",
    "ModelScores",
    "Selection",
    "Summary",
    "Validation",
    "beyond_reach",
    "bootstrap_interval",
    "compare_rows",
    "comparisons_of",
    "dice_by_class",
    "load_scores",
    "load_selection",
    "mean_by_class",
    "nested_entries",
    "psnr",
    "save_scores",
    "save_selection",
    "score_case",
    "score_files",
    "score_folders",
    "select_rows",
    "selection_markdown",
    "ssim",
    "summarise",
    "summarise_grid",
    "table_markdown",
]

_HOMES = {
    "arms": ("FILTERED", "FILTERED_SCORES_FILE", "SCORES_FILE", "score_files"),
    "comparison": ("Entry", "Summary", "summarise"),
    "folders": ("score_folders",),
    "grid": ("compare_rows", "summarise_grid"),
    "gridrecords": ("GridEntry", "GridGain", "GridRow", "GridSummary", "Level"),
    "gridtable": ("Beside", "table_markdown"),
    "image_quality": ("psnr", "ssim"),
    "overlap": ("dice_by_class", "mean_by_class"),
    "reach": ("beyond_reach", "comparisons_of"),
    "scores": ("CaseScore", "ModelScores", "load_scores", "save_scores", "score_case"),
    "selection": (
        "Selection",
        "Validation",
        "load_selection",
        "nested_entries",
        "save_selection",
        "select_rows",
        "selection_markdown",
    ),
    "statistics": ("bootstrap_interval",),
}

__getattr__ = lazy_names(
    __name__,
    {name: f"{__name__}.{module}" for module, names in _HOMES.items() for name in names},
)
