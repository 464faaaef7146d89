"""Verification on whole cases: counted by hand, and refused by how much."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from fake_model import contract_of

from medstill.deploy.contract import Verification
from medstill.deploy.verification import INFINITE, Trial, demand_agreement, verify
from medstill.errors import ModelFileError, ShapeError

SHAPE_ZYX = (3, 20, 30)


@dataclass(frozen=True)
class FakeCase:
    image_CZYX: np.ndarray
    label_ZYX: np.ndarray


def case(seed):
    values = np.random.default_rng(seed).uniform(-1, 1, size=(2, *SHAPE_ZYX)).astype(np.float32)
    return FakeCase(values, truth_of(values))


def truth_of(image_CZYX):
    return (image_CZYX[0] > 0).astype(np.uint8)


def network(image_BCYX):
    """Class 1 where the first channel is positive, never class 2."""
    first = image_BCYX[:, :1]
    return np.concatenate([-first, first, np.full_like(first, -9)], axis=1)


def share_of_equal(pairs):
    return float(np.mean([np.mean(one == other) for one, other in pairs]))


TRIAL = Trial([case(0), case(1)], share_of_equal)
VOXELS = 2 * int(np.prod(SHAPE_ZYX))


def test_the_same_network_agrees_everywhere():
    found = verify(network, network, TRIAL, contract_of())
    assert (found.cases, found.voxels) == (2, VOXELS)
    assert (found.label_agreement, found.largest_logit_difference) == (1.0, 0.0)
    assert (found.dice_pytorch, found.dice, found.dice_change) == (1.0, 1.0, 0.0)


def test_labels_that_differ_are_counted_through_patches_and_stitching():
    marked = [FakeCase(one.image_CZYX.copy(), one.label_ZYX) for one in TRIAL.cases]
    for one in marked:
        # The second channel marks 7 voxels of each case, which only the other network looks at.
        one.image_CZYX[1] = 0.0
        one.image_CZYX[1, 2, 4, 10:17] = 1.0

    def other(image_BCYX):
        logits = network(image_BCYX)
        logits[:, 2] += 100.0 * image_BCYX[:, 1]
        return logits

    found = verify(network, other, Trial(marked, share_of_equal), contract_of())
    assert found.label_agreement == pytest.approx(1 - 14 / VOXELS)
    assert found.dice_pytorch == 1.0
    assert found.dice == pytest.approx(1 - 14 / VOXELS)
    assert found.dice_change == pytest.approx(-14 / VOXELS)
    assert found.largest_logit_difference == pytest.approx(100.0)


def test_what_is_not_a_number_is_infinitely_far_away():
    def broken(image_BCYX):
        logits = network(image_BCYX)
        logits[0, 0, 0, 0] = np.nan
        return logits

    found = verify(network, broken, TRIAL, contract_of())
    assert found.largest_logit_difference == INFINITE
    with pytest.raises(ModelFileError, match="it gives logits that are not numbers"):
        demand_agreement(found, "int8", Path("a.onnx"))


def test_networks_of_other_classes_and_trials_without_cases_are_refused():
    with pytest.raises(ShapeError, match=r"Expected logits of shape \(.*gives \("):
        verify(network, lambda image_BCYX: image_BCYX, TRIAL, contract_of())
    with pytest.raises(ShapeError, match="there are none"):
        verify(network, network, Trial([], share_of_equal), contract_of())


def record(agreement=1.0, before=0.9, after=0.9):
    return Verification(
        cases=2,
        voxels=100_000,
        label_agreement=agreement,
        dice_pytorch=before,
        dice=after,
        largest_logit_difference=0.5,
    )


@pytest.mark.parametrize(
    ("precision", "found"),
    [
        ("fp32", record(agreement=0.9999)),
        ("fp32", record(after=0.8991)),
        ("fp32", record(after=0.9009)),
        ("int8", record(agreement=0.97, after=0.8951)),
    ],
)
def test_what_is_near_enough_passes(precision, found):
    demand_agreement(found, precision, Path("a.onnx"))


@pytest.mark.parametrize(
    ("precision", "found", "told"),
    [
        ("fp32", record(agreement=0.9997), r"at 0\.0300% of 100000 voxels \(at most 0\.01% are"),
        ("fp32", record(after=0.8985), r"Dice is 0\.8985, PyTorch's 0\.9000 .* at most 0\.001 "),
        ("fp32", record(after=0.9015), r"Dice is 0\.9015, PyTorch's 0\.9000 .* at most 0\.001 "),
        ("int8", record(after=0.8949), r"at most 0\.005 is allowed.*--precision fp32"),
    ],
)
def test_what_is_too_far_is_refused_by_how_much(precision, found, told):
    with pytest.raises(ModelFileError, match=rf"'a\.onnx' was not written: .*{told}"):
        demand_agreement(found, precision, Path("a.onnx"))
