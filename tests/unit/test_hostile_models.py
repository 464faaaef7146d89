"""Models that no export writes are refused, each by name, before onnxruntime sees them."""

from __future__ import annotations

import pytest
from fake_model import model_of
from onnx import TensorProto, helper

from medstill.deploy.metadata import MOST_AXES, MOST_ENTRIES, MOST_VALUES
from medstill.deploy.runtime import load_model
from medstill.errors import ModelFileError


def graph_operator():
    """An `If`, whose branches are graphs."""
    empty = helper.make_graph([], "branch", [], [])
    return helper.make_node("If", ["c"], ["d"], then_branch=empty, else_branch=empty)


def external(tensor, location):
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", location


def first_weights(model):
    return model.graph.initializer[0]


def function(model):
    added = helper.make_function(
        "somewhere", "f", ["x"], ["y"], [], [helper.make_opsetid("evil", 1)]
    )
    model.functions.append(added)


def sparse(model):
    model.graph.sparse_initializer.add()


def training(model):
    model.training_info.add()


def custom_operator(model):
    model.graph.node.append(helper.make_node("Run", ["image"], ["z"], domain="com.example"))


def custom_set(model):
    model.opset_import.append(helper.make_opsetid("com.example", 1))


def second_set(model):
    model.opset_import.append(helper.make_opsetid("", 19))


def no_set(model):
    del model.opset_import[:]


def control_flow(model):
    model.graph.node.append(graph_operator())


def weights_outside(model):
    external(first_weights(model), "../../etc/passwd")


def weights_beside(model):
    external(first_weights(model), "weights.bin")


def location_alone(model):
    first_weights(model).data_location = TensorProto.EXTERNAL


def constant_outside(model):
    value = helper.make_tensor("c", TensorProto.FLOAT, [1], [0.0])
    external(value, "c.bin")
    model.graph.node.append(helper.make_node("Constant", [], ["c"], value=value))


def too_few_bytes(model):
    first_weights(model).raw_data = first_weights(model).raw_data[:-1]


def absurd_dims(model):
    first_weights(model).dims[:] = [2**31 - 2, 6]


def absurd_axis(model):
    first_weights(model).dims[0] = 2**31


def negative_axis(model):
    first_weights(model).dims[0] = -3


def dims_that_overflow(model):
    first_weights(model).dims[:] = [2**16] * 4


def many_axes(model):
    first_weights(model).dims[:] = [1] * (MOST_AXES + 1)


def typed_too_few(model):
    first_weights(model).ClearField("raw_data")
    first_weights(model).float_data.append(1.0)


def two_kinds_of_data(model):
    first_weights(model).float_data.append(1.0)


def odd_element_type(model):
    first_weights(model).data_type = TensorProto.STRING


def absurd_input(model):
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 2**40


def negative_input(model):
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = -1


def many_inputs(model):
    model.graph.input.extend([model.graph.input[0]] * MOST_VALUES)


def deep_shape(model):
    for _ in range(MOST_AXES):
        model.graph.input[0].type.tensor_type.shape.dim.add()


def many_entries(model):
    for number in range(MOST_ENTRIES):
        entry = model.metadata_props.add()
        entry.key = str(number)


def a_key_twice(model):
    model.metadata_props.append(model.metadata_props[0])


def no_graph(model):
    model.ClearField("graph")


HOSTILE = {
    custom_operator: r"operator 'Run' of the domain 'com\.example': only standard ones",
    custom_set: r"operator set of the domain 'com\.example'",
    second_set: "2 versions of the standard operators",
    no_set: "0 versions of the standard operators",
    function: "functions of its own",
    control_flow: r"graphs inside operators \(control flow\)",
    sparse: "sparse tensors",
    training: "training information",
    weights_outside: r"weights in another file \(external data\)",
    weights_beside: r"weights in another file \(external data\)",
    location_alone: r"weights in another file \(external data\)",
    constant_outside: r"weights in another file \(external data\)",
    too_few_bytes: "'weights' of 6 elements in 23 bytes",
    absurd_dims: "'weights' of 12884901876 elements in 24 bytes",
    absurd_axis: "'weights' of 2 axes of up to 2147483648 elements",
    negative_axis: "'weights' of 2 axes of up to 18446744073709551613 elements",
    dims_that_overflow: "'weights' of 18446744073709551616 elements in 24 bytes",
    many_axes: f"'weights' of {MOST_AXES + 1} axes",
    typed_too_few: "'weights' of 6 elements in 4 bytes",
    two_kinds_of_data: "'weights' with two kinds of data",
    odd_element_type: "'weights' of the element type 8",
    absurd_input: "an axis of 1099511627776 elements",
    negative_input: "an axis of 18446744073709551615 elements",
    many_inputs: f"{MOST_VALUES + 1} inputs, at most {MOST_VALUES} are allowed",
    deep_shape: f"a shape of {MOST_AXES + 4} axes",
    many_entries: f"{MOST_ENTRIES + 1} metadata entries",
    a_key_twice: "the metadata key 'medstill.contract' twice",
    no_graph: "no graph in it",
}


@pytest.mark.parametrize("spoil", HOSTILE, ids=lambda spoil: spoil.__name__)
def test_what_no_export_writes_is_refused_before_onnxruntime_sees_it(spoil, tmp_path, monkeypatch):
    model = model_of()
    spoil(model)
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    monkeypatch.delattr("medstill.deploy.runtime.onnxruntime.InferenceSession")
    message = rf"model\.onnx' is no ONNX network as 'medstill export' writes it: .*{HOSTILE[spoil]}"
    with pytest.raises(ModelFileError, match=message) as caught:
        load_model(path)
    assert len(str(caught.value)) < 600
