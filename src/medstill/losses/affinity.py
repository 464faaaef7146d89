"""Region affinity: how alike the classes look to the teacher, so they should to the student.

Shape legend: B batch, C classes, D channels, N places, `...` space (H W or D H W).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medstill.config import FeatureTermConfig
from medstill.errors import ShapeError
from medstill.losses.embedding import FeatureSizes
from medstill.losses.numerics import in_full_precision, unit_vectors
from medstill.losses.places import Scene, class_shares, meet


@in_full_precision
def affinity(
    student_BD: Tensor, teacher_BD: Tensor, *, regions_BC: Tensor, present_BC: Tensor
) -> Tensor:
    """Squared difference of cosines between class prototypes, mean over pairs of classes.

    A prototype is the mean feature of a class's region in one sample. Only pairs of two different
    classes that are both present count, and only they share in the mean over pairs and samples.
    Prototypes of each side are compared among themselves, so channel counts may differ
    and no projector is needed.

    Args:
        student_BD: Features `(B, D, ...)`.
        teacher_BD: Features `(B, D', ...)` on the same grid; no gradient flows into them.
        regions_BC: Share of each class in each place `(B, C, ...)`, >= 0.
        present_BC: Which classes count in each sample, booleans `(B, C)`.

    Returns:
        Scalar in [0, 4]; 0 with gradient 0 when no sample has two classes.

    Raises:
        ShapeError: The grids or batches differ.

    References:
        Qin et al., Efficient Medical Image Segmentation Based on Knowledge Distillation (EMKD),
        IEEE TMI 2021, arXiv:2108.09987. Deviation: only classes that the teacher predicts.
    """
    shapes = [(len(x), *x.shape[2:]) for x in (student_BD, teacher_BD, regions_BC)]
    if len(set(shapes)) > 1 or present_BC.shape != regions_BC.shape[:2]:
        raise ShapeError(
            "Features and class regions must share batch and grid, but the student's shape is "
            f"{tuple(student_BD.shape)}, the teacher's {tuple(teacher_BD.shape)}, the regions' "
            f"{tuple(regions_BC.shape)} and that of the classes present {tuple(present_BC.shape)}. "
            "Bring all to one grid first."
        )
    regions_BCN = regions_BC.to(student_BD.dtype).flatten(2)
    counts_BC = present_BC & (regions_BCN.sum(dim=2) > 0)
    pairs_BCC = counts_BC.unsqueeze(2) & counts_BC.unsqueeze(1)
    pairs_BCC = pairs_BCC & ~torch.eye(
        counts_BC.shape[1], dtype=torch.bool, device=pairs_BCC.device
    )
    difference = _cosines(student_BD, regions_BCN) - _cosines(teacher_BD.detach(), regions_BCN)
    return (difference.square() * pairs_BCC).sum() / pairs_BCC.sum().clamp_min(1)


def _cosines(features_BD: Tensor, regions_BCN: Tensor) -> Tensor:
    sums_BCD = regions_BCN @ features_BD.flatten(2).transpose(1, 2)
    prototypes_BCD = sums_BCD / regions_BCN.sum(dim=2, keepdim=True).clamp_min(1e-6)
    unit_BDC = unit_vectors(prototypes_BCD.transpose(1, 2))
    return unit_BDC.transpose(1, 2) @ unit_BDC


class Affinity(nn.Module):
    """`affinity` with regions from the labels, and from the teacher's classes where there are none.

    It has no parameters; the projector's settings of its configuration have no meaning here.
    """

    def __init__(
        self, config: FeatureTermConfig, sizes: FeatureSizes, generator: torch.Generator
    ) -> None:
        super().__init__()
        del config, sizes, generator

    def forward(self, student_BC: Tensor, teacher_BC: Tensor, scene: Scene) -> Tensor:
        """The term's value for a batch; see `affinity`."""
        student_BC, teacher_BC = meet(student_BC, teacher_BC, scene.space)
        regions_BC = class_shares(scene.regions_B, scene.classes, student_BC.shape[2:])
        return affinity(student_BC, teacher_BC, regions_BC=regions_BC, present_BC=scene.present_BC)
