"""Parameters, multiply-accumulates and receptive fields against counts by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medstill.config import NetworkConfig
from medstill.errors import ShapeError
from medstill.networks import build, describe, macs, parameters, receptive_field


def chain(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(*layers)


def test_parameters_count_what_is_trained():
    network = nn.Conv2d(2, 3, (3, 5))
    assert parameters(network) == 2 * 3 * 15 + 3
    network.bias.requires_grad_(False)
    assert parameters(network) == 2 * 3 * 15


def test_macs_by_hand():
    network = chain(
        nn.Conv2d(2, 4, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.ConvTranspose2d(4, 5, 2, stride=2),
    )
    half = 6 * 10
    by_hand = half * (2 * 4 * 9) + half * (4 * 5 * 4)
    assert macs(network, (12, 20)) == by_hand


def test_macs_of_s1_by_hand():
    network = build(NetworkConfig(name="unet-s1"), spatial_dims=2, in_channels=3, out_channels=1)
    places = 64 * 96
    full = 3 * 16 * 9 + 32 * 16 * 9 + 16
    # A transposed convolution costs its weights once for every place of its input.
    half = 16 * 32 * 9 + 64 * 32 * 9 + 32 * 16 * 4
    quarter = 32 * 64 * 9 + 64 * 32 * 4
    assert macs(network, (64, 96)) == places * full + places // 4 * half + places // 16 * quarter


def test_macs_demand_a_size_the_network_takes():
    network = build(NetworkConfig(name="compact"), spatial_dims=2, in_channels=1, out_channels=1)
    with pytest.raises(ShapeError, match="divisible by 32"):
        macs(network, (40, 64))


def test_the_receptive_field_of_a_chain_by_hand():
    network = chain(
        nn.Conv3d(1, 2, (1, 3, 5), padding=(0, 1, 2)),
        nn.InstanceNorm3d(2),
        nn.ReLU(inplace=True),
        nn.MaxPool3d(3, stride=1, padding=1),
        nn.Conv3d(2, 1, (1, 3, 3), dilation=(1, 1, 2), padding=(0, 1, 2)),
    )
    found = receptive_field(network)
    assert found.size == (3, 7, 11)
    assert not found.lower_bound


def test_dead_units_do_not_hide_the_receptive_field():
    network = chain(nn.Conv2d(1, 1, 3, padding=1), nn.ReLU(), nn.Conv2d(1, 1, 3, padding=1))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(-1)
    assert receptive_field(network).size == (5, 5)
    assert all(bool((parameter == -1).all()) for parameter in network.parameters())


class Mean(nn.Module):
    """Adds the mean over the image to every place."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.conv(x)
        return y + y.mean(dim=(2, 3), keepdim=True)


def test_a_field_of_the_whole_image_is_called_a_lower_bound():
    found = receptive_field(Mean())
    assert found.lower_bound
    assert found.size == (512, 512)


@pytest.mark.parametrize(
    ("name", "dims", "low", "high"),
    [
        ("unet-s1", 2, 20, 26),
        ("unet-s2", 2, 20, 26),
        ("unet-t1", 2, 180, 200),
        ("compact", 2, 150, 400),
        ("compact-fine", 2, 150, 400),
        ("compact-dw", 2, 150, 200),
        ("unet-s1", 3, 20, 26),
        ("compact", 3, 120, 200),
        ("compact-fine", 3, 120, 200),
    ],
)
def test_receptive_fields_of_our_networks(name, dims, low, high):
    found = describe(NetworkConfig(name=name, width=0.25), spatial_dims=dims).receptive_field
    assert not found.lower_bound
    assert all(low <= extent <= high for extent in found.size)


def test_the_field_measured_on_a_thin_twin_is_that_of_the_network():
    config = NetworkConfig(name="unet-s1")
    network = build(config, spatial_dims=2, in_channels=3, out_channels=2)
    assert describe(config, in_channels=3).receptive_field == receptive_field(network)


def test_describe_says_it_all_and_leaves_the_generator_alone():
    before = torch.get_rng_state()
    facts = describe(NetworkConfig(name="unet-s1"), in_channels=3, size=(64, 96))
    assert torch.equal(before, torch.get_rng_state())
    assert (facts.name, facts.spatial_dims, facts.size) == ("unet-s1", 2, (64, 96))
    assert facts.parameters == 57_297
    assert facts.size_multiple == 4


def test_a_second_decoder_is_counted():
    config = NetworkConfig(name="unet-t1", width=1 / 16)
    one = describe(config, size=(32, 48))
    both = describe(config, size=(32, 48), reconstruction=True)
    assert one.parameters < both.parameters < 2 * one.parameters
    assert one.macs < both.macs < 2 * one.macs


def test_a_monai_network_is_described():
    options = {"channels": [4, 8], "strides": [2], "norm": "instance"}
    facts = describe(NetworkConfig(name="UNet", options=options), size=(32, 48))
    assert facts.size_multiple == 2
    assert not facts.receptive_field.lower_bound
    assert max(facts.receptive_field.size) < 32
    assert facts.macs > 0
