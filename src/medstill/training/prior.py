"""The class frequencies that a network starts from, where its recipe asks for them."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from medstill.config import TrainingConfig
from medstill.networks import set_prior
from medstill.volumes.store import PreparedSet, voxels_by_class


def start_from_frequencies(
    network: nn.Module, recipe: TrainingConfig, prepared: PreparedSet, cases: Sequence[str]
) -> None:
    """With `head_prior`: start the last bias at the frequencies in the labels of some cases.

    Raises:
        ConfigError: The network does not say which layer is its head.
    """
    if recipe.head_prior:
        infos = [prepared.infos[name] for name in cases]
        set_prior(network, voxels_by_class(infos, len(prepared.preparation.classes)).tolist())
