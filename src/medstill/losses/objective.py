"""What a student is trained with: the weighted sum of all terms, each by its name.

Shape legend: B batch, C classes or channels, `...` space (H W or D H W).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Self

import torch
from torch import Tensor, nn

from medstill.config import DistillationConfig, MapTermConfig, TrainingConfig, content_hash
from medstill.errors import ConfigError, TrainingError
from medstill.losses.boundary import boundary_weights
from medstill.losses.embedding import EmbeddingSpace, FeatureSizes, Moments, spread_rows
from medstill.losses.numerics import as_class_logits, require_same_shape
from medstill.losses.places import Scene
from medstill.losses.segmentation import CROSS_ENTROPY, DICE, SegmentationLoss
from medstill.losses.tables import feature_loss, map_loss

PLAIN = TrainingConfig()


class Objective(nn.Module):
    """Segmentation terms and, with a teacher, the distillation terms of a configuration.

    Projectors, embeddings and queues are built once, here, and are part of the parameters and of
    the state. Every random draw of a step comes from the generator that is passed in. Terms of
    weight 0 are not built. Ignored places (labels of 255) leave the segmentation terms; in the
    distillation terms on maps and features the teacher speaks there.

    Args:
        config: Weights and terms.
        classes: Number of classes C, background included.
        spatial_dims: 2 or 3; it decides what `dice_over: auto` means.
        student_channels: Channels of the student's feature at each scale of the configuration.
        teacher_channels: The same of the teacher.
        recipe: How the terms against the labels are summed: `dice_over` and `class_balance`.
        seed: Draws the projectors' initial weights; None takes the seed of the global random
            state. That state itself is not touched, so that the student's weights stay the same.

    Raises:
        UnknownNameError: No loss of that name.
        ConfigError: A scale without channels.
    """

    def __init__(
        self,
        config: DistillationConfig,
        *,
        classes: int,
        spatial_dims: int,
        student_channels: Mapping[str, int],
        teacher_channels: Mapping[str, int],
        recipe: TrainingConfig = PLAIN,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        self.segmentation = SegmentationLoss.of(recipe, classes=classes, spatial_dims=spatial_dims)
        self.weights: dict[str, float] = {
            DICE: config.segmentation_weight,
            CROSS_ENTROPY: config.segmentation_weight,
        }
        self._ramps: dict[str, int] = {}
        self.features = nn.ModuleDict()
        self._modules_of: dict[str, str] = {}
        self._feature_names: dict[str, str] = {}
        generator = torch.Generator()
        generator.manual_seed(torch.initial_seed() if seed is None else seed)
        for scale, term in config.features.items():
            build = feature_loss(term.loss)
            if term.weight > 0:
                sizes = _sizes(scale, classes, student_channels, teacher_channels)
                self._modules_of[scale] = _module_name(scale)
                self.features[self._modules_of[scale]] = build(term, sizes, generator)
                self._feature_names[scale] = f"{scale}/{term.loss}"
                self.weights[self._feature_names[scale]] = term.weight
                self._ramps[self._feature_names[scale]] = term.ramp_steps
        self._maps = _named_maps(config.maps)
        self.weights.update({name: term.weight for name, term in self._maps.items()})
        self._ramps.update({name: term.ramp_steps for name, term in self._maps.items()})

    @classmethod
    def control(
        cls,
        config: DistillationConfig,
        *,
        classes: int,
        spatial_dims: int,
        recipe: TrainingConfig = PLAIN,
    ) -> Self:
        """The objective of the control: the same segmentation weight and nothing else."""
        return cls(
            config.model_copy(update={"features": {}, "maps": ()}),
            classes=classes,
            spatial_dims=spatial_dims,
            student_channels={},
            teacher_channels={},
            recipe=recipe,
        )

    @property
    def needs_teacher(self) -> bool:
        """Whether any term looks at a teacher."""
        return bool(self.features) or bool(self._maps)

    @property
    def needs_embeddings(self) -> bool:
        """Whether `fit_embeddings` must be called, or a state loaded, before the first step."""
        return any(not bool(space.embedding.fitted) for space in self._spaces().values())

    def fit_embeddings(self, batches: Iterable[Mapping[str, Tensor]]) -> None:
        """Fit each scale's PCA to the teacher's features of training patients, in one pass.

        Args:
            batches: The teacher's features `(B, C, ...)` by scale; up to 4,096 places of each
                batch are used, evenly spread. A few dozen batches are plenty.

        Raises:
            TrainingError: No features came, or they are all alike.
            ShapeError: Features with another number of channels than announced.
        """
        spaces = self._spaces()
        moments = {scale: Moments(len(space.embedding.mean_C)) for scale, space in spaces.items()}
        for features in batches if spaces else ():
            for scale, seen in moments.items():
                seen.add(spread_rows(features[scale]))
        for scale, space in spaces.items():
            space.embedding.fit(moments[scale])

    def forward(
        self,
        student_logits_BC: Tensor,
        labels_B: Tensor,
        *,
        student_features: Mapping[str, Tensor] | None = None,
        teacher_logits_BC: Tensor | None = None,
        teacher_features: Mapping[str, Tensor] | None = None,
        generator: torch.Generator | None = None,
        bare_B: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """All terms of a batch by name, unweighted; `total` adds them up.

        Args:
            student_logits_BC: `(B, C, ...)`, or one channel for two classes.
            labels_B: Class of each place `(B, ...)`, 255 where ignored or unlabelled.
            student_features: Tapped features `(B, C, ...)` by scale.
            teacher_logits_BC: The teacher's logits for the same view; not needed by a control.
            teacher_features: The teacher's tapped features by scale.
            generator: Draws the places, on the CPU; not needed by a control.
            bare_B: Which samples are of images without labels; None: none of them.

        Returns:
            Scalars, float32, under the names in `weights`.

        Raises:
            ShapeError: Shapes that do not fit together.
            TrainingError: A teacher's output or a fitted embedding is missing.
        """
        student_BC = as_class_logits(student_logits_BC)
        terms: dict[str, Tensor] = self.segmentation(student_BC, labels_B)
        if not self.needs_teacher:
            return terms
        if teacher_logits_BC is None or generator is None:
            raise TrainingError(
                "This objective has distillation terms and needs the teacher's logits and a "
                "generator, but got none. Pass them, or build Objective.control."
            )
        teacher_BC = as_class_logits(teacher_logits_BC).detach()
        require_same_shape(student_BC.shape, teacher_BC.shape, "Output maps")
        scene = Scene(labels_B, student_BC.detach(), teacher_BC, generator, bare_B)
        for scale, module in self._feature_modules().items():
            student = _feature(student_features, scale, "student")
            teacher = _feature(teacher_features, scale, "teacher")
            terms[self._feature_names[scale]] = module(student, teacher, scene)
        terms.update(
            {name: _map_term(term, student_BC, scene) for name, term in self._maps.items()}
        )
        return terms

    def weights_at(self, step: int) -> dict[str, float]:
        """The weight of every term at a step: it rises evenly from 0 in the term's `ramp_steps`."""
        return {
            name: weight * (min(1.0, step / self._ramps[name]) if self._ramps.get(name) else 1.0)
            for name, weight in self.weights.items()
        }

    def total(self, terms: Mapping[str, Tensor], step: int | None = None) -> Tensor:
        """The sum of the terms that `forward` gave, weighted as at a step, or behind all ramps."""
        weights = self.weights if step is None else self.weights_at(step)
        return torch.stack([weights[name] * value for name, value in terms.items()]).sum()

    def _spaces(self) -> dict[str, EmbeddingSpace]:
        modules = self._feature_modules()
        found = {scale: getattr(module, "space", None) for scale, module in modules.items()}
        return {scale: space for scale, space in found.items() if isinstance(space, EmbeddingSpace)}

    def _feature_modules(self) -> dict[str, nn.Module]:
        return {scale: self.features[name] for scale, name in self._modules_of.items()}


