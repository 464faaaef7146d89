"""Convolutions behind a concatenation, computed in parts.

onnxruntime computes 2-D convolutions on maps in blocks of channels. Maps are concatenated plain, so
those that come in blocks are turned into plain ones and back, at full resolution in a U-Net's last
join. The convolution of a concatenation is the sum of the convolutions of its parts; what is there
in blocks stays in blocks, and the sum costs nothing: onnxruntime does it within the convolution,
where it knows that both maps are of one size. It cannot tell that from sizes that are free, so the
file says it. A depthwise convolution in between is one of each part.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
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
    channels = _channels(model)
    _depthwise_first(graph, channels)
    divided = _sum_of_parts(graph, channels)
    if divided:
        used = {name for node in graph.node for name in node.input}
        kept = [entry for entry in graph.initializer if entry.name in used]
        del graph.initializer[:]
        graph.initializer.extend(kept)
        onnx.checker.check_model(model, full_check=True)
        save(model, path)
    return divided


@dataclass(frozen=True)
class _Joined:
    """A convolution that alone follows a concatenation of channels.

    Attributes:
        node: The convolution.
        before: The concatenation.
        kernel: Weights `(out, in / group, y, x)`.
        bias: Of each output channel, or None.
        counts: Channels of each part.
    """

    node: Any
    before: Any
    kernel: NDArray[Any]
    bias: NDArray[Any] | None
    counts: tuple[int, ...]

    @property
    def is_depthwise(self) -> bool:
        """One filter for each channel."""
        return _group(self.node) == sum(self.counts) == len(self.kernel)

    @property
    def is_full(self) -> bool:
        """Each output channel sees all input channels."""
        return _group(self.node) == 1 and self.kernel.shape[1] == sum(self.counts)

    def part(
        self, number: int, kernel: NDArray[Any], bias: NDArray[Any] | None, **changed: int
    ) -> tuple[Any, list[Any]]:
        """The convolution of one part, and its weights."""
        name, source = f".part{number}", self.before.input[number]
        names = [entry + name for entry in self.node.input[1:]]
        made = helper.make_node(
            "Conv",
            [source, *names[: 2 if bias is not None else 1]],
            [self.node.output[0] + name],
            name=self.node.output[0] + name,
        )
        kept = [one for one in self.node.attribute if one.name not in changed]
        made.attribute.extend([*kept, *(helper.make_attribute(*one) for one in changed.items())])
        arrays = (kernel, *(() if bias is None else (bias,)))
        return made, [
            numpy_helper.from_array(np.ascontiguousarray(array), entry)
            for array, entry in zip(arrays, made.input[1:], strict=True)
        ]


def _depthwise_first(graph: Any, channels: dict[str, int]) -> None:
    """Put each depthwise convolution between a concatenation and a convolution before the former.

    That is worth nothing by itself; the convolution behind it then sees the concatenation.
    """
    users = _uses(graph)
    full = {node.input[0] for node in graph.node if node.op_type == "Conv" and _group(node) == 1}
    for found in _joined(graph, channels):
        answer = found.node.output[0]
        if not (found.is_depthwise and users[answer] == 1 and answer in full):
            continue
        ends = np.cumsum(found.counts)
        made = []
        for number, (end, count) in enumerate(zip(ends, found.counts, strict=True)):
            span = slice(end - count, end)
            bias = None if found.bias is None else found.bias[span]
            node, weights = found.part(number, found.kernel[span], bias, group=count)
            graph.initializer.extend(weights)
            made.append(node)
            channels[node.output[0]] = count
        names = [node.output[0] for node in made]
        after = helper.make_node("Concat", names, [answer], name=f"{answer}.parts", axis=1)
        _replace(graph, found, [*made, after])


def _sum_of_parts(graph: Any, channels: dict[str, int]) -> int:
    """Put a sum of convolutions in place of each that sees a concatenation; how many there were."""
    found = [one for one in _joined(graph, channels) if one.is_full]
    for one in found:
        made: list[Any] = []
        total, starts = "", np.cumsum([0, *one.counts])
        for number, (start, end) in enumerate(pairwise(starts)):
            bias = one.bias if number == 0 else None
            node, weights = one.part(number, one.kernel[:, start:end], bias)
            graph.initializer.extend(weights)
            answer = node.output[0]
            graph.value_info.append(_sized(answer, one))
            made.append(node)
            if number:
                last = number == len(one.counts) - 1
                added = one.node.output[0] + ("" if last else f".sum{number}")
                made.append(helper.make_node("Add", [total, answer], [added], name=f"{added}.add"))
                answer = added
            total = answer
        _replace(graph, one, made)
    return len(found)


def _joined(graph: Any, channels: dict[str, int]) -> list[_Joined]:
    """The 2-D convolutions that alone follow a concatenation of known channels."""
    weights = {entry.name: entry for entry in graph.initializer}
    makers = {output: node for node in graph.node for output in node.output}
    users = _uses(graph)
    found = []
    for node in graph.node:
        before = makers.get(node.input[0]) if node.op_type == "Conv" else None
        if before is None or before.op_type != "Concat" or users[before.output[0]] != 1:
            continue
        arrays = [
            numpy_helper.to_array(weights[name]) for name in node.input[1:] if name in weights
        ]
        axis = next(one.i for one in before.attribute if one.name == "axis")
        counts = tuple(channels.get(name, 0) for name in before.input)
        if axis not in (1, 1 - _FLAT_WEIGHTS) or min(counts) < 1:
            continue
        if len(arrays) == len(node.input) - 1 and arrays[0].ndim == _FLAT_WEIGHTS:
            bias = arrays[1] if len(arrays) > 1 else None
            found.append(_Joined(node, before, arrays[0], bias, counts))
    return found


def _replace(graph: Any, found: _Joined, made: list[Any]) -> None:
    """Put nodes in the place of a convolution and the concatenation before it."""
    nodes: list[Any] = []
    for node in graph.node:
        if node == found.before:
            continue
        nodes.extend(made if node == found.node else [node])
    del graph.node[:]
    graph.node.extend(nodes)


def _group(node: Any) -> int:
    return next((int(one.i) for one in node.attribute if one.name == "group"), 1)


def _uses(graph: Any) -> Counter[str]:
    """How often each value is used, as an answer of the network too."""
    return Counter(
        [name for node in graph.node for name in node.input] + [one.name for one in graph.output]
    )


def _sized(name: str, joined: _Joined) -> Any:
    """A map of free size, which is that of all parts of one convolution."""
    batch, y, x = (f"{joined.node.output[0]}.{axis}" for axis in ("batch", "y", "x"))
    shape: list[str | int | None] = [batch, len(joined.kernel), y, x]
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
