"""From a PyTorch network to one ONNX file, verified on real images before it is written.

Shape legend: B batch, C input channels, `...` space (Y X or Z Y X).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, get_args

import numpy as np
import onnx
from numpy.typing import NDArray
from torch import nn

from medstill.deploy.contract import Contract, Format, Precision, Tuning, Verification
from medstill.deploy.graph import save, set_metadata
from medstill.deploy.parts import convolve_in_parts
from medstill.deploy.quantise import Grids, quantise
from medstill.deploy.runtime import load_model
from medstill.deploy.segmentation import Network
from medstill.deploy.translate import (
    AXES,
    OPSET,
    Comparison,
    LogitsOnly,
    as_function,
    compare,
    translate,
)
from medstill.deploy.verification import (
    LIMITS,
    FileAgreement,
    Trial,
    demand_agreement,
    verify,
)
from medstill.errors import ModelFileError, ShapeError, unknown_name
from medstill.runs import atomic

Images = Sequence[NDArray[np.floating]]

LEAST_AGREEMENT: Final = LIMITS["fp32"].label_agreement


@dataclass(frozen=True)
class ExportOptions:
    """How a network leaves.

    Attributes:
        precision: `fp32`, or `int8` for convolutions in 8-bit integers.
        verify: Whether a file that disagrees with PyTorch is refused.
        format: What is written; see `medstill.deploy.formats`.
        tune: Steps for which a student learns to answer in 8-bit integers before it is written as
            `int8`, by its own recipe and from the same teacher; 0 leaves its weights alone.
    """

    precision: Precision = "fp32"
    verify: bool = True
    format: Format = "onnx"
    tune: int = 0

    def __post_init__(self) -> None:
        if self.format not in get_args(Format):
            raise unknown_name("format of models", self.format, get_args(Format))
        if self.precision not in get_args(Precision):
            raise unknown_name("precision", self.precision, get_args(Precision))


@dataclass(frozen=True)
class Tuned:
    """What is written instead of a network, when it was tuned for 8-bit integers.

    Attributes:
        network: Of the same architecture.
        grids: Scale and zero point of each place where it rounds; see `networks.rounded`.
        tuning: What the file says of it.
    """

    network: nn.Module
    grids: Grids
    tuning: Tuning


@dataclass(frozen=True)
class Evidence:
    """The images of an export.

    Attributes:
        examples: Prepared images `(B, C, Y, X)` or `(B, C, Z, Y, X)`, at least one; the network is
            traced with the first, and compared on all of them where there is no trial.
        trial: Whole validation cases.
        calibration: Prepared images of training patients, from which int8 learns its ranges.
        tuned: What is written in place of the network that it is compared with.
    """

    examples: Images
    trial: Trial | None = None
    calibration: Images = ()
    tuned: Tuned | None = None


@dataclass(frozen=True)
class ExportReport:
    """What was written and how well it agrees with PyTorch.

    Attributes:
        path: The file or folder.
        size_bytes: Its size.
        opset: Version of the ONNX operators; None where the format has none.
        precision: Of its convolutions.
        fixed_axes: Spatial axes on which the network takes only the patch size; empty if all of
            them are free.
        comparison: Agreement on single images; None where whole cases were compared, or nothing.
        verification: Agreement on whole validation cases, as it stands in the file.
        files: Agreement from file to file, where another program does the preparation too.
        tuning: How the weights were tuned for 8-bit integers, as it stands in the file.
    """

    path: Path
    size_bytes: int
    opset: int | None
    precision: Precision
    fixed_axes: tuple[str, ...]
    comparison: Comparison | None = None
    verification: Verification | None = None
    files: FileAgreement | None = None
    tuning: Tuning | None = None


def export_onnx(
    network: nn.Module,
    contract: Contract,
    path: Path,
    evidence: Evidence,
    options: ExportOptions | None = None,
) -> ExportReport:
    """Write a network and its contract as one ONNX file.

    The network is not changed. Its file is written beside `path` first, loaded again as a user
    would, and compared with PyTorch; only a file that agrees gets its name.

    Args:
        network: A network that `medstill.networks.run` understands, without projectors.
        contract: All else that prediction needs; stored among the metadata.
        path: The `.onnx` file to write.
        evidence: What it is compared on.
        options: Precision, and whether to verify.

    Raises:
        ModelFileError: The network cannot be exported, does not fit its contract, or the file
            disagrees with PyTorch; nothing is written.
        ShapeError: An image is of other axes or channels than the contract, or there is none.
    """
    options = options or ExportOptions()
    check_images(evidence.examples, contract)
    tuned = evidence.tuned
    inference = _inference(network)
    contract = contract.model_copy(
        update={
            "precision": options.precision,
            "tuning": tuned.tuning if tuned else None,
            "verification": None,
        }
    )
    with atomic(Path(path)) as draft:
        leaving = _inference(tuned.network) if tuned else inference
        fixed_axes = translate(leaving, contract, draft, evidence.examples[0])
        if options.precision == "int8":
            check_images(evidence.calibration, contract)
            quantise(draft, contract, evidence.calibration, tuned.grids if tuned else None)
        else:
            convolve_in_parts(draft)
        comparison = verification = None
        if options.verify:
            model = load_model(draft)
            comparison, verification = agreement(inference, model, contract, evidence, Path(path))
        if verification is not None:
            _store(draft, contract.model_copy(update={"verification": verification}))
        size_bytes = draft.stat().st_size
    return ExportReport(
        Path(path),
        size_bytes,
        OPSET,
        options.precision,
        fixed_axes,
        comparison,
        verification,
        tuning=contract.tuning,
    )


def agreement(
    inference: nn.Module, model: Network, contract: Contract, evidence: Evidence, path: Path
) -> tuple[Comparison | None, Verification | None]:
    """Compare what is to be written with PyTorch: on whole cases, else on single images.

    Args:
        inference: Module in evaluation mode, images to logits.
        model: What is to be written, run as a user will run it.
        contract: Of the model.
        evidence: What both are compared on.
        path: Where it is to be written, for messages.

    Raises:
        ModelFileError: They disagree.
    """
    if evidence.trial is None:
        return _compared(inference, model, evidence.examples, path), None
    found = verify(as_function(inference), model, evidence.trial, contract)
    demand_agreement(found, contract.precision, path, tuned=contract.tuning is not None)
    return None, found


def _inference(network: nn.Module) -> LogitsOnly:
    return LogitsOnly(copy.deepcopy(network).cpu()).eval()


def _store(draft: Path, contract: Contract) -> None:
    model = onnx.load(draft)
    set_metadata(model, contract.to_metadata())
    save(model, draft)


def _compared(inference: nn.Module, model: Network, examples: Images, path: Path) -> Comparison:
    found = compare(inference, model, examples)
    if not found.label_agreement >= LEAST_AGREEMENT:
        raise ModelFileError(
            f"'{path}' was not written: the exported network gives another label than PyTorch "
            f"at {1 - found.label_agreement:.4%} of {found.voxels} voxels (at most "
            f"{1 - LEAST_AGREEMENT:.2%} are allowed; greatest logit difference "
            f"{found.largest_logit_difference:.3g}). Try another version of torch or "
            "onnxruntime, or another network."
        )
    return found


def check_images(images: Images, contract: Contract) -> None:
    """Demand prepared images of the axes and channels of a contract.

    Raises:
        ShapeError: An image has others, or there is none.
    """
    dims, channels = contract.preparation.spatial_dims, contract.preparation.channels
    axes = f"(B, {channels}, {', '.join(AXES[dims]).upper()})"
    if not images:
        raise ShapeError(
            f"An export needs prepared images {axes}, but none were given. Give at least one."
        )
    for image_BC in images:
        if image_BC.ndim != dims + 2 or image_BC.shape[1] != channels or not image_BC.size:
            raise ShapeError(
                f"An export needs prepared images {axes} as its contract says, but got one of "
                f"shape {image_BC.shape}."
            )
