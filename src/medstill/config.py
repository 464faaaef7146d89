# long: every key of a study file with its docstring, from which docs/reference is generated
"""The study: one validated, frozen description of everything that decides a result.

Sizes and spacings are in array order: `(z, y, x)` in 3-D, `(y, x)` in 2-D. Lengths are in mm.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    field_serializer,
    field_validator,
    model_serializer,
    model_validator,
)

NAME = r"^[a-z0-9][a-z0-9-]*$"
"""What a study or a student may be called."""
IGNORE = 255
"""The label value of voxels that take part in no label term and in no metric."""

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
DecayRate = Annotated[float, Field(ge=0.0, lt=1.0)]

T = TypeVar("T")
_CAME_LATER = "left out of hashes at its default"
Later = Annotated[T, _CAME_LATER]
"""Type of a key that came after the first edition, as in `views: Later[int] = 0`.

At its default it is left out of every hash, so that folders of earlier editions are still known.
"""


class Record(BaseModel):
    """A frozen record that refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_serializer(mode="wrap")
    def _without_later_defaults(
        self, handler: SerializerFunctionWrapHandler, info: SerializationInfo
    ) -> dict[str, Any]:
        content: dict[str, Any] = handler(self)
        if info.context != _CAME_LATER:
            return content
        fields = type(self).model_fields
        return {
            name: value
            for name, value in content.items()
            if _CAME_LATER not in fields[name].metadata
            or getattr(self, name) != fields[name].default
        }


class IntensityConfig(Record):
    """How raw intensities become network input."""

    kind: str = "auto"
    """`auto` (from the modality) or a name of `medstill.volumes.intensity.INTENSITIES`."""
    low: float | None = None
    """Lower end of the CT window in HU, or lower percentile (0 to 100) of an MR volume."""
    high: float | None = None
    """Upper end of the CT window in HU, or upper percentile of an MR volume."""


class Code(Record):
    """A coded concept, as DICOM writes it."""

    value: str = Field(pattern=r"^[A-Za-z0-9._-]{1,16}$")
    """The code, such as 78961009."""
    scheme: str = Field(default="SCT", pattern=r"^[A-Z0-9_]{1,16}$")
    """Designator of the coding scheme: `SCT` is SNOMED CT, `99...` is private."""
    meaning: str = Field(pattern=r"^[^\\\x00-\x1f\x7f-\x9f]{1,64}$")
    """What it stands for, in words."""


class TermConfig(Record):
    """What a class is called by others. What is left out stays as it is by the class's name."""

    type: Code | None = None
    """The structure."""
    modifier: Code | None = None
    """Narrows the type, such as its side."""
    category: Code | None = None
    """What kind of thing it is; an anatomical structure by default."""
    colour: str | None = Field(default=None, pattern=r"^#[0-9a-fA-F]{6}$")
    """Of its overlay: `#rrggbb`."""


class DataConfig(Record):
    """What is read and how it is prepared."""

    spatial_dims: Literal[2, 3] = 2
    """2: axial slices, resampled in-plane only. 3: volumes."""
    labels: dict[str, tuple[str, ...]] | None = None
    """Class name -> names of the data set's labels merged into it; None keeps all of them."""
    modality: Literal["auto", "ct", "mr", "colour", "gray"] = "auto"
    """Of every channel; `auto` takes what the data set says, or a guess that `inspect` shows."""
    intensity: IntensityConfig = IntensityConfig()
    """How raw intensities become network input."""
    spacing_mm: tuple[PositiveFloat, ...] | None = None
    """Target spacing; None takes the median of the data."""
    patch_size: tuple[PositiveInt, ...] = (128, 128)
    """Pixels or voxels of a training sample; slices are cropped or padded to it, never resized."""
    crop_to_body: bool = False
    """Whether a scan is cut to the box around its largest bright part and 10 mm more."""
    terms: Later[dict[str, TermConfig]] = {}
    """Class name -> its SNOMED CT code and colour in exported files and DICOM objects, where the
    common organs' own will not do; changing them does not make it another study."""

    @field_validator("labels", mode="before")
    @classmethod
    def _from_pairs(cls, value: Any) -> Any:
        return dict(value) if isinstance(value, (list, tuple)) else value

    @field_serializer("labels", when_used="json")
    def _as_pairs(self, value: dict[str, tuple[str, ...]] | None) -> Any:
        # The order of the classes decides their values; JSON objects keep no order.
        return None if value is None else [[name, list(names)] for name, names in value.items()]

    @model_validator(mode="after")
    def _one_entry_per_axis(self) -> Self:
        for name in ("patch_size", "spacing_mm"):
            value = getattr(self, name)
            if value is not None and len(value) != self.spatial_dims:
                raise ValueError(
                    f"data.{name} has {len(value)} entries, but data.spatial_dims is "
                    f"{self.spatial_dims}: give one entry per axis, last axis first"
                )
        return self


