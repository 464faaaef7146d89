"""The messages of an ONNX file: field numbers after onnx.proto, and what is never accepted in it.

An exported network is one graph of standard operators with all its weights inside. What else the
format knows (functions, control flow, data in other files, training) is refused, whoever wrote it.
"""

from __future__ import annotations

from typing import Final

from medstill.deploy.wire import Kind, Layout, Slot

_EXTERNAL: Final = "weights in another file (external data), which are never read"
_CONTROL_FLOW: Final = "graphs inside operators (control flow), which no export writes"
_FUNCTIONS: Final = "functions of its own, which no export writes"
_SPARSE: Final = "sparse tensors, which no export writes"
_TRAINING: Final = "training information, which no export writes"


def _text(name: str, *, many: bool = False) -> Slot:
    return Slot(name, Kind.TEXT, many)


def _many(name: str) -> Slot:
    return Slot(name, many=True)


def _refused(reason: str) -> Slot:
    return Slot("", refused=reason)


MODEL: Final[Layout] = {
    1: Slot("ir_version", Kind.INT),
    2: _text("producer_name"),
    3: _text("producer_version"),
    4: _text("domain"),
    5: Slot("model_version", Kind.INT),
    6: _text("doc_string"),
    7: Slot("graph"),
    8: _many("opset_import"),
    14: _many("metadata_props"),
    20: _refused(_TRAINING),
    25: _refused(_FUNCTIONS),
}
OPERATOR_SET: Final[Layout] = {1: _text("domain"), 2: Slot("version", Kind.INT)}
ENTRY: Final[Layout] = {1: _text("key"), 2: _text("value")}
GRAPH: Final[Layout] = {
    1: _many("node"),
    2: _text("name"),
    5: _many("initializer"),
    10: _text("doc_string"),
    11: _many("input"),
    12: _many("output"),
    13: _many("value_info"),
    15: _refused(_SPARSE),
}
NODE: Final[Layout] = {
    1: _text("input", many=True),
    2: _text("output", many=True),
    3: _text("name"),
    4: _text("op_type"),
    5: _many("attribute"),
    6: _text("doc_string"),
    7: _text("domain"),
    8: _refused(_FUNCTIONS),
}
ATTRIBUTE: Final[Layout] = {
    1: _text("name"),
    2: Slot("f", Kind.FLOAT),
    3: Slot("i", Kind.INT),
    4: Slot("s"),
    5: Slot("t"),
    6: _refused(_CONTROL_FLOW),
    7: Slot("floats", Kind.FLOAT, many=True),
    8: Slot("ints", Kind.INTS, many=True),
    9: _many("strings"),
    10: _many("tensors"),
    11: _refused(_CONTROL_FLOW),
    13: _text("doc_string"),
    20: Slot("type", Kind.INT),
    21: _refused(_FUNCTIONS),
    22: _refused(_SPARSE),
    23: _refused(_SPARSE),
}
TENSOR: Final[Layout] = {
    1: Slot("dims", Kind.INTS, many=True),
    2: Slot("data_type", Kind.INT),
    4: Slot("float_data", Kind.FLOAT, many=True),
    5: _many("int32_data"),
    7: _many("int64_data"),
    8: _text("name"),
    9: Slot("raw_data"),
    10: _many("double_data"),
    11: _many("uint64_data"),
    12: _text("doc_string"),
    13: _refused(_EXTERNAL),
    14: Slot("data_location", Kind.INT),
}
VALUE: Final[Layout] = {1: _text("name"), 2: Slot("type"), 3: _text("doc_string")}
TYPE: Final[Layout] = {1: Slot("tensor_type"), 6: _text("denotation")}
TENSOR_TYPE: Final[Layout] = {1: Slot("elem_type", Kind.INT), 2: Slot("shape")}
SHAPE: Final[Layout] = {1: _many("dim")}
DIMENSION: Final[Layout] = {
    1: Slot("dim_value", Kind.INT),
    2: _text("dim_param"),
    3: _text("denotation"),
}

EXTERNAL = _EXTERNAL
BYTES_OF_TYPE: Final = {1: 4, 2: 1, 3: 1, 4: 2, 5: 2, 6: 4, 7: 8, 9: 1, 10: 2, 11: 8, 12: 4, 13: 8}
"""Number of an element type -> bytes of one element, of the types that networks are made of."""
FLOAT_TYPE: Final = 1
