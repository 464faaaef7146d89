"""Reports from folders alone: HTML pages of a run and of a study of many runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medstill.lazy import lazy_names

if TYPE_CHECKING:
    from medstill.reporting.gridpage import write_grid_report
    from medstill.reporting.gridreading import is_grid
    from medstill.reporting.modelcard import write_cards
    from medstill.reporting.page import write_report

__all__ = ["is_grid", "write_cards", "write_grid_report", "write_report"]

__getattr__ = lazy_names(
    __name__,
    {
        "is_grid": "medstill.reporting.gridreading",
        "write_cards": "medstill.reporting.modelcard",
        "write_grid_report": "medstill.reporting.gridpage",
        "write_report": "medstill.reporting.page",
    },
)
