"""InfoNCE: find your own place, or your own image, among the teacher's.

Shape legend: B batch, P places, C channels, D embedding dimensions, `...` space.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medstill.config import FeatureTermConfig
from medstill.losses.embedding import EmbeddingSpace, FeatureSizes
from medstill.losses.numerics import in_full_precision, require_same_shape, unit_vectors
from medstill.losses.places import Scene, draw_places, meet, rows


@in_full_precision
def infonce(student_PD: Tensor, teacher_PD: Tensor, *, temperature: float = 0.1) -> Tensor:
    """Cross-entropy of finding row i of the teacher for row i of the student, mean over rows.

    Similarity is the cosine over the temperature; the other rows of the teacher are the negatives.
    Rows are places (pixel form) or images whose features were averaged over space (pooled form).

    Args:
        student_PD: Vectors `(P, D)`.
        teacher_PD: The same shape; no gradient flows into it.
        temperature: > 0.

    Returns:
        Scalar in nats, >= 0; log P for a blind guess, 0 with gradient 0 when P = 1, because
        a single row has no negatives.

    Raises:
        ShapeError: The two shapes differ.

    References:
        van den Oord et al., Contrastive Predictive Coding, arXiv:1807.03748.
    """
    require_same_shape(student_PD.shape, teacher_PD.shape, "Features")
    similarity_PP = unit_vectors(student_PD) @ unit_vectors(teacher_PD.detach()).T / temperature
    return F.cross_entropy(similarity_PP, torch.arange(len(student_PD), device=student_PD.device))


class PixelInfoNCE(nn.Module):
    """`infonce` over places of the batch drawn at random, in the teacher's embedding space."""

    def __init__(
        self, config: FeatureTermConfig, sizes: FeatureSizes, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.config = config
        self.space = EmbeddingSpace(config.embedding_dim, sizes, generator)

    def forward(self, student_BC: Tensor, teacher_BC: Tensor, scene: Scene) -> Tensor:
        """The term's value for a batch; see `infonce`."""
        student_BC, teacher_BC = meet(student_BC, teacher_BC, scene.space)
        places_P = draw_places(student_BC, self.config.places, scene.generator)
        pair = self.space(rows(student_BC, places_P), rows(teacher_BC, places_P))
        return infonce(*pair, temperature=self.config.temperature)


class PooledInfoNCE(nn.Module):
    """`infonce` over the images of the batch, each averaged over space; 0 for a batch of one."""

    def __init__(
        self, config: FeatureTermConfig, sizes: FeatureSizes, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.config = config
        self.space = EmbeddingSpace(config.embedding_dim, sizes, generator)

    def forward(self, student_BC: Tensor, teacher_BC: Tensor, scene: Scene) -> Tensor:
        """The term's value for a batch; see `infonce`."""
        del scene
        pair = self.space(student_BC.flatten(2).mean(dim=2), teacher_BC.flatten(2).mean(dim=2))
        return infonce(*pair, temperature=self.config.temperature)
