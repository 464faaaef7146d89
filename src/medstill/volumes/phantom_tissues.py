"""The tissues and labels of the CT phantom, and the volume that they are painted on.

Arrays are `Z Y X`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]

LABELS = ("background", "spleen", "right kidney", "left kidney", "liver", "stomach", "aorta")
"""Label names in the order of their values."""


class Tissue(IntEnum):
    """What a voxel is made of."""

    AIR = 0
    FAT = 1
    MUSCLE = 2
    LUNG = 3
    SPONGY_BONE = 4
    COMPACT_BONE = 5
    DISC = 6
    LIVER = 7
    SPLEEN = 8
    CORTEX = 9
    MEDULLA = 10
    STOMACH = 11
    BOWEL = 12
    BRIGHT_BOWEL = 13
    PANCREAS = 14
    BILE = 15
    ARTERY = 16
    VEIN = 17
    GAS = 18
    TABLE_SHELL = 19
    TABLE_FOAM = 20


@dataclass(frozen=True)
class Anatomy:
    """Tissue and label of every voxel."""

    tissue_ZYX: NDArray[np.uint8]
    label_ZYX: NDArray[np.uint8]

    def paint(self, where: Mask, tissue: Tissue, label: str = "background") -> None:
        """Give the voxels of `where` a tissue and a label, over what they were before."""
        self.tissue_ZYX[where] = tissue
        self.label_ZYX[where] = LABELS.index(label)
