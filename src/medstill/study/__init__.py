"""Studies: one run or many, who runs the jobs, and a live view of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medstill.lazy import lazy_names

if TYPE_CHECKING:
    from medstill.study.cluster import OnRay
    from medstill.study.grid import GridOptions, Outcome, run_grid
    from medstill.study.gridfile import Grid, load_grid
    from medstill.study.live import watch
    from medstill.study.points import Point, expand
    from medstill.study.runner import SideBySide, perform_for
    from medstill.study.status import GridState, grid_status

__all__ = [
    "Grid",
    "GridOptions",
    "GridState",
    "OnRay",
    "Outcome",
    "Point",
    "SideBySide",
    "expand",
    "grid_status",
    "load_grid",
    "perform_for",
    "run_grid",
    "watch",
]

_HOMES = {
    "cluster": ("OnRay",),
    "grid": ("GridOptions", "Outcome", "run_grid"),
    "gridfile": ("Grid", "load_grid"),
    "live": ("watch",),
    "points": ("Point", "expand"),
    "runner": ("SideBySide", "perform_for"),
    "status": ("GridState", "grid_status"),
}

__getattr__ = lazy_names(
    __name__,
    {name: f"{__name__}.{module}" for module, names in _HOMES.items() for name in names},
)
