"""Records of a grid: its networks, and what `table.json` holds."""

from __future__ import annotations

from medstill.config import Record
from medstill.evaluation.arms import Arm
from medstill.evaluation.comparison import Entry, ModelSummary
from medstill.evaluation.scores import Metric
from medstill.evaluation.spread import Source
from medstill.evaluation.statistics import Comparison, Verdict


class GridEntry(Record):
    """One trained network of a grid on its test patients."""

    point: str
    """Name of the run, such as `fold-0_loss-kl`."""
    values: dict[str, str]
    """Axis -> value of that run."""
    entry: Entry


class Level(Record):
    """A gain in one pooled unit alone: in one fold, or with one seed (the mixed view)."""

    axis: str
    """A pooled axis, or `seed` for the seeds of the runs."""
    value: str
    n: int
    """Patients."""
    difference: float


class GridGain(Record):
    """What one arm changed against another, pooled; differences are `arm` minus `control`."""

    row: str
    """Name of the `GridRow` whose arm is compared."""
    student: str
    arm: Arm
    """`distilled`, but where whole rows are compared."""
    control: Arm
    control_row: str
    """Row of the control: `row` itself, but where whole rows are compared."""
    metric: Metric
    higher_is_better: bool
    comparison: Comparison
    p_holm: float
    """Adjusted within its family: the same arms in the same metric, primary rows by themselves."""
    family: int
    """Comparisons of that family."""
    verdict: Verdict
    detectable: float | None
    """Smallest true difference that a test at this n would find with 80 % power; None where fewer
    than two patients, or equal differences, leave it unknown."""
    levels: tuple[Level, ...]
    spread: dict[Source, float]
    """Source of variation -> standard deviation that it makes; see `spread.variance_split`."""
    unpaired: tuple[str, ...]
    """Patients that one side has no score for."""
    unmatched: tuple[str, ...]
    """Units, such as `fold 2, seed 1`, that one side lacks: they are left out of both sides."""


class GridRow(Record):
    """One line of the main table."""

    name: str
    """Such as `loss-kl compact`: the axes that are not pooled, and the student."""
    values: dict[str, str]
    """Axis -> value, of the axes that are not pooled."""
    student: str
    models: tuple[ModelSummary, ...]
    """The teacher and every arm, pooled over folds and seeds."""
    collapsed: tuple[str, ...]
    """Networks in which a class died, such as `distilled, fold 1, seed 0: spleen`."""


class GridSummary(Record):
    """All that the tables and the page of a grid need."""

    name: str
    axes: dict[str, tuple[str, ...]]
    """Axis -> values in the order of the grid file."""
    pooled: tuple[str, ...]
    """Axes whose runs are one row together."""
    class_names: tuple[str, ...]
    nsd_tolerance_mm: float
    confidence: float
    resamples: int
    rows: tuple[GridRow, ...]
    gains: tuple[GridGain, ...]
    comparisons: int
    """How many `gains` there are."""
    primary: dict[str, str] | None
    """Axis -> value of the rows whose comparisons are families of their own."""
    missing: tuple[str, ...]
    """Points without scores."""
    notes: tuple[str, ...]
    """What a reader must know of the pooling, such as patients that several folds tested."""