class SplitConfig(Record):
    """How patients are divided into training, validation and test patients."""

    kind: Literal["fractions", "folds", "nnunet"] = "fractions"
    """`nnunet` reads `splits_final.json` of the data set: its `val` cases are tested."""
    train: int | Fraction = 0.6
    """A whole number is a count of patients, another number a share of them."""
    validation: int | Fraction = 0.15
    """As `train`, of all labelled patients."""
    test: int | Fraction = 0.25
    """With `folds` and `nnunet` the fold is the test part and `train` and `test` are not used."""
    folds: int = Field(default=5, ge=2)
    """Number of parts (`folds`)."""
    fold: int = Field(default=0, ge=0)
    """Which part is tested, from 0 (`folds` and `nnunet`)."""
    seed: NonNegativeInt = 0
    """Of the division and of the order in which the students' patients are taken."""
    group_by: Literal["patient", "site"] = "patient"
    """`site` keeps all patients of one site in one part; it needs a site for every patient."""

    @model_validator(mode="after")
    def _fold_exists(self) -> Self:
        if self.kind == "folds" and self.fold >= self.folds:
            raise ValueError(f"split.fold is {self.fold}, but there are only {self.folds} folds")
        return self


class NetworkConfig(Record):
    """A network by name."""

    name: str
    """A name listed by `medstill networks`, or one of `monai.networks.nets`."""
    width: PositiveFloat = 1.0
    """Factor on every channel width."""
    depth: Later[PositiveFloat] = 1.0
    """Factor on the number of transformer blocks (`transunet-t2`)."""
    options: dict[str, Any] = {}
    """Further arguments of a MONAI network."""


class StudentConfig(NetworkConfig):
    """A student: a network, and what is its own beside the common recipe."""

    alias: Later[str | None] = Field(default=None, pattern=NAME)
    """Its name in folders, tables and exports; it tells networks of one name apart."""
    reconstruction_weight: Later[NonNegativeFloat] = 0.0
    """Of a second task, in control and distilled alike; it needs a network with a second decoder,
    which is left out of everything after training."""

    @property
    def called(self) -> str:
        """What the study calls this student: its alias, or its network's name."""
        return self.alias or self.name


class AugmentationConfig(Record):
    """Random changes of a training sample; each probability is per sample, 0 switches it off."""

    rotation_degrees: NonNegativeFloat = 15.0
    """Largest rotation in either direction about each axis; in 2-D in the slice."""
    scale: tuple[PositiveFloat, PositiveFloat] = (0.85, 1.2)
    """Least and greatest factor on the size of what is seen."""
    shear: NonNegativeFloat = 0.1
    """Largest shear: shift per length, without unit."""
    affine_probability: Fraction = 0.8
    """Of rotation, scale, shear and elastic displacement together."""
    elastic_mm: NonNegativeFloat = 0.0
    """Standard deviation of the elastic displacement; 0 switches it off."""
    gamma: tuple[PositiveFloat, PositiveFloat] = (0.8, 1.25)
    """Least and greatest exponent of the intensities."""
    gamma_probability: Fraction = 0.3
    """Of the change by `gamma`."""
    noise: NonNegativeFloat = 0.05
    """Largest standard deviation of Gaussian noise, in units of the prepared image."""
    noise_probability: Fraction = 0.2
    """Of the noise."""
    blur_mm: NonNegativeFloat = 1.5
    """Largest standard deviation of a Gaussian blur."""
    blur_probability: Fraction = 0.2
    """Of the blur."""
    mirror: tuple[Literal["z", "y", "x"], ...] = ()
    """Axes that are mirrored with probability one half; none by default: organs have sides."""


