"""The class frequencies that a network starts from, where its recipe asks for them."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from medstill.config import TrainingConfig
from medstill.networks import names_its_head, set_prior
from medstill.volumes.store import PreparedSet, voxels_by_class


def start_from_frequencies(
    network: nn.Module, recipe: TrainingConfig, prepared: PreparedSet, cases: Sequence[str]
) -> None:
    """Start the last bias at the class frequencies in the labels of some cases.

    `head_prior` of the recipe decides: true, false, or None for every network that names its head.

    Raises:
        ConfigError: The network does not say which layer is its head.
    """
    wanted = names_its_head(network) if recipe.head_prior is None else recipe.head_prior
    if wanted:
        infos = [prepared.infos[name] for name in cases]
        set_prior(network, voxels_by_class(infos, len(prepared.preparation.classes)).tolist())
