"""The second teacher: a transformer that attends to every place of the stride-16 map."""

import subprocess
import sys

import pytest
import torch
from torch.nn import functional as F

from medstill.config import NetworkConfig
from medstill.errors import ConfigError
from medstill.networks import build, parameters, receptive_field, run
from medstill.networks.transunet import POSITIONS


def make(dims=2, *, width=1 / 16, depth=1 / 4, channels=(1, 3), reconstruction=False):
    torch.manual_seed(0)
    return build(
        NetworkConfig(name="transunet-t2", width=width, depth=depth),
        spatial_dims=dims,
        in_channels=channels[0],
        out_channels=channels[1],
        reconstruction=reconstruction,
    ).eval()


@pytest.mark.parametrize(
    ("dims", "both", "count"),
    [(2, True, 113_672_132), (2, False, 102_003_905), (3, True, 165_358_916)],
)
def test_the_default_size_is_the_one_that_is_stated(dims, both, count):
    with torch.device("meta"):
        network = make(dims, width=1, depth=1, channels=(3, 1), reconstruction=both)
    assert parameters(network) == count
    assert [len(network.encoder.bottleneck.blocks), network.encoder.bottleneck.channels] == [
        12,
        768,
    ]


@pytest.mark.parametrize(
    ("width", "depth", "blocks", "channels", "heads"),
    [(0.25, 0.5, 6, 192, 3), (0.125, 1.0, 12, 96, 2), (1 / 16, 0.01, 1, 48, 1)],
)
def test_width_and_depth_are_factors(width, depth, blocks, channels, heads):
    found = make(width=width, depth=depth).encoder.bottleneck
    assert (len(found.blocks), found.channels) == (blocks, channels)
    assert {block.attn.num_heads for block in found.blocks} == {heads}


@pytest.mark.parametrize(("size", "tokens"), [((64, 96), 24), ((32, 48, 16), 6)])
def test_the_transformer_sees_a_token_for_every_place(size, tokens):
    network = make(len(size))
    seen = []
    network.encoder.bottleneck.blocks[0].register_forward_pre_hook(
        lambda _, inputs: seen.append(inputs[0].shape)
    )
    run(network, torch.rand(2, 1, *size))
    assert seen == [(2, tokens, 48)]


def test_every_place_of_the_image_reaches_the_centre():
    field = receptive_field(make())
    assert field.lower_bound
    assert field.size == (512, 512)


@pytest.mark.parametrize("grid", [(16, 16), (4, 6), (8, 8, 8), (2, 5, 3)])
def test_position_embeddings_are_interpolated_to_the_grid_at_hand(grid):
    bottleneck = make(len(grid)).encoder.bottleneck
    stored = POSITIONS[len(grid)]
    # A ramp along the last axis: at place i of n it is sampled at (i + 1/2) N / n - 1/2.
    ramp = torch.arange(float(stored[-1])).expand(1, 48, *stored)
    bottleneck.positions.data.copy_(ramp)
    seen = []
    bottleneck.blocks[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    bottleneck.embed.weight.data.zero_()
    bottleneck(torch.rand(1, 32, *grid))
    places = (torch.arange(grid[-1]) + 0.5) * stored[-1] / grid[-1] - 0.5
    expected = places.expand(48, *grid).flatten(1).T[None]
    torch.testing.assert_close(seen[0], expected)


def test_without_positions_a_turned_map_is_answered_by_a_turned_map_and_with_them_not():
    bottleneck = make().encoder.bottleneck
    x = torch.rand(1, 32, 4, 6)

    def difference():
        with torch.no_grad():
            return (bottleneck(x.flip(3)).flip(3) - bottleneck(x)).abs().max().item()

    bottleneck.positions.data.normal_()
    assert difference() > 0.1
    bottleneck.positions.data.zero_()
    assert difference() < 1e-5


def test_a_block_is_pre_norm_attention_and_mlp():
    """Derived a second time from the weights of the block."""
    block = make().encoder.bottleneck.blocks[0]
    x = torch.rand(2, 5, 48)
    normed = F.layer_norm(x, (48,))
    query, key, value = F.linear(normed, block.attn.qkv.weight, block.attn.qkv.bias).chunk(3, dim=2)
    weights = (query @ key.transpose(1, 2) / 48**0.5).softmax(dim=2)
    attended = x + F.linear(weights @ value, block.attn.out_proj.weight)
    hidden = F.gelu(F.linear(F.layer_norm(attended, (48,)), block.mlp.linear1.weight))
    expected = attended + F.linear(hidden, block.mlp.linear2.weight)
    with torch.no_grad():
        torch.testing.assert_close(block(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["unet-t1", "compact", "UNet"])
def test_a_depth_factor_for_another_network_is_refused(name):
    with pytest.raises(ConfigError, match=rf"is for transunet-t2, but .* '{name}' and depth is 2"):
        build(NetworkConfig(name=name, depth=2.0), spatial_dims=2, in_channels=1, out_channels=1)


def test_monai_is_imported_when_the_network_is_built_and_not_before():
    script = (
        "import sys, medstill.networks as n; from medstill.config import NetworkConfig as C; "
        "assert 'monai' not in sys.modules; "
        "n.build(C(name='transunet-t2', width=0.05, depth=0.1), spatial_dims=2, in_channels=1, "
        "out_channels=1); assert 'monai' in sys.modules"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True)