class TrainingConfig(Record):
    """One recipe of optimisation."""

    steps: PositiveInt = 4000
    """Optimiser steps."""
    batch_size: PositiveInt = 16
    """Samples of a step, over all devices together."""
    learning_rate: PositiveFloat = 2e-3
    """Its peak; half a cosine takes it down to 1 % of that at the last step."""
    optimizer: Later[Literal["adamw", "rmsprop"]] = "adamw"
    """`rmsprop` is one of the thesis's two settings; it takes no betas."""
    weight_decay: NonNegativeFloat = 1e-4
    """Of the optimiser: decoupled from the gradient in AdamW, added to it in RMSprop."""
    betas: tuple[DecayRate, DecayRate] = (0.9, 0.99)
    """Decay rates of AdamW's two running means."""
    warmup_steps: int = Field(default=100, ge=0)
    """Steps in which the learning rate rises to its peak."""
    validate_every: PositiveInt = 500
    """Steps between two validations; checkpoints are written at these boundaries."""
    gradient_clip: NonNegativeFloat = 1.0
    """Largest norm of the gradient; 0 does not clip."""
    foreground_share: Fraction = 0.5
    """Share of the samples that are centred on a foreground class, classes in turn."""
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    """As Lightning's `Trainer` takes it; `bf16-mixed` is faster on CPUs with bfloat16 units, and
    `16-mixed` is for GPUs."""
    dice_over: Literal["auto", "batch", "sample"] = "auto"
    """`auto`: batch in 2-D, sample in 3-D."""
    class_balance: Later[Fraction] = 0.0
    """Share of the cross-entropy that is a mean over the batch's classes instead of its places."""
    head_prior: bool | None = None
    """Start the last bias at the log of the class frequencies; None does where a head is named."""
    augmentation: AugmentationConfig = AugmentationConfig()
    """Random changes of the samples; teacher and student see the same view."""
    views: Later[int] = Field(default=0, ge=0)
    """Fixed views of each image (a slice; in 3-D a patch) that all batches draw from; 0: any."""


class ReconstructionConfig(Record):
    """The teacher's second task."""

    weight: NonNegativeFloat = 0.2
    """Weight of the mean squared error; 0 makes a single-task teacher."""
    mask_ratio: Fraction = 0.0
    """Share of blocks set to zero in the input that the clean image is reconstructed from."""
    mask_block: PositiveInt = 8
    """Edge of a masked block in pixels or voxels."""


class PretrainingConfig(Record):
    """Reconstruction alone, before the teacher's training, on images without their labels.

    The images are those of the training patients and the cases without labels; all else is as in
    the teacher's own recipe.
    """

    steps: NonNegativeInt = 0
    """Optimiser steps; 0 leaves the pre-training out."""
    learning_rate: PositiveFloat | None = None
    """Its peak; None takes that of the teacher's own recipe."""
    mask_ratio: Fraction = 0.5
    """Share of blocks set to zero in the input that the clean image is reconstructed from."""
    mask_block: PositiveInt = 8
    """Edge of a masked block in pixels or voxels."""


class SignedDistanceConfig(Record):
    """The teacher's third task: the distance to the border of each structure, negative inside."""

    weight: NonNegativeFloat = 0.0
    """Weight of the mean absolute error; 0 leaves the task out."""
    limit_mm: PositiveFloat = 10.0
    """Distance that counts as 1; what is farther counts as just as far."""
    layer: str | None = None
    """The layer it is read from; None takes the network's preset tap `D`."""


class TeacherConfig(Record):
    """The large network."""

    network: NetworkConfig = NetworkConfig(name="unet-t1", width=0.25)
    """Which network."""
    reconstruction: ReconstructionConfig = ReconstructionConfig()
    """The second task; `weight` must be 0 for a network without a second decoder."""
    signed_distance: Later[SignedDistanceConfig] = SignedDistanceConfig()
    """The third task, of the segmentation decoder; its head is left behind after training."""
    pretraining: Later[PretrainingConfig] = PretrainingConfig()
    """What the network learns before, from images alone."""
    training: TrainingConfig = TrainingConfig()
    """The teacher's own recipe."""
    folds: Later[int] = Field(default=0, ge=0)
    """Teachers that each leave out one part of the training patients, and teach only cases that
    they never saw; 0 is one teacher. It needs `distillation.cache` and no feature terms."""

    @field_validator("folds")
    @classmethod
    def _none_or_several(cls, value: int) -> int:
        if value == 1:
            raise ValueError("teacher.folds is 1: expected 0 for one teacher, or at least 2")
        return value


