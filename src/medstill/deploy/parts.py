"""Convolutions behind a concatenation, computed in parts.

onnxruntime computes 2-D convolutions on maps in blocks of channels. Maps are concatenated plain, so
those that come in blocks are turned into plain ones and back, at full resolution in a U-Net's last
join. The convolution of a concatenation is the sum of the convolutions of its parts; what is there
in blocks stays in blocks, and the sum costs nothing: onnxruntime does it within the convolution,
where it knows that both maps are of one size. It cannot tell that from sizes that are free, so the
file says it.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper, shape_inference

from medstill.deploy.graph import save

_FLAT_WEIGHTS = 4
"""Axes of the weights of a 2-D convolution."""


def convolve_in_parts(path: Path) -> int:
    """Rewrite the 2-D convolutions of a file that follow a concatenation of channels.

    Args:
        path: An exported file, in float32.

    Returns:
        How many were rewritten; the file is left alone where there are none.
    """
    model = onnx.load(path)
    graph = model.graph
    weights = {entry.name: entry for entry in graph.initializer}
    makers = {output: node for node in graph.node for output in node.output}
    uses = Counter(name for node in graph.node for name in node.input)
    channels = _channels(model)
    nodes: list[Any] = []
    divided = 0
    for node in graph.node:
        joined = makers.get(node.input[0]) if node.op_type == "Conv" else None
        if joined is None or not _fits(joined, node, weights, uses):
            nodes.append(node)
            continue
        counts = [channels.get(name, 0) for name in joined.input]
        kernel = numpy_helper.to_array(weights[node.input[1]])
        if min(counts) < 1 or sum(counts) != kernel.shape[1]:
            nodes.append(node)
            continue
        nodes.remove(joined)
        nodes.extend(_parts(node, joined, kernel, counts, graph))
        divided += 1
    if divided:
        del graph.node[:]
        graph.node.extend(nodes)
        used = {name for node in nodes for name in node.input}
        kept = [entry for entry in graph.initializer if entry.name in used]
        del graph.initializer[:]
        graph.initializer.extend(kept)
        onnx.checker.check_model(model, full_check=True)
        save(model, path)
    return divided


def _fits(joined: Any, node: Any, weights: dict[str, Any], uses: Counter[str]) -> bool:
    """Whether a convolution alone uses a concatenation of channels, with weights of its own."""
    kernel = weights.get(node.input[1])
    attributes = {one.name: helper.get_attribute_value(one) for one in node.attribute}
    axis = {one.name: helper.get_attribute_value(one) for one in joined.attribute}.get("axis")
    return (
        joined.op_type == "Concat"
        and axis in (1, 1 - _FLAT_WEIGHTS)
        and uses[joined.output[0]] == 1
        and kernel is not None
        and len(kernel.dims) == _FLAT_WEIGHTS
        and attributes.get("group", 1) == 1
    )


def _parts(node: Any, joined: Any, kernel: Any, counts: list[int], graph: Any) -> list[Any]:
    """One convolution for each part, the bias in the first, and their sums."""
    made, total = [], ""
    starts = np.cumsum([0, *counts])
    for number, source in enumerate(joined.input):
        name = f"{node.input[1]}.part{number}"
        part = np.ascontiguousarray(kernel[:, starts[number] : starts[number + 1]])
        graph.initializer.append(numpy_helper.from_array(part, name))
        inputs = [source, name, *(node.input[2:] if number == 0 else ())]
        answer = f"{node.output[0]}.part{number}"
        made.append(helper.make_node("Conv", inputs, [answer], name=f"{node.name}.part{number}"))
        made[-1].attribute.extend(node.attribute)
        if number:
            last = number == len(counts) - 1
            added = node.output[0] if last else f"{node.output[0]}.sum{number}"
            made.append(helper.make_node("Add", [total, answer], [added], name=f"{added}.add"))
            answer = added
        total = answer
        graph.value_info.append(_sized(made[-1 if not number else -2].output[0], node, kernel))
    return made


def _sized(name: str, node: Any, kernel: Any) -> Any:
    """A map of free size, which is that of all parts of one convolution."""
    sizes = [f"{node.output[0]}.{axis}" for axis in ("batch", "y", "x")]
    shape = [sizes[0], kernel.shape[0], *sizes[1:]]
    return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)


def _channels(model: onnx.ModelProto) -> dict[str, int]:
    """The number of channels of every map where it is known."""
    inferred = shape_inference.infer_shapes(model).graph
    found = {}
    for value in (*inferred.value_info, *inferred.input):
        sizes = value.type.tensor_type.shape.dim
        if len(sizes) == _FLAT_WEIGHTS:
            found[value.name] = sizes[1].dim_value
    return found
