"""Supervised contrast: be near the teacher's places of your class, far from those of others.

Shape legend: B batch, N places, P anchors, K keys, C classes or channels, D embedding dimensions.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from medstill.config import FeatureTermConfig
from medstill.errors import ShapeError
from medstill.losses.embedding import EmbeddingSpace, FeatureSizes
from medstill.losses.numerics import in_full_precision, unit_vectors
from medstill.losses.places import Scene, class_shares, draw_balanced, meet, pure_classes, rows

REFRESH = 8
"""A full queue is renewed over at least this many batches, so that it holds several of them."""


@in_full_precision
def supcon(
    anchors_PD: Tensor,
    keys_KD: Tensor,
    *,
    anchor_classes_P: Tensor,
    key_classes_K: Tensor,
    temperature: float = 0.1,
) -> Tensor:
    """Mean over anchors of the mean over positives p of `-log(exp(a.p / T) / sum_k exp(a.k / T))`.

    Positives of an anchor are all keys of its class; the sum below runs over all keys. Anchors of
    a class without keys are left out.

    Args:
        anchors_PD: The student's embeddings `(P, D)`; L2-normalised here.
        keys_KD: The teacher's embeddings `(K, D)`; L2-normalised here, no gradient flows into them.
        anchor_classes_P: Class of each anchor.
        key_classes_K: Class of each key.
        temperature: T > 0.

    Returns:
        Scalar in nats. log K when all similarities are equal; at best about the log of the number
        of positives, not 0, because the positives share the probability. 0 with gradient 0 when
        no anchor has a positive.

    Raises:
        ShapeError: Embeddings of different dimensions.

    References:
        Khosla et al., Supervised Contrastive Learning, arXiv:2004.11362, eq. 2 (the sum outside
        the logarithm); Wang et al., ContrastiveSeg, arXiv:2101.11939, for anchors and queue.
        Deviation: anchors and keys come from two networks, so an anchor's own place is one of
        its positives.
    """
    if anchors_PD.dim() != 2 or keys_KD.dim() != 2 or anchors_PD.shape[1] != keys_KD.shape[1]:
        raise ShapeError(
            "Anchors and keys must be (P, D) and (K, D) with one D, but the student's shape is "
            f"{tuple(anchors_PD.shape)} and the teacher's {tuple(keys_KD.shape)}. Project the "
            "student to the dimensions of the teacher's embedding."
        )
    both = (anchor_classes_P, key_classes_K)
    classes = 1 + max((int(found.max()) for found in both if len(found)), default=0)
    keys_C = torch.bincount(key_classes_K, minlength=classes)
    positives_P = keys_C[anchor_classes_P]
    counts_P = positives_P > 0
    if not bool(counts_P.any()):
        return anchors_PD.sum() * 0
    anchors_PD, keys_KD = unit_vectors(anchors_PD) / temperature, unit_vectors(keys_KD.detach())
    # The mean over positives of a.p is a times their mean, so only the sum below needs all pairs.
    sums_CD = keys_KD.new_zeros(classes, keys_KD.shape[1]).index_add(0, key_classes_K, keys_KD)
    positive_PD = sums_CD[anchor_classes_P] / positives_P.clamp_min(1).unsqueeze(1)
    mean_positive_P = (anchors_PD * positive_PD).sum(dim=1)
    loss_P = (anchors_PD @ keys_KD.T).logsumexp(dim=1) - mean_positive_P
    return (loss_P * counts_P).sum() / counts_P.sum()


class ClassQueue(nn.Module):
    """The teacher's embeddings of earlier batches, a ring for each class, held in buffers.

    Args:
        classes: Number of classes C.
        capacity: Embeddings kept for each class; 0 keeps none.
        dimensions: Dimensions D of an embedding.
    """

    keys_CND: Tensor
    filled_C: Tensor
    cursor_C: Tensor

    def __init__(self, classes: int, capacity: int, dimensions: int) -> None:
        super().__init__()
        self.register_buffer("keys_CND", torch.zeros(classes, capacity, dimensions))
        self.register_buffer("filled_C", torch.zeros(classes, dtype=torch.long))
        self.register_buffer("cursor_C", torch.zeros(classes, dtype=torch.long))

    def contents(self) -> tuple[Tensor, Tensor]:
        """All keys `(K, D)` with their classes `(K,)`."""
        slots_N = torch.arange(self.keys_CND.shape[1], device=self.keys_CND.device)
        held_CN = slots_N.unsqueeze(0) < self.filled_C.unsqueeze(1)
        return self.keys_CND[held_CN], held_CN.nonzero()[:, 0]

    @torch.no_grad()
    def push(self, keys_KD: Tensor, classes_K: Tensor) -> None:
        """Take in a batch: the first of each class, at most an eighth of the capacity."""
        capacity = self.keys_CND.shape[1]
        for number in torch.unique(classes_K).tolist() if capacity else ():
            new_ND = keys_KD[classes_K == number][: math.ceil(capacity / REFRESH)]
            steps_N = torch.arange(len(new_ND), device=self.cursor_C.device)
            slots_N = (self.cursor_C[number] + steps_N) % capacity
            self.keys_CND[number, slots_N] = new_ND.to(self.keys_CND.dtype)
            self.cursor_C[number] = (self.cursor_C[number] + len(new_ND)) % capacity
            self.filled_C[number] = (self.filled_C[number] + len(new_ND)).clamp_max(capacity)


class SupCon(nn.Module):
    """`supcon` between the student's places and the teacher's, of this batch and of earlier ones.

    Anchors are class balanced and partly hard. A place has the class of its majority in the label
    map; on images without labels that of the teacher's confident prediction. The keys of the batch
    are the teacher's embeddings at the anchors' places. The queue grows in training mode only.
    """

    def __init__(
        self, config: FeatureTermConfig, sizes: FeatureSizes, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.config = config
        self.space = EmbeddingSpace(config.embedding_dim, sizes, generator)
        dimensions = self.space.embedding.dimensions
        self.queue = ClassQueue(sizes.classes, config.queue_per_class, dimensions)

    def forward(self, student_BC: Tensor, teacher_BC: Tensor, scene: Scene) -> Tensor:
        """The term's value for a batch; see `supcon`. 0 when no place has a known class."""
        student_BC, teacher_BC = meet(student_BC, teacher_BC, scene.space)
        places_P, classes_P = self._draw(scene, tuple(student_BC.shape[2:]))
        anchors_PD, keys_PD = self.space(rows(student_BC, places_P), rows(teacher_BC, places_P))
        earlier_KD, earlier_K = self.queue.contents()
        value = supcon(
            anchors_PD,
            torch.cat((keys_PD, earlier_KD)),
            anchor_classes_P=classes_P,
            key_classes_K=torch.cat((classes_P, earlier_K)),
            temperature=self.config.temperature,
        )
        if self.training:
            self.queue.push(keys_PD, classes_P)
        return value

    def _draw(self, scene: Scene, grid: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        trusted_B = scene.trusted_B(self.config.confidence)
        shares_BC = class_shares(trusted_B, scene.classes, grid)
        classes_N = pure_classes(shares_BC, self.config.purity)
        places_P = draw_balanced(
            classes_N,
            scene.wrong_N(trusted_B, grid),
            most=self.config.places,
            hard_share=self.config.hard_share,
            generator=scene.generator,
        )
        return places_P, classes_N[places_P]
