"""Whether a network that left PyTorch is still the same, on whole validation cases.

Shape legend: B batch, K logit channels, Z Y X space.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from medstill.deploy.calls import Float32Array, Network
from medstill.deploy.contract import Contract, Precision, Verification
from medstill.deploy.prepared import labels_of, logit_planes
from medstill.errors import ModelFileError, ShapeError
from medstill.volumes.records import LabelArray, PreparedCase

INFINITE: Final = float(np.finfo(np.float32).max)
"""Stands for a difference to what is not a number, which JSON cannot say."""

Pair = tuple[LabelArray, LabelArray]


@dataclass(frozen=True)
class Trial:
    """What an exported network is tried on.

    Attributes:
        cases: Prepared validation cases with their labels.
        dice: Mean Dice over the foreground classes of pairs of true and found labels `(Z, Y, X)`.
    """

    cases: Sequence[PreparedCase]
    dice: Callable[[Sequence[Pair]], float]


@dataclass(frozen=True)
class FileAgreement:
    """How far another program's label files agree with medstill's, on scans of their own geometry.

    Attributes:
        cases: How many scans.
        voxels: How many labels were compared, on the grids of the scans.
        label_agreement: Share of the voxels of equal label.
        dice_medstill: Mean Dice of medstill with the network in PyTorch, over the foreground.
        dice: Mean Dice of the other program.
    """

    cases: int
    voxels: int
    label_agreement: float
    dice_medstill: float
    dice: float


@dataclass(frozen=True)
class Limits:
    """What is still the same network: least share of equal labels, greatest change of Dice."""

    label_agreement: float
    dice_change: float


LIMITS: Final[dict[Precision, Limits]] = {"fp32": Limits(0.9999, 0.001), "int8": Limits(0.0, 0.005)}
"""int8 rounds differently at every border, so that its Dice alone decides."""

_ADVICE: Final[dict[Precision, str]] = {
    "fp32": "Try another version of torch or onnxruntime, or another network",
    "int8": (
        "Export it with --precision fp32; or tune a student with --tune 300: it then learns for "
        "300 steps to answer in 8 bits, by its own recipe and from the same teacher"
    ),
}
_TUNED_ADVICE: Final = "Tune it for more steps, or export it with --precision fp32"


def verify(reference: Network, model: Network, trial: Trial, contract: Contract) -> Verification:
    """Segment every case with both networks, patches, overlap and stitching included.

    Args:
        reference: The network in PyTorch; gives logits `(B, K, ...)`.
        model: The network as a user will run it.
        trial: The cases.
        contract: How they are cut into patches.

    Raises:
        ShapeError: There is no case, or the two networks answer with other shapes.
    """
    if not trial.cases:
        raise ShapeError("An export is verified on validation cases, but there are none.")
    both = _Both(reference, model)
    expected: list[Pair] = []
    found: list[Pair] = []
    for case in trial.cases:
        assert case.label_ZYX is not None
        labels = _segmented_twice(case, both, contract)
        expected.append((case.label_ZYX, labels[0]))
        found.append((case.label_ZYX, labels[1]))
    equal = sum(
        int((one == other).sum()) for (_, one), (_, other) in zip(expected, found, strict=True)
    )
    voxels = sum(label.size for _, label in expected)
    return Verification(
        cases=len(trial.cases),
        voxels=voxels,
        label_agreement=equal / voxels,
        dice_pytorch=trial.dice(expected),
        dice=trial.dice(found),
        largest_logit_difference=min(both.largest_difference, INFINITE),
    )


def demand_agreement(
    found: Verification, precision: Precision, path: Path, *, tuned: bool = False
) -> None:
    """Refuse an export that is not the network any more.

    Args:
        found: How far it agrees.
        precision: Decides the limits.
        path: What is to be written, for messages.
        tuned: Whether its weights were tuned since: its Dice may then rise, but not fall.

    Raises:
        ModelFileError: Labels or Dice differ too much; the message says by how much.
    """
    limits = LIMITS[precision]
    difference = -found.dice_change if tuned else abs(found.dice_change)
    wrong = []
    if found.largest_logit_difference >= INFINITE:
        wrong.append("it gives logits that are not numbers")
    if not found.label_agreement >= limits.label_agreement:
        wrong.append(
            f"it gives another label than PyTorch at {1 - found.label_agreement:.4%} of "
            f"{found.voxels} voxels (at most {1 - limits.label_agreement:.2%} are allowed)"
        )
    if not difference <= limits.dice_change:
        wrong.append(
            f"its mean validation Dice is {found.dice:.4f}, PyTorch's {found.dice_pytorch:.4f} (a "
            f"difference of at most {limits.dice_change} is allowed)"
        )
    if wrong:
        advice = _TUNED_ADVICE if tuned else _ADVICE[precision]
        raise ModelFileError(
            f"'{path}' was not written: {'; '.join(wrong)}; greatest logit difference "
            f"{found.largest_logit_difference:.3g}. {advice}."
        )


class _Both:
    """Two networks as one, whose logits lie behind each other."""

    def __init__(self, reference: Network, model: Network) -> None:
        self._networks = (reference, model)
        self.largest_difference = 0.0

    def __call__(self, batch_BC: Float32Array) -> Float32Array:
        expected_BK, found_BK = (network(batch_BC) for network in self._networks)
        if expected_BK.shape != found_BK.shape:
            raise ShapeError(
                f"Expected logits of shape {expected_BK.shape}, as PyTorch gives them for an input "
                f"of shape {batch_BC.shape}; the exported network gives {found_BK.shape}."
            )
        difference = float(np.abs(found_BK - expected_BK).max())
        # What is not a number is infinitely far from everything.
        self.largest_difference = max(
            self.largest_difference, difference if np.isfinite(difference) else float("inf")
        )
        return np.concatenate([expected_BK, found_BK], axis=1)


def _segmented_twice(
    case: PreparedCase, both: _Both, contract: Contract
) -> tuple[LabelArray, LabelArray]:
    planes: tuple[list[LabelArray], list[LabelArray]] = ([], [])
    joined = logit_planes(case.image_CZYX, both, contract.preparation, contract.overlap)
    for logits_KYX in joined:
        for stack, part_KYX in zip(planes, np.split(logits_KYX, 2), strict=True):
            stack.append(labels_of(part_KYX))
    return np.stack(planes[0]), np.stack(planes[1])
