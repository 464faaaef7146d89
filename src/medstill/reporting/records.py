"""What a run folder's JSON files hold, as far as the report shows it.

Keys that the report does not know are passed over: a run of a later version can still be shown.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Shown(BaseModel):
    """A frozen record of the part that is shown."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Interval(Shown):
    """A mean over patients with its bootstrap interval."""

    mean: float
    low: float
    high: float
    n: int
    confidence: float
    method: str


class ClassRow(Shown):
    """One class of one model."""

    class_name: str
    intervals: dict[str, Interval]
    counts: dict[str, int]
    collapsed_seeds: tuple[int, ...] = ()

    @property
    def n_patients(self) -> int:
        """Patients with a score: none where the class is in no truth and no prediction."""
        dice = self.intervals.get("dice")
        return dice.n if dice else 0


class ModelRow(Shown):
    """One model: the teacher, or an arm of a student over its seeds."""

    student: str
    arm: str
    seeds: tuple[int, ...]
    n_patients: int
    intervals: dict[str, Interval]
    classes: tuple[ClassRow, ...]
    counts: dict[str, int]
    patients: dict[str, dict[str, float]]
    """Metric -> patient -> mean over classes and seeds."""


class Comparison(Shown):
    """Distilled minus control, patient by patient."""

    n: int
    difference: Interval
    p_value: float
    test: str
    higher: int
    lower: int
    equal: int


class Gain(Shown):
    """What distillation changed against one control: `arm` minus `control`."""

    student: str
    arm: str = "distilled"
    control: str
    metric: str
    comparison: Comparison
    p_holm: float
    verdict: str
    unpaired: tuple[str, ...] = ()


class Summary(Shown):
    """`comparison.json`."""

    test_patients: tuple[str, ...]
    class_names: tuple[str, ...]
    nsd_tolerance_mm: float
    confidence: float
    resamples: int
    models: tuple[ModelRow, ...]
    gains: tuple[Gain, ...]

    def model(self, student: str, arm: str) -> ModelRow | None:
        """The row of one model; None when the run has no such model."""
        rows = (row for row in self.models if (row.student, row.arm) == (student, arm))
        return next(rows, None)


class ReceptiveField(Shown):
    """How far a network sees, in pixels or voxels."""

    size: tuple[int, ...]
    lower_bound: bool = False
    """It is larger than could be measured."""


class Facts(Shown):
    """What a network costs."""

    name: str
    parameters: int
    macs: int
    size: tuple[int, ...]
    """Size of the input that `macs` are counted at, array order."""
    receptive_field: ReceptiveField | None = None


class Checkpoint(Shown):
    """One validation of a training."""

    step: int
    dice: float
    dice_by_class: dict[str, float] = {}
    losses: dict[str, float] = {}
    """`train/NAME` -> mean since the validation before."""
    data_wait_share: float = 0.0
    steps_per_s: float = 0.0


class Training(Shown):
    """How one training ended, and its way there."""

    best_step: int
    best_dice: float
    collapsed: tuple[str, ...] = ()
    facts: Facts
    weights: str = ""
    """Hash of the weights."""
    history: tuple[Checkpoint, ...] = ()


class StructureScore(Shown):
    """One class of one case."""

    class_name: str
    state: str
    dice: float | None
    hd95_mm: float | None = None


class ScoredCase(Shown):
    """One case of one trained network."""

    case: str
    patient: str = ""
    classes: tuple[StructureScore, ...]

    @property
    def dice(self) -> float | None:
        """Mean over the classes that have a score."""
        found = [score.dice for score in self.classes if score.dice is not None]
        return sum(found) / len(found) if found else None


class Scores(Shown):
    """`scores.json` of one trained network."""

    cases: tuple[ScoredCase, ...]


class Reconstruction(Shown):
    """How well the teacher reconstructs one test case."""

    case: str
    psnr_db: float
    ssim: float


class LeftOut(Shown):
    """A case that was not prepared."""

    id: str
    reason: str
