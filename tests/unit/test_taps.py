"""Taps on named layers: what they record, and that they leave nothing behind."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import Tensor, nn

from medstill.config import NetworkConfig
from medstill.errors import ConfigError, UnknownNameError
from medstill.networks import Taps, build, layer_names, preset_layer, tap_channels


class Odd(nn.Module):
    """Gives a list of tensors, or words."""

    def __init__(self, answer: object) -> None:
        super().__init__()
        self.inner = Gives(answer)

    def forward(self, x: Tensor) -> Tensor:
        self.inner(x)
        return x


class Gives(nn.Module):
    def __init__(self, answer: object) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, x: Tensor) -> object:  # noqa: ARG002
        return self.answer


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 2, 1)
        self.norm = nn.BatchNorm2d(2)
        self.twice = nn.Conv2d(2, 2, 1, bias=False)
        self.idle = nn.ReLU()
        self.tokens = nn.Flatten(2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.twice(self.twice(self.norm(self.first(x))))
        self.tokens(y)
        return y


def hooks(network: nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in network.modules())


def test_features_are_the_outputs_of_the_layers_with_their_gradients():
    network = Plain()
    x = torch.randn(2, 1, 3, 5)
    with Taps(network, {"a": "first", "b": "norm"}) as taps:
        network(x)
        assert torch.equal(taps.features["a"], network.first(x))
        taps.features["b"].square().sum().backward()
    assert network.norm.weight.grad is not None


def test_nothing_is_left_after_the_block_nor_after_an_exception():
    network = Plain()
    taps = Taps(network, {"a": "first"})
    with taps, torch.no_grad():
        network(torch.randn(1, 1, 3, 5))
        feature = weakref.ref(taps.features["a"])
        assert hooks(network) == 1
    gc.collect()
    assert hooks(network) == 0
    assert feature() is None
    with pytest.raises(ZeroDivisionError), taps:
        raise ZeroDivisionError
    assert hooks(network) == 0


def test_the_same_taps_record_again_and_not_twice_at_once():
    network = Plain()
    taps = Taps(network, {"a": "first"})
    for value in (1.0, 2.0):
        x = torch.full((1, 1, 2, 3), value)
        with taps:
            network(x)
            assert torch.equal(taps.features["a"], network.first(x))
            with pytest.raises(RuntimeError, match="recording already"), taps:
                pass
    with pytest.raises(RuntimeError, match="inside the 'with' block"):
        _ = taps.features


def test_of_a_layer_that_runs_twice_the_last_output_is_kept():
    network = Plain()
    with Taps(network, {"a": "twice"}) as taps:
        answer = network(torch.randn(2, 1, 3, 5))
        assert taps.features["a"] is answer


def test_of_a_list_the_first_tensor_is_kept_and_other_answers_are_refused():
    x = torch.randn(2, 1, 3, 5)
    first = torch.ones(1)
    network = Odd([first, torch.zeros(1)])
    with Taps(network, {"a": "inner"}) as taps:
        network(x)
        assert taps.features["a"] is first
    network = Odd("words")
    with Taps(network, {"a": "inner"}), pytest.raises(ConfigError, match="'inner' gives str"):
        network(x)


def test_a_wrong_layer_is_answered_with_the_right_ones():
    network = Plain()
    with pytest.raises(UnknownNameError, match=r"'fist'. Did you mean 'first'.*There are: .*norm"):
        Taps(network, {"a": "fist"})
    with pytest.raises(UnknownNameError, match="No layer"):
        Taps(network, {"a": ""})
    assert layer_names(network) == ("first", "norm", "twice", "idle", "tokens")


def test_tap_channels_touch_neither_statistics_nor_modes():
    network = Plain()
    network.train()
    network.twice.eval()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    assert tap_channels(network, {"a": "first", "b": "twice"}, (1, 1, 4, 6)) == {"a": 2, "b": 2}
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    assert network.training
    assert not network.twice.training
    assert hooks(network) == 0


def test_tap_channels_refuse_layers_that_do_not_run_or_give_no_map():
    with pytest.raises(ConfigError, match="'idle' did not"):
        tap_channels(Plain(), {"a": "idle"}, (1, 1, 4, 6))
    with pytest.raises(ConfigError, match=r"'tokens' gives \(1, 2, 24\)"):
        tap_channels(Plain(), {"a": "tokens"}, (1, 1, 4, 6))


def test_presets_exist_for_our_networks_only():
    assert preset_layer("unet-s1", "E") == "encoder.pools.1"
    foreign = build(
        NetworkConfig(name="UNet", options={"channels": [4, 8], "strides": [2]}),
        spatial_dims=2,
        in_channels=1,
        out_channels=1,
    )
    with pytest.raises(ConfigError, match=r"student_layer or teacher_layer.*layers are: model"):
        preset_layer(foreign, "E")
    with pytest.raises(ConfigError, match="network is 'UNet'"):
        preset_layer("UNet", "B")
    with pytest.raises(UnknownNameError, match="No preset scale is called 'F'"):
        preset_layer("unet-s1", "F")


def test_the_thesis_scales_have_the_channels_of_the_thesis():
    network = build(NetworkConfig(name="unet-s1"), spatial_dims=2, in_channels=3, out_channels=1)
    layers = {scale: preset_layer(network, scale) for scale in "EBD"}
    assert tap_channels(network, layers, (1, 3, 16, 24)) == {"E": 32, "B": 64, "D": 16}
