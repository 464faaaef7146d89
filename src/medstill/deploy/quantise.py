"""Static quantisation of an exported network: convolutions in 8-bit integers.

What was measured on networks of this project (256 x 256, one thread, a CPU with AVX-512 VNNI):
unsigned activations with signed weights are the fastest; signed activations cost a fifth of it.
Additions, resizing and transposed convolutions stay in float32: onnxruntime has no kernel in
8 bits for the last, and turning to and fro costs more than the others gain.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray

from medstill.deploy.contract import Contract
from medstill.deploy.graph import forget_sources, save, set_metadata
from medstill.deploy.metadata import INPUT_NAME
from medstill.errors import ModelFileError, require
from medstill.networks import Operation, rounded
from medstill.networks.places import Kind

OPERATORS: Final = ("Conv", "Relu", "MaxPool", "Concat")
"""Operators that compute in integers, or hand integers on."""

Grids = Sequence[tuple[float, int]]
"""Scale and zero point of each rounded tensor, in the order of `networks.rounded`."""

_KINDS: Final[dict[str, Kind]] = {
    "Conv": "conv",
    "Relu": "relu",
    "MaxPool": "pool",
    "Concat": "concat",
}


def quantise(
    path: Path,
    contract: Contract,
    images: Sequence[NDArray[np.floating]],
    grids: Grids | None = None,
) -> None:
    """Replace an exported file by its quantised form.

    Weights are signed, one scale a channel; activations are unsigned, one scale and zero point a
    tensor, from the least and the greatest value seen on the images. The same images give the same
    file.

    Args:
        path: The file.
        contract: Stored in it.
        images: Prepared images `(B, C, ...)` of training patients.
        grids: Learned scale and zero point of each rounded tensor; they take the place of those
            from the images.

    Raises:
        MissingExtraError: onnx is not installed.
        ModelFileError: The graph rounds at other places than the grids are for.
    """
    require("onnx", "train")
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    overrides = {} if grids is None else {"TensorQuantOverrides": _by_tensor(path, grids)}
    draft = path.with_name("quantised.onnx")
    with _quiet():
        quantize_static(
            path,
            draft,
            _Images(images),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(OPERATORS),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            extra_options=overrides,
        )
    model = onnx.load(draft)
    draft.unlink()
    forget_sources(model)
    _keep_used_operator_sets(model)
    set_metadata(model, contract.to_metadata())
    del model.graph.value_info[:]
    save(model, path)


def _by_tensor(path: Path, grids: Grids) -> dict[str, list[dict[str, NDArray[Any]]]]:
    """The grids by the names of the tensors, in onnxruntime's words."""
    names = rounded(_operations(onnx.load(path).graph))
    if len(names) != len(grids):
        raise ModelFileError(
            f"The tuned network rounds at {len(grids)} places, its graph at {len(names)}: the "
            "exporter has changed its operations. Export it without tuning, or take another "
            "network."
        )
    return {
        str(name): [{"scale": np.array(scale, np.float32), "zero_point": np.array(zero, np.uint8)}]
        for name, (scale, zero) in zip(names, grids, strict=True)
    }


def _operations(graph: onnx.GraphProto) -> list[Operation]:
    stored = {entry.name for entry in graph.initializer}
    return [
        Operation(
            _KINDS.get(node.op_type, "other"),
            tuple(name for name in node.input if name not in stored),
            node.output[0],
        )
        for node in graph.node
    ]


class _Images:
    """Images one by one, in onnxruntime's words."""

    def __init__(self, images: Sequence[NDArray[np.floating]]) -> None:
        self._images = iter(images)

    def get_next(self) -> dict[str, Any] | None:
        """The next image, or None at the end."""
        image_BC = next(self._images, None)
        if image_BC is None:
            return None
        return {INPUT_NAME: np.ascontiguousarray(image_BC, dtype=np.float32)}


def _keep_used_operator_sets(model: onnx.ModelProto) -> None:
    used = {node.domain for node in model.graph.node}
    kept = [entry for entry in model.opset_import if entry.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the advice that onnxruntime gives through the root logger."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
