"""Convolutions behind a concatenation that are computed in parts give what they gave."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from medstill.deploy.parts import convolve_in_parts


def weights(name, *shape):
    values = np.random.default_rng(len(name)).normal(size=shape).astype(np.float32)
    return numpy_helper.from_array(values, name)


def saved(path, nodes, made, outputs, dims=2):
    """Write a network of an image of two channels and any size."""
    free = [f"{name}_size" for name in "bczyx"[: dims + 2]]
    graph = helper.make_graph(
        nodes,
        "tested",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 2, *free[2:]])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, free) for name in outputs],
        made,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), path)
    return path


def file(path, *, counts=(3, 5), axis=1, group=1, again=False, dims=2):
    """Maps of so many channels out of one image, concatenated and convolved."""
    size = (3,) * dims
    total = sum(counts)
    first = [
        helper.make_node("Conv", ["image", f"w{i}"], [f"map{i}"], pads=(1,) * 2 * dims)
        for i, _ in enumerate(counts)
    ]
    made = [weights(f"w{i}", count, 2, *size) for i, count in enumerate(counts)]
    made += [weights("weight", 8, total // group, *size), weights("bias", 8)]
    joined = helper.make_node("Concat", [node.output[0] for node in first], ["cat"], axis=axis)
    last = helper.make_node(
        "Conv",
        ["cat", "weight", "bias"],
        ["answer"],
        pads=(1,) * 2 * dims,
        strides=(2,) * dims,
        group=group,
    )
    used = [helper.make_node("Relu", ["cat"], ["used"])] if again else []
    outputs = ["answer", *(["used"] if again else [])]
    return saved(path, [*first, joined, last, *used], made, outputs, dims)


def answers(path, dims=2):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    image = np.random.default_rng(0).normal(size=(2, 2, *(17, 12, 9)[:dims])).astype(np.float32)
    return session.run(None, {"image": image})


def rewritten(path):
    """The operators of a file of which one convolution was rewritten, and no answer changed."""
    (before,) = answers(path)
    assert convolve_in_parts(path) == 1
    (after,) = answers(path)
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-5)
    return Counter(node.op_type for node in onnx.load(path).graph.node)


@pytest.mark.parametrize("counts", [(3, 5), (5, 3), (1, 4, 3)])
@pytest.mark.parametrize("axis", [1, -3])
def test_the_answer_is_the_same_without_a_concatenation(tmp_path, counts, axis):
    path = file(tmp_path / "a.onnx", counts=counts, axis=axis)
    parts = len(counts)
    assert rewritten(path) == {"Conv": 2 * parts, "Add": parts - 1}
    names = {entry.name for entry in onnx.load(path).graph.initializer}
    assert "weight" not in names
    assert len(names) == 2 * parts + 1


@pytest.mark.parametrize("what", [{"group": 2}, {"again": True}, {"dims": 3}])
def test_what_does_not_fit_is_left_alone(tmp_path, what):
    path = file(tmp_path / "a.onnx", **{"counts": (4, 4), **what})
    before = path.read_bytes()
    answers(path, what.get("dims", 2))
    assert convolve_in_parts(path) == 0
    assert path.read_bytes() == before


def u_net(path):
    """The last join of a U-Net: what was pooled and comes back up, beside what was not."""
    nodes = [
        helper.make_node("Conv", ["image", "skip_weight"], ["skip"], pads=(1,) * 4),
        helper.make_node("MaxPool", ["skip"], ["small"], kernel_shape=(2, 2), strides=(2, 2)),
        helper.make_node("ConvTranspose", ["small", "up_weight"], ["up"], strides=(2, 2)),
        helper.make_node("Concat", ["up", "skip"], ["cat"], axis=1),
        helper.make_node("Conv", ["cat", "weight", "bias"], ["wide"], pads=(1,) * 4),
        helper.make_node("Relu", ["wide"], ["answer"]),
    ]
    made = [weights("skip_weight", 16, 2, 3, 3), weights("up_weight", 16, 16, 2, 2)]
    made += [weights("weight", 16, 32, 3, 3), weights("bias", 16)]
    return saved(path, nodes, made, ["answer"])


def test_onnxruntime_sums_the_parts_within_a_convolution(tmp_path):
    path = u_net(tmp_path / "a.onnx")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    image = np.random.default_rng(0).normal(size=(2, 2, 24, 16)).astype(np.float32)

    def answer():
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return session.run(None, {"image": image})[0]

    before = answer()
    assert convolve_in_parts(path) == 1
    np.testing.assert_allclose(answer(), before, rtol=1e-5, atol=1e-4)
    found = onnx.load(tmp_path / "optimised.onnx", load_external_data=False).graph.node
    if not any(node.domain == "com.microsoft.nchwc" for node in found):
        pytest.skip("onnxruntime computes in blocks of channels on other processors only")
    assert not {"Add", "Reshape", "Relu"} & {node.op_type for node in found}


def separable(path, *, counts=(3, 5), bias=True, again=False):
    """Maps concatenated, filtered one by one, and mixed."""
    total = sum(counts)
    nodes = [
        helper.make_node("Conv", ["image", f"w{i}"], [f"map{i}"]) for i, _ in enumerate(counts)
    ]
    made = [weights(f"w{i}", count, 2, 1, 1) for i, count in enumerate(counts)]
    made += [weights("filters", total, 1, 3, 3), weights("shift", total)]
    made += [weights("weight", 4, total, 1, 1), weights("bias", 4)]
    given = ["cat", "filters", *(["shift"] if bias else [])]
    nodes += [
        helper.make_node("Concat", [f"map{i}" for i, _ in enumerate(counts)], ["cat"], axis=1),
        helper.make_node("Conv", given, ["filtered"], pads=(1,) * 4, group=total),
        helper.make_node("Conv", ["filtered", "weight", "bias"], ["answer"]),
    ]
    if again:
        nodes.append(helper.make_node("Relu", ["filtered"], ["used"]))
    kept = made if bias else [entry for entry in made if entry.name != "shift"]
    return saved(path, nodes, kept, ["answer", *(["used"] if again else [])])


@pytest.mark.parametrize("counts", [(3, 5), (5, 1), (1, 4, 3)])
@pytest.mark.parametrize("bias", [True, False])
def test_a_depthwise_convolution_in_between_is_one_of_each_part(tmp_path, counts, bias):
    parts = len(counts)
    path = separable(tmp_path / "a.onnx", counts=counts, bias=bias)
    assert rewritten(path) == {"Conv": 3 * parts, "Add": parts - 1}


def test_maps_that_are_used_elsewhere_too_stay_whole(tmp_path):
    path = separable(tmp_path / "a.onnx", again=True)
    before = path.read_bytes()
    answers(path)
    assert convolve_in_parts(path) == 0
    assert path.read_bytes() == before
