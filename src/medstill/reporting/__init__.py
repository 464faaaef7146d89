"""The report of a run: figures and one self-contained HTML page, from the run folder alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medstill.lazy import lazy_names

if TYPE_CHECKING:
    from medstill.reporting.page import write_report

__all__ = ["write_report"]

__getattr__ = lazy_names(__name__, {"write_report": "medstill.reporting.page"})
