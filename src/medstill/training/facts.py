"""What a study's networks cost: parameters, multiply-adds, receptive field."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

from medstill.config import NetworkConfig
from medstill.networks import NETWORKS, NetworkFacts, describe
from medstill.training.assembly import output_channels
from medstill.volumes.records import Preparation


def network_facts(
    config: NetworkConfig,
    preparation: Preparation,
    *,
    reconstruction: bool = False,
    members: int = 0,
) -> dict[str, Any]:
    """Parameters, multiply-adds of one input of the patch size, and receptive field.

    With `members` they are those of so many networks of the kind together.
    """
    facts = describe(
        config,
        spatial_dims=preparation.spatial_dims,
        in_channels=preparation.channels,
        out_channels=output_channels(preparation),
        size=preparation.patch_zyx[3 - preparation.spatial_dims :],
        reconstruction=reconstruction,
    )
    if members:
        facts = replace(
            facts,
            name=f"{members} x {facts.name}",
            parameters=members * facts.parameters,
            macs=members * facts.macs,
        )
    return asdict(facts)


def network_table(
    name: str | None, spatial_dims: int, channels: int, classes: int, edge: int | None
) -> list[tuple[NetworkFacts, str]]:
    """What our networks, or one network by name, cost, with what each is for.

    Args:
        name: One network, MONAI's included; None lists all of ours.
        spatial_dims: 2 or 3.
        channels: Channels of the input.
        classes: Classes, background included.
        edge: Edge of the image in pixels; None takes the network's default.
    """
    rows = []
    for one in [name] if name else NETWORKS:
        facts = describe(
            NetworkConfig(name=one),
            spatial_dims=spatial_dims,
            in_channels=channels,
            out_channels=1 if classes == 2 else classes,
            size=(edge,) * spatial_dims if edge else None,
            reconstruction=one in NETWORKS and NETWORKS[one].teaches,
        )
        rows.append((facts, NETWORKS[one].purpose if one in NETWORKS else "MONAI"))
    return rows