class FeatureTermConfig(Record):
    """One feature loss at one scale."""

    loss: str = "supcon"
    """A name of `medstill.losses.FEATURE_LOSSES`."""
    weight: NonNegativeFloat = 0.1
    """0 leaves the term out."""
    ramp_steps: Later[NonNegativeInt] = 0
    """Steps in which the weight rises evenly from 0; 0: it is there from the first step on."""
    student_layer: str | None = None
    """Name of the tapped layer; None takes the network's preset tap of that scale."""
    teacher_layer: str | None = None
    """The same of the teacher."""
    temperature: PositiveFloat = 0.1
    """Of the similarities (`infonce`, `infonce-pooled`, `supcon`)."""
    embedding_dim: int = Field(default=128, ge=2, le=128)
    """Most dimensions of the teacher's PCA; no more than its layer has channels are used."""
    places: int = Field(default=1024, ge=2, le=1024)
    """Sampled places of a batch."""
    queue_per_class: int = Field(default=256, ge=0)
    """Teacher embeddings of earlier batches kept for each class (`supcon`)."""
    hard_share: Fraction = 0.5
    """Share of the anchors taken where the student is wrong (`supcon`)."""
    purity: Fraction = 0.75
    """Least share of one class inside a place for the place to be sampled (`supcon`)."""
    confidence: Fraction = 0.9
    """Least teacher probability that stands in for a label on unlabelled images (`supcon`)."""


class MapTermConfig(Record):
    """One loss on the output maps."""

    loss: str = "kl"
    """A name of `medstill.losses.MAP_LOSSES`."""
    weight: NonNegativeFloat = 0.2
    """0 leaves the term out."""
    ramp_steps: Later[NonNegativeInt] = 0
    """Steps in which the weight rises evenly from 0; 0: it is there from the first step on."""
    temperature: PositiveFloat = 4.0
    """Divides the logits of both networks; `kl` and `cwd` are multiplied by its square."""
    boundary_weight: NonNegativeFloat = 0.0
    """Extra weight of the places near a class boundary; 0 weighs all places alike."""
    boundary_width: PositiveInt = 2
    """Half width of that band in pixels or voxels."""


class DistillationConfig(Record):
    """`L = w_seg L_seg + sum of feature terms + sum of map terms`."""

    segmentation_weight: NonNegativeFloat = 0.4
    """Of Dice and cross-entropy; the control keeps it."""
    features: dict[str, FeatureTermConfig] = {
        "E": FeatureTermConfig(weight=0.1),
        "B": FeatureTermConfig(weight=0.2),
        "D": FeatureTermConfig(weight=0.1),
    }
    """Scale -> term. The preset scales are E, B and D; any other key needs both layers named."""
    maps: tuple[MapTermConfig, ...] = (MapTermConfig(),)
    """Terms on the output maps."""
    unlabelled_batch: int = Field(default=0, ge=0)
    """Images a step of the teacher's other patients, without labels, in the distillation terms."""
    cache: Later[Literal["off", "float16", "float32"]] = "off"
    """Compute what the teacher says of the fixed views once and keep it on disk as such numbers."""

    @field_validator("cache", mode="before")
    @classmethod
    def _off(cls, value: Any) -> Any:
        # What YAML makes of a plain off.
        return "off" if value is False else value


class EvaluationConfig(Record):
    """How predictions are scored."""

    nsd_tolerance_mm: PositiveFloat = 2.0
    """Distance up to which surfaces count as equal."""
    resamples: PositiveInt = 9999
    """Of the bootstrap; the permutation test makes up to 20 times as many sign flips."""
    confidence: float = Field(default=0.95, gt=0.5, lt=1.0)
    """Of the intervals."""
    seed: NonNegativeInt = 0
    """Of the resamples."""


class EngineConfig(Record):
    """Where and how it is computed; nothing here is meant to decide a result."""

    accelerator: str = "cpu"
    """As Lightning's `Trainer` takes it: `cpu`, `gpu`, `mps`, `auto`."""
    devices: int | str | tuple[int, ...] = 1
    """As Lightning's `Trainer` takes it."""
    strategy: str = "auto"
    """As Lightning's `Trainer` takes it."""
    nodes: PositiveInt = 1
    """Machines of one training."""
    workers: PositiveInt | None = None
    """Processes that prepare and train side by side; None takes one per core."""
    threads: PositiveInt | None = None
    """Of each training process; None shares the cores among the trainings that can run at once.
    Another number can change the last digits of sums, and so of weights."""
    loader_workers: int = Field(default=0, ge=0)
    """Processes that load data for each training; 0 loads in the training process."""
    loggers: tuple[Literal["csv", "tensorboard", "mlflow", "wandb"], ...] = ("csv", "tensorboard")
    """Where losses and scores are logged beside the history, in the folder of each training. MLflow
    uses `MLFLOW_TRACKING_URI` if that is set; W&B stays offline unless `WANDB_MODE` is."""
    gradient_norms_every: NonNegativeInt = 0
    """Steps between two logs of the norm of each weighted term's gradient; 0 never asks for it."""


