"""A tiny network with its contract as an ONNX model, for tests that spoil it."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, TensorProto, helper

from medstill.deploy.contract import Contract, NetworkSummary, Origin
from medstill.volumes.records import ChannelIntensity, Preparation
from medstill.volumes.terms import terms_of

WEIGHTS_KC = np.arange(6, dtype=np.float32).reshape(3, 2)


def contract_of(classes=("background", "a", "b"), channels=2) -> Contract:
    """The contract of a 2-D network."""
    return Contract(
        network=NetworkSummary(name="fake", parameters=6, macs=6),
        preparation=Preparation(
            spatial_dims=2,
            spacing_zyx_mm=(None, 2.0, 1.0),
            intensity=(ChannelIntensity(kind="none"),) * channels,
            classes=classes,
            patch_zyx=(1, 16, 24),
        ),
        terms=terms_of(classes, {}),
        training=Origin(study="feedbeef", weights="0123456789abcdef"),
    )


def model_of(metadata=None, *, name="image", kind=TensorProto.FLOAT, size=("y", "x")) -> ModelProto:
    """A network that mixes two channels into three at each place."""
    shape = helper.make_tensor_value_info
    stored = WEIGHTS_KC.astype(helper.tensor_dtype_to_np_dtype(kind)).tobytes()
    weights = helper.make_tensor("weights", kind, WEIGHTS_KC.shape, stored, raw=True)
    graph = helper.make_graph(
        [helper.make_node("Einsum", ["weights", name], ["logits"], equation="kc,bc...->bk...")],
        "graph",
        [shape(name, kind, ["batch", 2, *size])],
        [shape("logits", kind, ["batch", 3, *size])],
        [weights],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(model, contract_of().to_metadata() if metadata is None else metadata)
    return model
