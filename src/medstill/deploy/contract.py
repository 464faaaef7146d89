"""The inference contract: all that must travel with a network for it to segment a raw image.

It is stored as one JSON text among the metadata of the exported file. It names no person, no date
and no path.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from importlib import metadata as packages
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, ValidationError, model_validator

from medstill.config import Fraction, Record
from medstill.errors import ModelFileError
from medstill.volumes.intensity import INTENSITIES, suits
from medstill.volumes.records import ORIENTATION, Preparation
from medstill.volumes.terms import Term

CONTRACT_VERSION: Final = 2
"""Raised whenever a file of the old version would be read wrongly."""

METADATA_KEY: Final = "medstill.contract"

INTENDED_USE: Final = "Research use only, not a medical device."

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
"""Characters that a terminal takes for commands."""

MOST_CHARACTERS: Final = 1_000_000
MOST_CLASSES: Final = 255
MOST_CHANNELS: Final = 64
MOST_PATCH_VOXELS: Final = 2**28
MOST_PADDING: Final = 1e9
"""Beyond any intensity, scaled or not, and small enough for networks to compute with."""


def _version() -> str:
    return packages.version("medstill")


Precision = Literal["fp32", "int8"]
"""`int8`: convolutions in 8-bit integers, static, quantised per channel."""

Format = Literal["onnx", "openvino", "monai"]
"""What is written: one ONNX file, a folder of OpenVINO's, or a MONAI bundle."""

Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{8,64}$")]


class NetworkSummary(Record):
    """What the network is."""

    name: str
    parameters: int = Field(ge=0)
    macs: int = Field(ge=0)
    """Multiply-adds for one network input of the size `preparation.patch_zyx`."""


class Origin(Record):
    """Which training the weights come from, as hashes."""

    study: Hash
    weights: Hash


class Scores(Record):
    """Dice on test patients (range 0 to 1, higher is better), the mean over the foreground."""

    dice: Fraction
    low: Fraction
    """Lower end of the bootstrap interval over patients."""
    high: Fraction
    confidence: float = Field(default=0.95, gt=0.5, lt=1.0)
    patients: int = Field(ge=1)
    dice_by_class: dict[str, Fraction] = Field(default_factory=dict)


class Verification(Record):
    """How far a file agrees with the network in PyTorch, on validation patients."""

    cases: int = Field(ge=1)
    voxels: int = Field(ge=1)
    """How many labels were compared, on the prepared grid."""
    label_agreement: Fraction
    """Share of the voxels of equal label."""
    dice_pytorch: Fraction
    """Mean Dice of the network in PyTorch, over the foreground classes."""
    dice: Fraction
    """Mean Dice of the file."""
    largest_logit_difference: float = Field(ge=0.0)

    @property
    def dice_change(self) -> float:
        """What the file gains (positive) or loses."""
        return self.dice - self.dice_pytorch


class Tuning(Record):
    """How the weights were tuned for 8-bit integers after the training; see `training`."""

    steps: int = Field(ge=1)
    chosen_step: int = Field(ge=0)
    """The step that was kept; 0: none was better than the network as it was."""
    dice_before: Fraction
    """Mean validation Dice in 8 bits without tuning."""
    dice_after: Fraction


class Contract(Record):
    """Everything between a raw image and its label map, beside the network itself."""

    contract_version: int = CONTRACT_VERSION
    network: NetworkSummary
    preparation: Preparation
    terms: tuple[Term, ...]
    """Code and colour of each foreground class, in the order of the classes."""
    overlap: float = Field(default=0.5, ge=0.0, lt=1.0)
    """Share of a patch by which neighbouring patches overlap."""
    training: Origin
    scores: Scores | None = None
    precision: Precision = "fp32"
    tuning: Tuning | None = None
    """None: the weights are those of the training."""
    verification: Verification | None = None
    """None: the file was not compared with PyTorch."""
    intended_use: str = INTENDED_USE
    medstill_version: str = Field(default_factory=_version)

    @property
    def output_channels(self) -> int:
        """Channels of the logits: 1 (sigmoid) for one foreground class, else one a class."""
        return logit_channels(len(self.preparation.classes))

    def to_metadata(self) -> dict[str, str]:
        """The contract as metadata of a model file."""
        return {METADATA_KEY: self.model_dump_json()}

    @model_validator(mode="after")
    def _usable(self) -> Self:
        wrong = [text for holds, text in _demands(self.preparation) if not holds]
        if wrong:
            raise ValueError("preparation: " + "; ".join(wrong))
        places = [place for place, text in _texts(self.model_dump()) if _CONTROL.search(text)]
        if places:
            raise ValueError(f"{places[0]} must have no control characters")
        foreground = len(self.preparation.classes) - 1
        if len(self.terms) != foreground:
            raise ValueError(
                f"terms: one for each of {foreground} foreground classes expected, found "
                f"{len(self.terms)}"
            )
        return self


