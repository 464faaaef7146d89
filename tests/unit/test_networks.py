"""Building networks by name, what they answer, and which sizes they take."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

from medstill.config import NetworkConfig
from medstill.errors import ConfigError, ShapeError, UnknownNameError
from medstill.networks import (
    Output,
    build,
    can_reconstruct,
    check_name,
    check_size,
    known_names,
    parameters,
    request_of,
    run,
    size_multiple,
)
from medstill.networks.foreign import names as monai_names

SMALL_UNET = {"channels": [4, 8, 8], "strides": [2, 2], "norm": "batch"}


def make(name: str, dims: int = 2, channels: tuple[int, int] = (3, 1), **keys: object) -> nn.Module:
    reconstruction = bool(keys.pop("reconstruction", False))
    return build(
        NetworkConfig(name=name, **keys),
        spatial_dims=dims,
        in_channels=channels[0],
        out_channels=channels[1],
        reconstruction=reconstruction,
    )


@pytest.mark.parametrize(
    ("name", "reconstruction", "count"),
    [("unet-t1", True, 43_236_036), ("unet-s1", False, 57_297), ("unet-s2", False, 227_233)],
)
def test_the_networks_of_the_thesis_have_exactly_their_parameters(name, reconstruction, count):
    assert parameters(make(name, reconstruction=reconstruction)) == count


@pytest.mark.parametrize("name", ["compact", "compact-fine", "compact-dw"])
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("channels", [(1, 1), (3, 1), (1, 14), (3, 14)])
def test_compact_students_keep_their_budget(name, dims, channels):
    assert 50_000 < parameters(make(name, dims, channels)) <= 60_000


def test_the_stem_of_compact_is_a_3x3_convolution_on_the_unshuffled_image():
    stem = make("compact", channels=(2, 1)).encoder.blocks[0][0]
    x = torch.randn(1, 2, 32, 64)
    width = stem.out_channels
    # Kernel place 2a + b of the 6x6 filter is tap a of phase b of the image.
    folded = stem.weight.reshape(width, 2, 3, 2, 3, 2).permute(0, 1, 3, 5, 2, 4)
    unshuffled = torch.nn.functional.pixel_unshuffle(x, 2)
    expected = torch.nn.functional.conv2d(unshuffled, folded.reshape(width, 8, 3, 3), padding=1)
    torch.testing.assert_close(stem(x), expected, rtol=1e-4, atol=1e-5)


def test_compact_fine_adds_logits_of_half_resolution_where_classes_outnumber_its_channels():
    assert make("compact-fine", channels=(1, 8)).segmentation.coarse_head is None
    many = make("compact-fine", channels=(1, 9)).eval()
    x = torch.randn(1, 1, 64, 32)
    both = run(many, x).logits
    coarse = []
    many.segmentation.coarse_head.register_forward_hook(lambda *found: coarse.append(found[2]))
    torch.nn.init.zeros_(many.segmentation.head.weight)
    torch.testing.assert_close(run(many, x).logits, coarse[0])
    assert coarse[0].abs().amax() > 0
    assert not torch.allclose(both, coarse[0])


def test_a_reconstruction_comes_from_the_same_pass_and_has_the_channels_of_the_input():
    network = make("unet-t1", channels=(3, 2), width=1 / 16, reconstruction=True)
    passes = []
    network.encoder.register_forward_hook(lambda *_: passes.append(1))
    output = run(network, torch.randn(2, 3, 32, 48))
    assert output.logits.shape == (2, 2, 32, 48)
    assert output.reconstruction is not None
    assert output.reconstruction.shape == (2, 3, 32, 48)
    assert len(passes) == 1


def test_without_reconstruction_the_teacher_has_one_decoder_less():
    both = make("unet-t1", width=1 / 16, reconstruction=True)
    single = make("unet-t1", width=1 / 16)
    assert parameters(both.reconstruction) == parameters(both) - parameters(single)
    assert run(single, torch.zeros(1, 3, 16, 32)).reconstruction is None


def test_reconstruction_of_a_network_without_second_decoder_is_refused():
    assert can_reconstruct("unet-s1")
    assert not can_reconstruct("compact")
    with pytest.raises(ConfigError, match=r"transunet-t2, unet-s1.*is 'compact'.*weight to 0"):
        make("compact", reconstruction=True)


def test_options_of_our_own_networks_are_refused():
    with pytest.raises(ConfigError, match=r"takes a width factor and no options.*depth"):
        make("unet-s1", options={"depth": 3})


def test_a_wrong_number_of_dimensions_is_refused():
    with pytest.raises(ConfigError, match="2 or 3 spatial dimensions, not 4"):
        make("unet-s1", dims=4)


def test_the_width_factor_scales_every_level():
    widths = {
        layer.out_channels
        for layer in make("unet-s1", width=2).encoder.modules()
        if isinstance(layer, nn.Conv2d)
    }
    assert widths == {32, 64, 128}


def test_weights_depend_on_the_generator_state_alone():
    def weights(seed: int) -> torch.Tensor:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return torch.cat([p.detach().flatten() for p in make("compact").parameters()])

    assert torch.equal(weights(3), weights(3))
    assert not torch.equal(weights(3), weights(4))


def test_names_are_checked_without_building():
    for name in (*known_names(), "UNet", "monai:UNet"):
        check_name(name)
    assert "compact" in known_names()
    assert {"UNet", "SegResNet", "DynUNet"} <= set(monai_names())
    with pytest.raises(UnknownNameError, match="Did you mean 'unet-s1'"):
        check_name("unet-s11")
    with pytest.raises(UnknownNameError, match="Did you mean 'SegResNet'"):
        check_name("monai:SegResNett")


def test_a_monai_network_gets_dimensions_and_channels_filled_in():
    network = make("monai:UNet", 3, (2, 5), options=SMALL_UNET)
    assert run(network, torch.zeros(2, 2, 8, 12, 4)).logits.shape == (2, 5, 8, 12, 4)
    assert request_of(network).out_channels == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"'UNet' needs channels, strides.*It takes: spatial_dims, in_channels"),
        ({**SMALL_UNET, "nrom": 1}, "No option of 'UNet' is called 'nrom'. Did you mean 'norm'"),
        ({**SMALL_UNET, "in_channels": 1}, "in_channels, but the data decide it"),
        (
            {**SMALL_UNET, "strides": [2]},
            r"refuses its options \(ValueError: .*takes: spatial_dims",
        ),
    ],
)
def test_wrong_monai_options_are_answered_with_the_right_ones(options, message):
    with pytest.raises(ConfigError, match=message):
        make("UNet", options=options)


def test_a_width_factor_for_monai_is_refused():
    with pytest.raises(ConfigError, match=r"width is for our own networks.*width is 0\.5.*strides"):
        make("UNet", width=0.5, options=SMALL_UNET)


def test_size_multiples_of_foreign_networks_are_found_by_trying():
    assert size_multiple(make("UNet", options=SMALL_UNET)) == 4
    assert size_multiple(nn.Conv2d(2, 3, 3, padding=1)) == 1


def test_a_network_of_one_size_is_asked_for_it():
    network = nn.Conv2d(1, 1, 1)
    request = request_of(network)
    network.request = type(request)("x", 2, 1, 1, options={"img_size": (64, 96)})
    assert size_multiple(network) == 32


def test_a_network_that_takes_no_size_is_refused():
    with pytest.raises(ShapeError, match=r"divisible by one of 1, 2.*ShapeError: Conv2d.*img_size"):
        size_multiple(nn.Conv2d(1, 1, 3))


def test_a_size_that_does_not_fit_is_answered_with_the_next_that_does():
    network = make("compact", channels=(1, 1))
    check_size(network, (64, 96))
    with pytest.raises(ShapeError, match=r"divisible by 32, but got \(64, 97\).*\(64, 128\)"):
        check_size(network, (64, 97))


class Answers(nn.Module):
    """Gives what it was told to."""

    def __init__(self, answer: object) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, x: torch.Tensor) -> object:  # noqa: ARG002
        return self.answer


LOGITS = torch.arange(2 * 3 * 4 * 6.0).reshape(2, 3, 4, 6)


@pytest.mark.parametrize(
    "answer",
    [
        LOGITS,
        (LOGITS, None),
        [LOGITS, torch.zeros(2, 3, 2, 3)],
        {"aux": torch.zeros(1), "out": LOGITS},
        {"logits": [LOGITS]},
        {"pred": LOGITS},
        torch.stack([LOGITS, -LOGITS], dim=1),
        Output(LOGITS, None),
    ],
    ids=["tensor", "tuple", "deep", "out", "logits", "pred", "stacked", "output"],
)
def test_every_form_of_answer_becomes_an_output(answer):
    output = run(Answers(answer), torch.zeros(2, 1, 4, 6))
    assert torch.equal(output.logits, LOGITS)
    assert output.reconstruction is None


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"masks": LOGITS}, "a dict with the keys masks"),
        ([], "but gave list"),
        (None, "but gave NoneType"),
        (
            LOGITS[..., :3],
            re.escape("(2, C, 4, 6) for the input (2, 1, 4, 6), but gave (2, 3, 4, 3)"),
        ),
        (LOGITS.mean(dim=(2, 3)), re.escape("but gave (2, 3). Choose a segmentation network")),
    ],
)
def test_an_answer_that_is_no_segmentation_is_refused(answer, message):
    with pytest.raises(ShapeError, match=message):
        run(Answers(answer), torch.zeros(2, 1, 4, 6))


def test_a_network_that_tells_nothing_about_its_input_is_refused():
    with pytest.raises(ConfigError, match=r"should have been built by.*network\.request"):
        request_of(nn.ReLU())
