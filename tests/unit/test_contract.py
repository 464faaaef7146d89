"""The inference contract: what it holds, how it travels, what is refused."""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medstill.deploy.contract import (
    CONTRACT_VERSION,
    METADATA_KEY,
    MOST_CHARACTERS,
    Contract,
    NetworkSummary,
    Origin,
    Scores,
    logit_channels,
    read_contract,
)
from medstill.errors import ModelFileError
from medstill.volumes.intensity import INTENSITIES
from medstill.volumes.records import ChannelIntensity, Preparation, Seen
from medstill.volumes.terms import terms_of

FILE = Path("model.onnx")


def contract(**changes):
    preparation = Preparation(
        spatial_dims=3,
        spacing_zyx_mm=(3.0, 2.0, 1.0),
        intensity=(ChannelIntensity(kind="ct-window", low=-160.0, high=240.0),),
        classes=("background", "spleen", "Milz & Ärger \u2028"),
        patch_zyx=(17, 23, 31),
        seen=Seen(
            spacing_zyx_mm=((2.5, 5.0), (1.0, 1.3), (1.0, 1.3)), intensity=((-1000.0, 300.0),)
        ),
    )
    settings = {
        "network": NetworkSummary(name="compact", parameters=57_000, macs=10**9),
        "preparation": preparation,
        "terms": terms_of(preparation.classes, {}),
        "training": Origin(study="0123456789abcdef", weights="fedcba9876543210"),
        "scores": Scores(dice=0.8, low=0.7, high=0.85, patients=7, dice_by_class={"spleen": 0.8}),
    }
    return Contract(**{**settings, **changes})


def damaged(change):
    content = json.loads(contract().to_metadata()[METADATA_KEY])
    change(content)
    return {METADATA_KEY: json.dumps(content)}


def test_a_contract_survives_the_journey():
    assert read_contract(contract().to_metadata(), FILE) == contract()
    assert read_contract(contract(scores=None).to_metadata(), FILE) == contract(scores=None)


def test_it_says_what_it_is_for():
    text = contract().to_metadata()[METADATA_KEY]
    assert "Research use only, not a medical device" in text
    assert json.loads(text)["contract_version"] == CONTRACT_VERSION


def test_one_foreground_class_is_one_logit_channel():
    assert [logit_channels(classes) for classes in (2, 3, 14)] == [1, 3, 14]
    assert contract().output_channels == 3


def test_foreign_files_are_refused():
    with pytest.raises(ModelFileError, match=r"'model\.onnx' holds a network, but no medstill con"):
        read_contract({"author": "somebody"}, FILE)


@pytest.mark.parametrize("version", [CONTRACT_VERSION + 1, 0, "1", None, True, "x" * 10_000])
def test_other_versions_are_refused_before_anything_else(version):
    def change(content):
        content["contract_version"] = version
        content["network"] = "something new"

    with pytest.raises(ModelFileError, match=r"contract version .*reads version 2") as caught:
        read_contract(damaged(change), FILE)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("{", "no JSON"),
        ("", "no JSON"),
        ("[]", "found list"),
        ("null", "found NoneType"),
        ("[" * 100_000, "no JSON"),
        (" " * (MOST_CHARACTERS + 1), "characters long"),
    ],
)
def test_damaged_texts_are_refused(text, found):
    message = rf"contract inside 'model\.onnx' is damaged \(.*{found}.*Copy the file again"
    with pytest.raises(ModelFileError, match=message):
        read_contract({METADATA_KEY: text}, FILE)


def setting(*keys_and_value):
    *keys, last, value = keys_and_value

    def change(content):
        for key in keys:
            content = content[key]
        content[last] = value

    return change


def channel(kind, low, high):
    return setting("preparation", "intensity", 0, {"kind": kind, "low": low, "high": high})


