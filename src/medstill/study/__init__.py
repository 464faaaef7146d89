"""Studies: who runs the jobs, and a live view of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medstill.lazy import lazy_names

if TYPE_CHECKING:
    from medstill.study.live import watch
    from medstill.study.runner import SideBySide, perform_for

__all__ = ["SideBySide", "perform_for", "watch"]

__getattr__ = lazy_names(
    __name__,
    {
        "SideBySide": "medstill.study.runner",
        "perform_for": "medstill.study.runner",
        "watch": "medstill.study.live",
    },
)