def _module_name(scale: str) -> str:
    """What the module of a scale is called: as the scale, unless no module can be called so."""
    if scale and "." not in scale and not hasattr(nn.ModuleDict(), scale):
        return scale
    return f"scale-{content_hash(scale)}"


def _sizes(
    scale: str, classes: int, student: Mapping[str, int], teacher: Mapping[str, int]
) -> FeatureSizes:
    if scale not in student or scale not in teacher:
        raise ConfigError(
            f"The feature term '{scale}' needs a layer in both networks, but the student has "
            f"{sorted(student)} and the teacher {sorted(teacher)}. Name student_layer and "
            f"teacher_layer of distillation.features.{scale}."
        )
    return FeatureSizes(classes, student[scale], teacher[scale])


def _named_maps(maps: Iterable[MapTermConfig]) -> dict[str, MapTermConfig]:
    named: dict[str, MapTermConfig] = {}
    for term in maps:
        map_loss(term.loss)
        name = f"maps/{term.loss}" + ("-boundary" if term.boundary_weight else "")
        twice = sum(known.split("#")[0] == name for known in named)
        if term.weight > 0:
            named[f"{name}#{twice + 1}" if twice else name] = term
    return named


def _feature(features: Mapping[str, Tensor] | None, scale: str, whose: str) -> Tensor:
    if features is None or scale not in features:
        raise TrainingError(
            f"The feature term '{scale}' needs the {whose}'s feature of that scale, but got "
            f"{sorted(features or ())}. Tap the layers of the configuration's scales."
        )
    return features[scale]


def _map_term(term: MapTermConfig, student_BC: Tensor, scene: Scene) -> Tensor:
    weight_B = None
    if term.boundary_weight > 0:
        weight_B = boundary_weights(
            scene.regions_B, extra=term.boundary_weight, width=term.boundary_width
        )
    loss = map_loss(term.loss)
    return loss(student_BC, scene.teacher_BC, temperature=term.temperature, weight_B=weight_B)