@pytest.mark.parametrize("kind", sorted(INTENSITIES))
def test_the_numbers_that_studies_have_are_read(kind):
    low, high = INTENSITIES[kind].numbers or (0.0, 0.0)
    found = read_contract(damaged(channel(kind, low, high)), FILE).preparation.intensity[0]
    assert (found.kind, found.low, found.high) == (kind, low, high)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (setting("surprise", 1), "surprise: Extra inputs"),
        (setting("overlap", 1.0), "overlap: "),
        (setting("scores", "dice", 1.5), "scores.dice: "),
        (setting("training", "weights", "../../etc"), "training.weights: "),
        (setting("preparation", "spatial_dims", 4), "spatial_dims must be 2 or 3, found 4"),
        (setting("preparation", "spatial_dims", 2), "a 2-D patch has one slice"),
        (setting("preparation", "patch_zyx", [1, 0, 5]), "patch_zyx must be positive"),
        (setting("preparation", "patch_zyx", [2**20] * 3), "patch_zyx must be positive and hold"),
        (setting("preparation", "spacing_zyx_mm", [1, -1, 1]), "spacing_zyx_mm must lie"),
        (setting("preparation", "spacing_zyx_mm", [1, float("nan"), 1]), "spacing_zyx_mm"),
        (setting("preparation", "classes", ["one"]), "found 1 with 1 different"),
        (setting("preparation", "classes", ["a", "a"]), "found 2 with 1 different"),
        (
            setting("preparation", "classes", ["a", "b\x1b[2J", "c"]),
            "preparation.classes must have no control characters",
        ),
        (
            setting("network", "name", "x\x1b]0;y\x07\x1b[2J"),
            "network.name must have no control characters",
        ),
        (
            setting("intended_use", "For\x9b2Jall"),
            "intended_use must have no control characters",
        ),
        (
            setting("scores", "dice_by_class", {"a\nb": 0.5}),
            "scores.dice_by_class must have no control characters",
        ),
        (setting("preparation", "intensity", []), "1 to 64 channels expected, found 0"),
        (setting("preparation", "seen", "intensity", []), "seen must have"),
        (setting("preparation", "intensity", 0, "kind", "magic"), "intensity 'magic'"),
        (channel("percentiles", -5, 200), "within (0.0, 100.0), found low -5 and high 200"),
        (channel("percentiles", 90, 10), "'percentiles' must have low below high"),
        (channel("gray", 0, 100.5), "'gray' must have low below high within (0.0, 100.0)"),
        (channel("ct-window", 200, -200), "found low 200 and high -200"),
        (channel("ct-window", 5, 5), "'ct-window' must have low below high"),
        (channel("ct-window", -1e999, 5), "preparation.intensity.0.low: "),
        (setting("preparation", "pad_value", 1e300), "pad_value must lie within 1e+09 of 0"),
        (setting("preparation", "pad_value", -1e10), "of 0, found -1e+10"),
        (setting("preparation", "orientation", "XYZ"), "orientation must be LPS"),
        (setting("terms", []), "one for each of 2 foreground classes expected, found 0"),
        (setting("terms", 0, "type", "value", "78961009; DROP"), "terms.0.type.value: "),
        (setting("terms", 1, "type", "meaning", "a\\b"), "terms.1.type.meaning: "),
        (setting("terms", 0, "colour_rgb", [0, 0, 256]), "terms.0.colour_rgb.2: "),
    ],
)
def test_wrong_entries_are_named(change, found):
    with pytest.raises(ModelFileError, match=rf"is damaged \(.*{re.escape(found)}"):
        read_contract(damaged(change), FILE)


def test_control_characters_of_a_file_reach_no_message():
    with pytest.raises(ModelFileError, match=r"key\?\[2J: Extra inputs") as caught:
        read_contract(damaged(setting("key\x1b[2J", 1)), FILE)
    assert str(caught.value).isprintable()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@given(key=st.sampled_from(sorted(Contract.model_fields)), value=json_values)
def test_whatever_stands_in_a_field_is_read_or_refused_clearly(key, value):
    metadata = damaged(setting(key, value))
    with contextlib.suppress(ModelFileError):
        assert isinstance(read_contract(metadata, FILE), Contract)


@given(text=st.text())
def test_any_text_is_refused_clearly(text):
    with pytest.raises(ModelFileError, match=r"model\.onnx"):
        read_contract({METADATA_KEY: text}, FILE)
