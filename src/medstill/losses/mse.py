"""FitNets: the student's feature at a place against the teacher's at the same place.

Shape legend: B batch, P places, C channels, D embedding dimensions, `...` space.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medstill.config import FeatureTermConfig
from medstill.losses.embedding import EmbeddingSpace, FeatureSizes
from medstill.losses.numerics import in_full_precision, require_same_shape, unit_vectors
from medstill.losses.places import Scene, draw_places, meet, rows


@in_full_precision
def feature_mse(student_PD: Tensor, teacher_PD: Tensor) -> Tensor:
    """Squared distance of L2-normalised vectors: summed over channels, mean over places.

    Args:
        student_PD: Vectors `(P, D)` or a map `(B, D, ...)`.
        teacher_PD: The same shape; no gradient flows into it.

    Returns:
        Scalar in [0, 4]: `2 - 2 cos` on average.

    Raises:
        ShapeError: The two shapes differ.

    References:
        Romero et al., FitNets, arXiv:1412.6550. Deviation: vectors are L2-normalised, so the value
        depends neither on the channel count nor on the scale of the features.
    """
    require_same_shape(student_PD.shape, teacher_PD.shape, "Features")
    difference = unit_vectors(student_PD) - unit_vectors(teacher_PD.detach())
    return difference.square().sum(dim=1).mean()


class FeatureMSE(nn.Module):
    """`feature_mse` at places drawn at random, in the teacher's embedding space."""

    def __init__(
        self, config: FeatureTermConfig, sizes: FeatureSizes, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.config = config
        self.space = EmbeddingSpace(config.embedding_dim, sizes, generator)

    def forward(self, student_BC: Tensor, teacher_BC: Tensor, scene: Scene) -> Tensor:
        """The term's value for a batch; see `feature_mse`."""
        student_BC, teacher_BC = meet(student_BC, teacher_BC, scene.space)
        places_P = draw_places(student_BC, self.config.places, scene.generator)
        return feature_mse(*self.space(rows(student_BC, places_P), rows(teacher_BC, places_P)))