def _texts(node: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """Every text with its place; names within a mapping are texts too."""
    if isinstance(node, str):
        yield place, node
    elif isinstance(node, Mapping):
        for key, value in node.items():
            yield place, key
            yield from _texts(value, f"{place}.{key}".removeprefix("."))
    elif isinstance(node, tuple | list):
        for part in node:
            yield from _texts(part, place)


def logit_channels(classes: int) -> int:
    """Channels of a network's output for a number of classes, background included."""
    return 1 if classes == 2 else classes


def read_contract(metadata: Mapping[str, str], path: Path) -> Contract:
    """The contract among the metadata of a model file.

    Args:
        metadata: Keys and texts as found in the file.
        path: The file, for messages.

    Raises:
        ModelFileError: There is no contract, it is damaged, or it has another version.
    """
    text = metadata.get(METADATA_KEY)
    if text is None:
        raise ModelFileError(
            f"'{path}' holds a network, but no medstill contract (metadata key '{METADATA_KEY}'): "
            "its preparation and labels are unknown. Give a file written by 'medstill export'."
        )
    content = _parse(text, path)
    version = content.get("contract_version")
    if version != CONTRACT_VERSION or isinstance(version, bool):
        raise ModelFileError(
            f"'{path}' has contract version {str(version)[:40]!r}, but this medstill {_version()} "
            f"reads version {CONTRACT_VERSION}. Export the model again with this medstill, or "
            "install the medstill that wrote it."
        )
    try:
        return Contract.model_validate_json(text)
    except ValidationError as error:
        problems = "; ".join(_explain(problem) for problem in error.errors()[:5])
        raise _damaged(path, f"{error.error_count()} wrong entries: {problems}") from error


def _parse(text: str, path: Path) -> dict[str, Any]:
    if len(text) > MOST_CHARACTERS:
        raise _damaged(path, f"{len(text)} characters long, at most {MOST_CHARACTERS} are allowed")
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"no JSON: {str(error)[:200]}") from error
    if not isinstance(content, dict):
        raise _damaged(path, f"keys and values expected, found {type(content).__name__}")
    return content


def _damaged(path: Path, found: str) -> ModelFileError:
    # The file's own words may hold commands to a terminal.
    shown = "".join(letter if letter.isprintable() else "?" for letter in found)
    return ModelFileError(
        f"The medstill contract inside '{path}' is damaged ({shown}). "
        "Copy the file again, or repeat 'medstill export'."
    )


def _explain(problem: Any) -> str:
    location = ".".join(str(part) for part in problem["loc"])[:80]
    return f"{location}: {problem['msg'].removeprefix('Value error, ')}".removeprefix(": ")


def _demands(preparation: Preparation) -> list[tuple[bool, str]]:
    dims, patch, spacing = (
        preparation.spatial_dims,
        preparation.patch_zyx,
        preparation.spacing_zyx_mm,
    )
    classes, channels = preparation.classes, preparation.channels
    seen = preparation.seen
    return [
        (dims in (2, 3), f"spatial_dims must be 2 or 3, found {dims}"),
        (dims != 2 or patch[0] == 1, f"a 2-D patch has one slice, found patch_zyx {patch}"),
        (
            min(patch) >= 1 and patch[0] * patch[1] * patch[2] <= MOST_PATCH_VOXELS,
            f"patch_zyx must be positive and hold at most {MOST_PATCH_VOXELS} voxels, found "
            f"{patch}",
        ),
        (
            all(step is None or 1e-4 <= step <= 1e4 for step in spacing),
            f"spacing_zyx_mm must lie between 0.0001 and 10000, found {spacing}",
        ),
        (
            2 <= len(classes) <= MOST_CLASSES and len(set(classes)) == len(classes),
            f"2 to {MOST_CLASSES} different classes expected, found {len(classes)} with "
            f"{len(set(classes))} different names",
        ),
        (
            1 <= channels <= MOST_CHANNELS,
            f"1 to {MOST_CHANNELS} channels expected, found {channels}",
        ),
        (
            all(one.kind in INTENSITIES for one in preparation.intensity),
            f"intensity {_unknown_kinds(preparation)} is not one of {', '.join(INTENSITIES)}",
        ),
        (
            not _unsuited(preparation),
            f"intensity {'; '.join(_unsuited(preparation))}",
        ),
        (
            abs(preparation.pad_value) <= MOST_PADDING,
            f"pad_value must lie within {MOST_PADDING:g} of 0, found {preparation.pad_value:g}",
        ),
        (
            preparation.orientation == ORIENTATION,
            f"orientation must be {ORIENTATION}, found {preparation.orientation[:10]!r}",
        ),
        (
            seen is None or (len(seen.intensity) == channels and len(seen.spacing_zyx_mm) == 3),
            "seen must have three spacings and one intensity range a channel",
        ),
    ]


def _unknown_kinds(preparation: Preparation) -> str:
    kinds = {one.kind for one in preparation.intensity if one.kind not in INTENSITIES}
    return ", ".join(f"'{kind[:40]}'" for kind in sorted(kinds)[:3])


def _unsuited(preparation: Preparation) -> list[str]:
    """Channels whose two numbers do not suit their kind."""
    return [
        f"'{one.kind}' must have low below high within {INTENSITIES[one.kind].allowed}, found low "
        f"{one.low:g} and high {one.high:g}"
        for one in preparation.intensity[:MOST_CHANNELS]
        if one.kind in INTENSITIES and not suits(one)
    ][:3]
