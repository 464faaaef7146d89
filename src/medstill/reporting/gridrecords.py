"""What the JSON files of a study of many runs hold, as far as its page shows it."""

from __future__ import annotations

from medstill.reporting.records import Comparison, Facts, ModelRow, Shown


class Level(Shown):
    """A gain within one fold or one seed alone."""

    axis: str
    value: str
    n: int
    difference: float


class GridGain(Shown):
    """What one arm changed against another, patient by patient, pooled."""

    row: str
    student: str
    arm: str = "distilled"
    control: str
    control_row: str = ""
    """Another row than `row` where whole rows are compared."""
    metric: str
    higher_is_better: bool
    comparison: Comparison
    p_holm: float
    family: int | None = None
    """Comparisons that Holm's adjustment is over."""
    verdict: str
    detectable: float | None = None
    """Smallest true difference that would be found with 80 % power at this n."""
    levels: tuple[Level, ...] = ()
    unpaired: tuple[str, ...] = ()
    unmatched: tuple[str, ...] = ()

    @property
    def within_row(self) -> bool:
        """Whether two arms of one row are compared."""
        return self.control_row in ("", self.row)


class GridRow(Shown):
    """One combination of the axes that are not pooled, and one student."""

    name: str
    values: dict[str, str]
    student: str
    models: tuple[ModelRow, ...]
    collapsed: tuple[str, ...] = ()

    def model(self, arm: str) -> ModelRow | None:
        """The networks of one arm; None when the row has none."""
        return next((model for model in self.models if model.arm == arm), None)


class NetworkFacts(Facts):
    """What a network costs; its time only where it was measured."""

    milliseconds: float | None = None
    """Time of one input on some machine's CPU."""


class Time(Shown):
    """How long a network of a row takes for one input."""

    row: str
    network: str
    milliseconds: float
    size: tuple[int, ...]


class Times(Shown):
    """`times.json`: all networks of a study, measured side by side."""

    cpu: str
    runtime: str
    threads: int
    rounds: int
    networks: tuple[Time, ...]

    def of(self, row: str, network: str) -> float | None:
        """Milliseconds of a network; None when it was not measured."""
        found = (one for one in self.networks if (one.row, one.network) == (row, network))
        return next((one.milliseconds for one in found), None)


class GridSummary(Shown):
    """`table.json`."""

    name: str
    axes: dict[str, tuple[str, ...]]
    pooled: tuple[str, ...]
    class_names: tuple[str, ...]
    nsd_tolerance_mm: float
    confidence: float
    resamples: int
    rows: tuple[GridRow, ...]
    gains: tuple[GridGain, ...]
    comparisons: int
    primary: dict[str, str] | None = None
    """Axis -> value of the rows that the study is about."""
    missing: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def gain(self, row: str, metric: str) -> GridGain | None:
        """What the distilled arm of a row changed against the control of that row."""
        found = (
            gain
            for gain in self.gains
            if (gain.row, gain.metric) == (row, metric)
            and (gain.arm, gain.control) == ("distilled", "control")
            and gain.within_row
        )
        return next(found, None)


class ListedRun(Shown):
    """One run of the study."""

    name: str
    values: tuple[tuple[str, str], ...]
    """Axis and value."""


class GridManifest(Shown):
    """`grid.json`."""

    name: str
    description: str = ""
    hash: str
    versions: dict[str, str]
    runs: tuple[ListedRun, ...]


class Failure(Shown):
    """What went wrong in a run."""

    job: str
    message: str
