"""From a PyTorch network to an ONNX graph of free batch and image size.

Shape legend: B batch, C input channels, K logit channels, `...` space (Y X or Z Y X).
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from medstill.deploy.contract import Contract
from medstill.deploy.graph import forget_sources, save, set_metadata, set_sizes
from medstill.deploy.metadata import INPUT_NAME, OUTPUT_NAME
from medstill.deploy.runtime import OnnxModel, load_model
from medstill.deploy.segmentation import Network
from medstill.errors import ModelFileError
from medstill.networks import run

OPSET: Final = 18
AXES: Final = {2: ("y", "x"), 3: ("z", "y", "x")}

_SAME_NETWORK: Final = 0.99
"""Least agreement at another size: what differs there is another computation, not rounding."""
_NOISY_LOGGERS: Final = ("torch.onnx._internal.exporter._registration",)


class LogitsOnly(nn.Module):
    """A network without its reconstruction: image in, logits out."""

    def __init__(self, network: nn.Module) -> None:
        """Wrap a network of any output that `medstill.networks.run` understands."""
        super().__init__()
        self.network = network

    def forward(self, image_BC: Tensor) -> Tensor:
        """Logits `(B, K, ...)` of images `(B, C, ...)`."""
        logits_BK: Tensor = run(self.network, image_BC).logits
        return logits_BK


def as_function(inference: nn.Module) -> Network:
    """A module on the CPU as a function from arrays `(B, C, ...)` to logits `(B, K, ...)`."""

    @torch.inference_mode()
    def call(image_BC: NDArray[np.floating]) -> NDArray[np.float32]:
        # A copy, since memory-mapped arrays are read-only and PyTorch warns about them.
        logits_BK: NDArray[np.float32] = inference(
            torch.tensor(image_BC, dtype=torch.float32)
        ).numpy()
        return logits_BK

    return call


def translate(
    inference: nn.Module, contract: Contract, path: Path, image_BC: NDArray[np.floating]
) -> tuple[str, ...]:
    """Write a network as ONNX, with its contract.

    Args:
        inference: Module in evaluation mode, images to logits.
        contract: All else that prediction needs; stored among the metadata.
        path: The file to write.
        image_BC: A prepared image, to trace the network with.

    Returns:
        The spatial axes on which the network takes the patch size only.

    Raises:
        ModelFileError: The network cannot be exported.
    """
    space = contract.preparation.patch_zyx[-contract.preparation.spatial_dims :]
    # A batch of one would be taken for a constant by torch.export.
    patch_BC = np.resize(image_BC, (2, contract.preparation.channels, *space))
    try:
        model = _translate(inference, torch.tensor(patch_BC, dtype=torch.float32))
    except Exception as error:  # the exporter lets through whatever a network's code raises
        raise ModelFileError(
            f"The network '{contract.network.name}' cannot be exported to ONNX: "
            f"{reason_of(error)}. Choose a network that torch.onnx can export, or predict from the "
            "run folder."
        ) from error
    axes = ("batch", "channels", *AXES[contract.preparation.spatial_dims])
    forget_sources(model)
    set_metadata(model, contract.to_metadata())
    set_sizes(model.graph, axes, patch_BC.shape, fixed=("channels",))
    save(model, path)
    fixed = _fixed_axes(inference, load_model(path), axes, patch_BC)
    if "batch" in fixed:
        raise ModelFileError(
            f"The network '{contract.network.name}' cannot be exported: it takes batches of one "
            "size only. Choose another network, or predict from the run folder."
        )
    set_sizes(model.graph, axes, patch_BC.shape, fixed=("channels", *fixed))
    save(model, path)
    return fixed


@dataclass(frozen=True)
class Comparison:
    """How far two networks agree on the same images."""

    label_agreement: float
    largest_logit_difference: float
    voxels: int


def compare(
    reference: nn.Module, model: Network, images: Sequence[NDArray[np.floating]]
) -> Comparison:
    """Compare an exported network with PyTorch, image by image.

    A logit that is not a number counts as a disagreement and as an infinite difference.

    Args:
        reference: Module in evaluation mode, images to logits.
        model: The exported network.
        images: Prepared images `(B, C, ...)`.
    """
    expected = as_function(reference)
    equal = voxels = 0
    largest = 0.0
    for image_BC in images:
        expected_BK, found_BK = expected(image_BC), model(image_BC)
        if found_BK.shape != expected_BK.shape:
            raise ModelFileError(
                f"The exported network gives logits of shape {found_BK.shape}, PyTorch of shape "
                f"{expected_BK.shape}, for an image of shape {image_BC.shape}. Nothing was written."
            )
        finite_B = np.isfinite(found_BK).all(axis=1)
        same_B = (_labels(found_BK) == _labels(expected_BK)) & finite_B
        equal += int(same_B.sum())
        voxels += same_B.size
        difference = float(np.abs(found_BK - expected_BK).max())
        largest = max(largest, difference if finite_B.all() else float("inf"))
    return Comparison(equal / voxels, largest, voxels)


def _labels(logits_BK: NDArray[np.floating]) -> NDArray[np.integer]:
    if logits_BK.shape[1] == 1:
        return (logits_BK[:, 0] > 0).astype(np.uint8)
    labels_B: NDArray[np.integer] = logits_BK.argmax(axis=1)
    return labels_B


def _fixed_axes(
    inference: nn.Module, model: OnnxModel, axes: Sequence[str], patch_BC: NDArray[np.floating]
) -> tuple[str, ...]:
    """The axes on which the file fails at, or disagrees about, twice the size.

    The exporter calls an axis free when it has seen no reason against it; only trying tells.
    """
    fixed = []
    for position, axis in enumerate(axes):
        twice_BC = np.concatenate([patch_BC, patch_BC], axis=position)
        if axis != "channels" and not _agrees(inference, model, twice_BC):
            fixed.append(axis)
    return tuple(fixed)


def _agrees(inference: nn.Module, model: OnnxModel, image_BC: NDArray[np.floating]) -> bool:
    try:
        return compare(inference, model, [image_BC]).label_agreement >= _SAME_NETWORK
    except Exception:  # whatever PyTorch or onnxruntime raise: this size cannot be had
        return False


def _translate(inference: nn.Module, example: Tensor) -> onnx.ModelProto:
    # AUTO leaves an axis fixed where the network cannot do without, instead of failing.
    free = dict.fromkeys((0, *range(2, example.ndim)), torch.export.Dim.AUTO)
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            inference,
            (example,),
            dynamo=True,
            input_names=[INPUT_NAME],
            output_names=[OUTPUT_NAME],
            dynamic_shapes=(free,),
            opset_version=OPSET,
            external_data=False,
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch.onnx.export returned nothing")
    model: onnx.ModelProto = program.model_proto
    onnx.checker.check_model(model, full_check=True)
    return model


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence what torch's exporter says about torchvision and its own old code."""
    loggers = [logging.getLogger(name) for name in _NOISY_LOGGERS]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r".*isinstance\(treespec, LeafSpec\)", FutureWarning)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def reason_of(error: BaseException) -> str:
    """Kind and first line of the error behind an error."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return f"{type(error).__name__}: {lines[0][:300].rstrip('.')}"