class Study(Record):
    """Everything that decides a result."""

    name: str = Field(pattern=NAME)
    """Small letters, digits and hyphens."""
    description: str = ""
    """Free text; changing it does not make it another study."""
    seeds: tuple[NonNegativeInt, ...] = Field(default=(0,), min_length=1)
    """One student of each arm is trained per seed."""
    data: DataConfig = DataConfig()
    """What is read and how it is prepared."""
    split: SplitConfig = SplitConfig()
    """How patients are divided."""
    teacher: TeacherConfig = TeacherConfig()
    """The large network."""
    students: tuple[StudentConfig, ...] = Field(
        default=(StudentConfig(name="compact"),), min_length=1
    )
    """Every one is trained for each seed as control and distilled, and as each reference."""
    label_fraction: float = Field(default=0.5, gt=0.0, le=1.0)
    """Share of the teacher's training patients whose labels the students see, rounded up."""
    references: Later[tuple[Literal["all-labels", "pseudo-labels"], ...]] = ()
    """Further plain students: on all of the teacher's labels, or on its answers as labels too."""
    training: TrainingConfig = TrainingConfig()
    """The recipe of control and distilled students alike."""
    distillation: DistillationConfig = DistillationConfig()
    """What the distilled students learn from beside their labels."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """How predictions are scored."""
    engine: EngineConfig = EngineConfig()
    """Where it is computed; changing it does not make it another study."""

    @model_validator(mode="after")
    def _cache_has_views(self) -> Self:
        if self.distillation.cache != "off" and not self.training.views:
            raise ValueError(
                f"distillation.cache is {self.distillation.cache}, but training.views is 0: only "
                "what the teacher says of fixed views can be kept; set training.views, such as to 4"
            )
        return self

    @model_validator(mode="after")
    def _several_teachers_can_teach(self) -> Self:
        folds, distillation = self.teacher.folds, self.distillation
        if folds and distillation.cache == "off":
            raise ValueError(
                f"teacher.folds is {folds}, but distillation.cache is off: only the cache asks for "
                "each case the teachers that never saw it; set training.views and "
                "distillation.cache, such as to 4 and float16"
            )
        scales = [scale for scale, term in distillation.features.items() if term.weight]
        if folds and scales:
            raise ValueError(
                f"teacher.folds is {folds}, but distillation.features has the terms "
                f"{', '.join(scales)}: the features of several teachers have no mean; set "
                "distillation.features to {} and learn from distillation.maps"
            )
        return self

    @model_validator(mode="after")
    def _nothing_twice(self) -> Self:
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds has a number twice: {list(self.seeds)}")
        names = [student.called for student in self.students]
        if len(set(names)) != len(names):
            raise ValueError(f"students has a name twice: {names}; give one of them an alias")
        if "teacher" in names:
            raise ValueError("students has one called 'teacher', as the teacher is: rename it")
        if self.teacher.network.name in names:
            raise ValueError(
                f"students has one called '{self.teacher.network.name}', as the teacher's network "
                "is, and tables tell networks apart by name: give it an alias"
            )
        if len(set(self.references)) != len(self.references):
            raise ValueError(f"references has a name twice: {list(self.references)}")
        return self

    @model_validator(mode="after")
    def _pseudo_labels_have_images(self) -> Self:
        if "pseudo-labels" in self.references and not self.distillation.unlabelled_batch:
            raise ValueError(
                "references has pseudo-labels, but distillation.unlabelled_batch is 0, so no image "
                "without a label is ever seen: give the number of such images a step"
            )
        return self


def deciding(record: Record, exclude: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A record as plain JSON data for a hash: later keys at their default are left out."""
    return record.model_dump(mode="json", exclude=dict(exclude or {}), context=_CAME_LATER)


def content_hash(content: Any) -> str:
    """The first 16 hex digits of the SHA-256 of a record or of plain JSON data."""
    if isinstance(content, Record):
        content = deciding(content)
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


NOT_DECIDING: dict[str, Any] = {"engine": True, "description": True, "data": {"terms": True}}
"""Keys of a study that do not decide its result, as pydantic leaves them out."""


def study_hash(study: Study) -> str:
    """Hash of all in a study that decides its result."""
    return content_hash(deciding(study, NOT_DECIDING))
