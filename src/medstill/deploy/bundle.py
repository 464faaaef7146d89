"""From a PyTorch network to a MONAI bundle, verified with MONAI before it is written.

Shape legend: B batch, C input channels, K logit channels, `...` space (Y X or Z Y X); MONAI's own
order of the axes of space is X Y or X Y Z.
"""

from __future__ import annotations

import contextlib
import copy
import json
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from medstill.deploy.bundle_config import MODEL_FILE, demand_expressible, inference_config
from medstill.deploy.bundle_texts import LICENCE, bundle_metadata, readme
from medstill.deploy.bundle_trial import compare_files, demand_same_files
from medstill.deploy.contract import Contract
from medstill.deploy.export import Evidence, ExportOptions, ExportReport, agreement, check_images
from medstill.deploy.segmentation import Network
from medstill.deploy.translate import LogitsOnly, as_function, reason_of
from medstill.deploy.verification import FileAgreement
from medstill.errors import ModelFileError, require
from medstill.runs import atomic_folder

CONFIG_FILE: Final = Path("configs") / "inference.json"
METADATA_FILE: Final = Path("configs") / "metadata.json"

_WEIGHTS_FILE: Final = "model.pt"
"""The weights of `model.ts` once more: MONAI's layout asks for a file of this name."""

NEEDED: Final = ("monai", "nibabel")
"""Packages of the extra `monai`."""


def export_bundle(
    network: nn.Module,
    contract: Contract,
    path: Path,
    evidence: Evidence,
    options: ExportOptions,
) -> ExportReport:
    """Write a network and its contract as a folder in the layout of a MONAI bundle.

    The network is TorchScript in float32; preparation and the way back are MONAI's transforms.

    Args:
        network: A network that `medstill.networks.run` understands, without projectors.
        contract: All else that prediction needs.
        path: The folder to write.
        evidence: What it is compared on: the network in MONAI, and, where there is a trial, the
            bundle from file to file.
        options: Whether to verify; there is no other precision than fp32.

    Raises:
        MissingExtraError: MONAI or its reader of NIfTI files is not installed.
        ModelFileError: The preparation cannot be said in MONAI's words, the network cannot be
            traced, or the bundle disagrees with PyTorch; nothing is written.
        ShapeError: An image is of other axes or channels than the contract, or there is none.
    """
    check_images(evidence.examples, contract)
    inference = LogitsOnly(copy.deepcopy(network).cpu()).eval()
    agreed = contract.model_copy(update={"precision": "fp32", "verification": None})
    demand_expressible(agreed.preparation)
    with _quiet(), atomic_folder(path) as draft:
        for name in NEEDED:
            require(name, "monai")
        _save(_traced(inference, agreed, evidence.examples[0]), draft / "models")
        _write(draft, agreed, None)
        comparison = verification = files = None
        if options.verify:
            model = opened(draft)
            comparison, verification = agreement(inference, model, agreed, evidence, path)
        if evidence.trial is not None and verification is not None:
            files = compare_files(draft, as_function(inference), agreed, evidence.trial)
            demand_same_files(files, path)
            _write(draft, agreed.model_copy(update={"verification": verification}), files)
        size_bytes = sum(file.stat().st_size for file in draft.rglob("*") if file.is_file())
    return ExportReport(
        path, size_bytes, None, "fp32", _space(agreed), comparison, verification, files
    )


def opened(bundle: Path) -> Network:
    """The network of a bundle as MONAI gives it, computed by PyTorch on the CPU."""
    parser = require("monai.bundle", "monai").ConfigParser()
    parser.read_config(str(bundle / CONFIG_FILE))
    parser.update({"bundle_root": str(bundle), "device": "cpu"})
    call = as_function(parser.get_parsed_content("network"))

    def on_our_axes(image_BC: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.ascontiguousarray(_turned(call(_turned(image_BC))))

    return on_our_axes


class _MonaiAxes(nn.Module):
    """A network for images whose axes of space stand in MONAI's order."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image_BC: Tensor) -> Tensor:
        """Logits `(B, K, X, Y)` of images `(B, C, X, Y)`, or with a Z at the end of both."""
        axes = (0, 1, *range(image_BC.ndim - 1, 1, -1))
        logits_BK: Tensor = self.network(image_BC.permute(axes).contiguous())
        return logits_BK.permute(axes).contiguous()


def _turned(array: NDArray[Any]) -> NDArray[Any]:
    return array.transpose(0, 1, *range(array.ndim - 1, 1, -1))


def _traced(
    inference: nn.Module, contract: Contract, image_BC: NDArray[np.floating]
) -> torch.jit.ScriptModule:
    channels = contract.preparation.channels
    space_zyx = contract.preparation.patch_zyx[-contract.preparation.spatial_dims :]
    patch_BC = np.resize(image_BC, (2, channels, *space_zyx)).astype(np.float32)
    try:
        example_BC = torch.tensor(np.ascontiguousarray(_turned(patch_BC)))
        # A copy, since what is traced keeps its weights, and loses some of them.
        traced: torch.jit.ScriptModule = torch.jit.trace(  # type: ignore[no-untyped-call]
            _MonaiAxes(copy.deepcopy(inference)), example_BC, check_trace=False
        )
        _forget_unused(traced, example_BC)
    except Exception as error:  # the tracer lets through whatever a network's code raises
        raise ModelFileError(
            f"The network '{contract.network.name}' cannot be exported to TorchScript: "
            f"{reason_of(error)}. Choose a network that torch.jit can trace, or export it with "
            "--format onnx."
        ) from error
    return traced


def _forget_unused(traced: torch.jit.ScriptModule, example_BC: Tensor) -> None:
    """Drop weights that no logit depends on, such as those of a second decoder."""
    traced.requires_grad_(True)
    traced(example_BC).sum().backward()
    for weights in traced.parameters():
        if weights.grad is None:
            weights.data = torch.empty(0)
        weights.grad = None
    traced.requires_grad_(False)


def _save(traced: torch.jit.ScriptModule, folder: Path) -> None:
    folder.mkdir()
    torch.jit.save(traced, str(folder / MODEL_FILE))
    torch.save(traced.state_dict(), folder / _WEIGHTS_FILE)


def _write(bundle: Path, contract: Contract, files: FileAgreement | None) -> None:
    contents = {
        CONFIG_FILE: json.dumps(inference_config(contract), indent=1),
        METADATA_FILE: json.dumps(bundle_metadata(contract, files), indent=1),
        Path("docs") / "README.md": readme(contract, files),
        Path("LICENSE"): LICENCE,
    }
    for name, text in contents.items():
        (bundle / name).parent.mkdir(exist_ok=True)
        (bundle / name).write_text(text, encoding="utf-8")


def _space(contract: Contract) -> tuple[str, ...]:
    return ("z", "y", "x")[-contract.preparation.spatial_dims :]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence what MONAI and PyTorch say about optional packages and their own old code."""
    logger = logging.getLogger()
    before = logger.manager.disable
    try:
        logging.disable(logging.WARNING)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
