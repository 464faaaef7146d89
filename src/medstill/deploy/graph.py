"""What is done to an ONNX graph before it becomes a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx

from medstill.deploy.digest import GRAPH_KEY, digest_of


def save(model: onnx.ModelProto, path: Path) -> None:
    """Write the graph and its checksum; the same graph gives the same bytes."""
    texts = {entry.key: entry.value for entry in model.metadata_props}
    texts[GRAPH_KEY] = digest_of(model.graph.SerializeToString(deterministic=True))
    _write_texts(model, texts)
    path.write_bytes(model.SerializeToString(deterministic=True))


def set_sizes(
    graph: onnx.GraphProto, axes: Sequence[str], shape: Sequence[int], *, fixed: Sequence[str]
) -> None:
    """Name the free axes of input and output and give the fixed ones their size."""
    for value in (*graph.input, *graph.output):
        sizes = value.type.tensor_type.shape.dim
        for axis, count, size in zip(axes, shape, sizes, strict=True):
            if axis not in fixed:
                size.dim_param = axis
            elif axis != "channels":
                size.dim_value = count
    # Inner shapes are written in other names; onnxruntime works them out by itself.
    del graph.value_info[:]


def forget_sources(model: onnx.ModelProto) -> None:
    """Drop the stack traces that the exporter stores: they name folders of this machine."""
    graph = model.graph
    parts = (model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer)
    for function in model.functions:
        parts = (*parts, function, *function.node)
    for part in parts:
        part.doc_string = ""
        del part.metadata_props[:]


def set_metadata(model: onnx.ModelProto, metadata: Mapping[str, str]) -> None:
    """Store texts by key instead of those that are there, and that medstill wrote the file."""
    model.producer_name = "medstill"
    model.producer_version = ""
    _write_texts(model, metadata)


def _write_texts(model: onnx.ModelProto, texts: Mapping[str, str]) -> None:
    del model.metadata_props[:]
    for key, value in texts.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
