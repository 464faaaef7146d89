"""An exported file without an export: one convolution of random weights, three classes."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper

from medstill.deploy.contract import Contract, NetworkSummary, Origin
from medstill.volumes.records import ChannelIntensity, Preparation
from medstill.volumes.terms import term_of

CLASSES = ("background", "a", "b")


def write(path, *, dims=2, channels=1):
    """A network of three classes: one convolution of random weights."""
    rng = np.random.default_rng(5)
    kernel = rng.normal(0, 1, (3, channels, *(3,) * dims)).astype(np.float32)
    axes = ("z", "y", "x")[-dims:]
    graph = helper.make_graph(
        [helper.make_node("Conv", ["image", "kernel"], ["logits"], pads=[1] * 2 * dims)],
        "graph",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", channels, *axes])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 3, *axes])],
        [helper.make_tensor("kernel", TensorProto.FLOAT, kernel.shape, kernel.ravel())],
    )
    contract = Contract(
        network=NetworkSummary(name="random", parameters=27, macs=27),
        preparation=Preparation(
            spatial_dims=dims,
            spacing_zyx_mm=(None if dims == 2 else 2.5, 2.7, 1.4),
            intensity=(ChannelIntensity(kind="ct-window", low=-200.0, high=200.0),) * channels,
            classes=CLASSES,
            patch_zyx=(1 if dims == 2 else 8, 16, 16),
        ),
        terms=tuple(term_of(name, number) for number, name in enumerate(CLASSES) if number),
        training=Origin(study="feedbeef", weights="0123456789abcdef"),
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(model, contract.to_metadata())
    onnx.save(model, path)
    return path
