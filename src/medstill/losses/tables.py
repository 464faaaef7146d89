"""Every distillation loss by name. A new one is one file and one line here."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from medstill.config import FeatureTermConfig
from medstill.errors import unknown_name
from medstill.losses.affinity import Affinity
from medstill.losses.cwd import cwd
from medstill.losses.dist import dist
from medstill.losses.embedding import FeatureSizes
from medstill.losses.infonce import PixelInfoNCE, PooledInfoNCE
from medstill.losses.kl import kl
from medstill.losses.mse import FeatureMSE
from medstill.losses.supcon import SupCon


class FeatureLoss(Protocol):
    """Builds the module of a feature term: `module(student_BC, teacher_BC, scene) -> scalar`."""

    def __call__(
        self, config: FeatureTermConfig, sizes: FeatureSizes, generator: torch.Generator
    ) -> nn.Module: ...


class MapLoss(Protocol):
    """A loss on output logits `(B, C, ...)`, with a weight per place."""

    def __call__(
        self,
        student_BC: Tensor,
        teacher_BC: Tensor,
        *,
        temperature: float,
        weight_B: Tensor | None = None,
    ) -> Tensor: ...


FEATURE_LOSSES: dict[str, FeatureLoss] = {
    "mse": FeatureMSE,
    "infonce": PixelInfoNCE,
    "infonce-pooled": PooledInfoNCE,
    "supcon": SupCon,
    "affinity": Affinity,
}

MAP_LOSSES: dict[str, MapLoss] = {
    "kl": kl,
    "cwd": cwd,
    "dist": dist,
}


def feature_loss(name: str) -> FeatureLoss:
    """The feature loss of a name.

    Raises:
        UnknownNameError: There is none; the message lists all names.
    """
    if name not in FEATURE_LOSSES:
        raise unknown_name("feature loss", name, FEATURE_LOSSES)
    return FEATURE_LOSSES[name]


def map_loss(name: str) -> MapLoss:
    """The loss on output maps of a name.

    Raises:
        UnknownNameError: There is none; the message lists all names.
    """
    if name not in MAP_LOSSES:
        raise unknown_name("map loss", name, MAP_LOSSES)
    return MAP_LOSSES[name]
