"""What an exported file says about itself, read without loading the network and without trust.

Only files as `medstill export` writes them pass: one graph of standard operators, all weights
inside, sizes that agree with the bytes there are. onnxruntime never sees another file.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from medstill.deploy import messages
from medstill.deploy.contract import MOST_CHARACTERS, Contract, read_contract
from medstill.deploy.digest import check_graph
from medstill.deploy.wire import Message, Reader, Span, WireError
from medstill.errors import ModelFileError

INPUT_NAME: Final = "image"
OUTPUT_NAME: Final = "logits"

MOST_BYTES: Final = 2**31 - 1
"""Protocol buffers end there."""
MOST_ENTRIES: Final = 64
MOST_AXES: Final = 16
MOST_VALUES: Final = 16
"""Most inputs or outputs of a network."""
_STANDARD_DOMAINS: Final = ("", "ai.onnx")
_FEWEST_BYTES: Final = 8


@dataclass(frozen=True)
class Signature:
    """An input or an output of a network.

    Attributes:
        name: Its name.
        type: Number of the element type; 1 is float32.
        sizes: Length of each axis; a name where it is free.
    """

    name: str
    type: int
    sizes: tuple[int | str, ...]


@dataclass(frozen=True)
class ModelText:
    """What stands in a file beside the weights.

    Attributes:
        size_bytes: Of the file.
        producer: Who wrote it.
        opset: Version of the standard operators.
        metadata: Texts by key.
        inputs: The network's inputs.
        outputs: Its outputs.
        operators: How often each operator is used.
        weights: Elements of all stored tensors.
    """

    size_bytes: int
    producer: str
    opset: int
    metadata: Mapping[str, str]
    inputs: tuple[Signature, ...]
    outputs: tuple[Signature, ...]
    operators: Mapping[str, int]
    weights: int


def read_metadata(path: Path | str) -> ModelText:
    """Look at a file.

    Raises:
        ModelFileError: It is missing, damaged, or holds what no export writes.
    """
    path = Path(path)
    return text_of(read_content(path), path)


def read_content(path: Path) -> bytes:
    """The bytes of a model file.

    Raises:
        ModelFileError: There is no such file, it is too large, or it cannot be read.
    """
    if not path.is_file():
        found = "a folder" if path.is_dir() else "nothing" if not path.exists() else "no file"
        raise ModelFileError(
            f"Expected a model file at '{path}', found {found}. "
            "Give the .onnx file that 'medstill export' wrote."
        )
    try:
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise _refused(path, f"larger than {MOST_BYTES} bytes")
        with path.open("rb") as file:
            return file.read(size)
    except OSError as error:
        raise ModelFileError(
            f"'{path}' cannot be read: {error.strerror}. Check the file and its permissions."
        ) from error


def text_of(content: bytes, path: Path) -> ModelText:
    """What stands in the bytes of a file.

    Args:
        content: All of it.
        path: The file, for messages.

    Raises:
        ModelFileError: It is damaged, or holds what no export writes.
    """
    try:
        return _Model(content).text()
    except WireError as error:
        raise _refused(path, str(error)) from error


def contract_in(text: ModelText, path: Path) -> Contract:
    """The contract of a file, which its network fits.

    Raises:
        ModelFileError: There is none, it is damaged or of another version, or the network has
            other inputs or outputs.
    """
    contract = read_contract(text.metadata, path)
    rank = contract.preparation.spatial_dims + 2
    channels = (contract.preparation.channels, contract.output_channels)
    expected = [
        [(name, messages.FLOAT_TYPE, rank, count)]
        for name, count in zip((INPUT_NAME, OUTPUT_NAME), channels, strict=True)
    ]
    found = [_briefly(values) for values in (text.inputs, text.outputs)]
    if found != expected:
        raise ModelFileError(
            f"The network inside '{path}' does not fit its medstill contract. Expected inputs and "
            f"outputs (name, type, axes, channels) {expected}, found {ascii(found)[:400]}. "
            "Export it again."
        )
    return contract


def _briefly(values: tuple[Signature, ...]) -> list[tuple[str, int, int, int | str | None]]:
    return [
        (
            value.name,
            value.type,
            len(value.sizes),
            value.sizes[1] if len(value.sizes) > 1 else None,
        )
        for value in values
    ]


def _refused(path: Path, found: str) -> ModelFileError:
    return ModelFileError(
        f"'{path}' is no ONNX network as 'medstill export' writes it: {found}. Give the file that "
        "it wrote, or export it again if it was cut short."
    )


class _Model:
    """The messages of one file, from the outermost inwards."""

    def __init__(self, content: bytes) -> None:
        self._reader = Reader(content)
        self._weights = 0

    def text(self) -> ModelText:
        reader = self._reader
        if len(reader.content) < _FEWEST_BYTES:
            raise WireError(f"{len(reader.content)} bytes only")
        model = reader.message(reader.whole, messages.MODEL, "the model")
        opset = self._opset(model)
        metadata = self._metadata(model.spans.get("metadata_props", []))
        if "graph" not in model.spans:
            raise WireError("no graph in it")
        graph = reader.message(model.spans["graph"][0], messages.GRAPH, "the graph")
        operators = Counter(self._operator(span) for span in graph.spans.get("node", []))
        for span in graph.spans.get("initializer", []):
            self._tensor(span)
        check_graph(reader.content, model.spans["graph"][0], metadata)
        return ModelText(
            size_bytes=len(reader.content),
            producer=model.text("producer_name"),
            opset=opset,
            metadata=metadata,
            inputs=self._values(graph, "input"),
            outputs=self._values(graph, "output"),
            operators=dict(sorted(operators.items())),
            weights=self._weights,
        )

    def _opset(self, model: Message) -> int:
        versions = []
        for span in model.spans.get("opset_import", []):
            entry = self._reader.message(span, messages.OPERATOR_SET, "an operator set")
            self._demand_standard(entry.text("domain"), "an operator set")
            versions.append(entry.int("version"))
        if len(versions) != 1:
            raise WireError(f"{len(versions)} versions of the standard operators, 1 expected")
        return versions[0]

    def _metadata(self, spans: list[Span]) -> dict[str, str]:
        if len(spans) > MOST_ENTRIES:
            raise WireError(f"{len(spans)} metadata entries, at most {MOST_ENTRIES} are allowed")
        found: dict[str, str] = {}
        for span in spans:
            # A character takes up to four bytes.
            entry = self._reader.message(
                span, messages.ENTRY, "the metadata", most_text=4 * MOST_CHARACTERS
            )
            key = entry.text("key")
            if key in found:
                raise WireError(f"the metadata key {_shown(key)} twice")
            found[key] = entry.text("value")
        return found

    def _operator(self, span: Span) -> str:
        node = self._reader.message(span, messages.NODE, "an operator")
        name = node.text("op_type")
        self._demand_standard(node.text("domain"), f"the operator {_shown(name)}")
        for part in node.spans.get("attribute", []):
            attribute = self._reader.message(part, messages.ATTRIBUTE, "an attribute")
            for tensor in (*attribute.spans.get("t", []), *attribute.spans.get("tensors", [])):
                self._tensor(tensor)
        return name

    def _demand_standard(self, domain: str, owner: str) -> None:
        if domain not in _STANDARD_DOMAINS:
            raise WireError(f"{owner} of the domain {_shown(domain)}: only standard ones are run")

    def _tensor(self, span: Span) -> None:
        tensor = self._reader.message(span, messages.TENSOR, "a tensor")
        name = _shown(tensor.text("name"))
        if tensor.int("data_location"):
            raise WireError(messages.EXTERNAL)
        width = messages.BYTES_OF_TYPE.get(tensor.int("data_type"))
        if width is None:
            raise WireError(f"the tensor {name} of the element type {tensor.int('data_type')}")
        dims = tensor.ints.get("dims", [])
        if len(dims) > MOST_AXES or any(size >= MOST_BYTES for size in dims):
            raise WireError(f"the tensor {name} of {len(dims)} axes of up to {max(dims)} elements")
        elements = math.prod(dims)
        stored = {kind: sum(part.size for part in parts) for kind, parts in tensor.spans.items()}
        if len(stored) > 1:
            raise WireError(f"the tensor {name} with two kinds of data")
        raw = stored.get("raw_data")
        held = sum(stored.values())
        # Packed numbers take at least a byte each.
        if (raw is not None and raw != elements * width) or (raw is None and elements > held):
            raise WireError(f"the tensor {name} of {elements} elements in {held} bytes")
        self._weights += elements

    def _values(self, graph: Message, side: str) -> tuple[Signature, ...]:
        spans = graph.spans.get(side, [])
        if len(spans) > MOST_VALUES:
            raise WireError(f"{len(spans)} {side}s, at most {MOST_VALUES} are allowed")
        return tuple(self._value(span) for span in spans)

    def _value(self, span: Span) -> Signature:
        read = self._reader.message
        value = read(span, messages.VALUE, "an input or output")
        sizes: list[int | str] = []
        element = 0
        for type_span in value.spans.get("type", []):
            kind = read(type_span, messages.TYPE, "a type")
            for tensor_span in kind.spans.get("tensor_type", []):
                tensor = read(tensor_span, messages.TENSOR_TYPE, "a tensor type")
                element = tensor.int("elem_type")
                for shape_span in tensor.spans.get("shape", []):
                    sizes = self._sizes(shape_span)
        return Signature(value.text("name"), element, tuple(sizes))

    def _sizes(self, span: Span) -> list[int | str]:
        shape = self._reader.message(span, messages.SHAPE, "a shape")
        spans = shape.spans.get("dim", [])
        if len(spans) > MOST_AXES:
            raise WireError(f"a shape of {len(spans)} axes, at most {MOST_AXES} are allowed")
        found: list[int | str] = []
        for part in spans:
            size = self._reader.message(part, messages.DIMENSION, "an axis")
            number = size.int("dim_value")
            if number >= MOST_BYTES:
                raise WireError(f"an axis of {number} elements")
            found.append(number if "dim_value" in size.ints else size.text("dim_param"))
        return found


def _shown(text: str) -> str:
    """A text from a file, fit for a message: short, and without control characters."""
    return ascii(text[:40])
