"""The distrustful reader: what it tells, and that it refuses what no export writes."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from fake_model import contract_of, model_of
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from typer.testing import CliRunner

from medstill import cli
from medstill.deploy import metadata as reader
from medstill.deploy.contract import METADATA_KEY
from medstill.deploy.metadata import (
    Signature,
    contract_in,
    read_metadata,
    text_of,
)
from medstill.errors import ModelFileError

PATH = Path("model.onnx")
GOOD = model_of().SerializeToString()


def test_what_a_file_says_is_told():
    text = text_of(GOOD, PATH)
    assert text.size_bytes == len(GOOD)
    assert text.opset == 18
    assert text.metadata == contract_of().to_metadata()
    assert text.inputs == (Signature("image", TensorProto.FLOAT, ("batch", 2, "y", "x")),)
    assert text.outputs == (Signature("logits", TensorProto.FLOAT, ("batch", 3, "y", "x")),)
    assert text.operators == {"Einsum": 1}
    assert text.weights == 6
    assert contract_in(text, PATH) == contract_of()


def test_neither_onnx_nor_onnxruntime_is_needed(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(GOOD)
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from medstill.deploy.metadata import contract_in, read_metadata\n"
        f"path = Path({str(path)!r})\nprint(contract_in(read_metadata(path), path).network.name)\n"
        "print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    name, modules = done.stdout.splitlines()
    assert name == "fake"
    assert not {"onnx", "onnxruntime", "torch", "SimpleITK"}.intersection(modules.split())


def test_info_prints_the_contract_as_json(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(GOOD)
    shown = CliRunner().invoke(cli.app, ["info", str(path)])
    assert shown.exit_code == 0
    assert '"intended_use": "Research use only, not a medical device."' in shown.output
    assert '"Einsum": 1' in shown.output


def tag(number, wire):
    return varint(number << 3 | wire)


def varint(value):
    parts = []
    while value >= 0x80:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "0 bytes only"),
        (b"short", "5 bytes only"),
        (b"a shopping list, not a network\n", "unknown|wire type|length"),
        (GOOD[:-1], "a length of"),
        (GOOD[:-30], "a length of"),
        (GOOD + tag(7, 2) + varint(0), "two values of graph in the model"),
        (GOOD + tag(2, 2) + varint(2) + b"me" + tag(2, 2) + varint(2) + b"us", "producer_name"),
        (GOOD + tag(99, 0) + varint(1), r"unknown content in the model \(field 99\)"),
        (GOOD + tag(0, 0) + varint(1), "no field number"),
        (GOOD + tag(7, 3), "unknown wire type 3"),
        (GOOD + tag(5, 2) + varint(0), "integer expected in model_version, found wire type 2"),
        (GOOD + tag(6, 2) + varint(2**62), r"a length of 4611686018427387904 bytes"),
        (GOOD + tag(6, 2) + varint(5000) + b"a" * 5000, "a doc_string of 5000 bytes, at most"),
        (GOOD + tag(6, 2) + varint(1) + b"\xff", "a doc_string that is no UTF-8 text"),
        (GOOD + b"\xff" * 11, "no number"),
        (GOOD + tag(5, 0) + b"\xff" * 9 + b"\x7f", "no number"),
        (GOOD + tag(5, 0) + b"\xff", "no number"),
    ],
)
def test_damaged_bytes_are_refused(content, found):
    with pytest.raises(ModelFileError, match=rf"'medstill export' writes it: .*({found})"):
        text_of(content, PATH)


def test_too_many_fields_are_refused_in_little_time(monkeypatch):
    model = model_of()
    model.graph.node.extend(helper.make_node("Relu", ["a"], ["b"]) for _ in range(100))
    wanted = reader.Reader
    monkeypatch.setattr(reader, "Reader", lambda content: wanted(content, most_fields=100))
    with pytest.raises(ModelFileError, match="more than 100 fields"):
        text_of(model.SerializeToString(), PATH)
    assert text_of(GOOD, PATH).opset == 18


def test_control_characters_of_a_file_reach_no_message():
    model = model_of()
    model.graph.node.append(helper.make_node("\x1b[2J", ["a"], ["b"], domain="\x07" * 9000))
    with pytest.raises(ModelFileError, match=r"9000 bytes") as caught:
        text_of(model.SerializeToString(), PATH)
    model.graph.node[-1].domain = "\x07" * 4000
    with pytest.raises(ModelFileError, match=r"\\x1b\[2J' of the domain '\\x07") as caught:
        text_of(model.SerializeToString(), PATH)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500


def test_a_file_larger_than_the_format_allows_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "model.onnx"
    path.write_bytes(GOOD)
    monkeypatch.setattr(reader, "MOST_BYTES", len(GOOD) - 1)
    with pytest.raises(ModelFileError, match=f"larger than {len(GOOD) - 1} bytes"):
        read_metadata(path)
    monkeypatch.setattr(reader, "MOST_BYTES", len(GOOD))
    assert read_metadata(path).size_bytes == len(GOOD)


def test_what_is_no_file_is_refused(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(ModelFileError, match=r"at '.*pipe', found no file"):
        read_metadata(pipe)
    with pytest.raises(ModelFileError, match=r"found a folder"):
        read_metadata(tmp_path)
    with pytest.raises(ModelFileError, match=r"found nothing"):
        read_metadata(tmp_path / "gone.onnx")


@pytest.mark.parametrize(
    "changes", [{"name": "picture"}, {"kind": TensorProto.DOUBLE}, {"size": ("y", "x", 1)}]
)
def test_a_network_that_does_not_fit_its_contract_is_refused(changes):
    text = text_of(model_of(**changes).SerializeToString(), PATH)
    with pytest.raises(ModelFileError, match=r"does not fit its medstill contract.*found"):
        contract_in(text, PATH)


@st.composite
def damaged(draw):
    """The bytes of a good file with parts cut out, put in, doubled or replaced."""
    content = bytearray(GOOD)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(content)))
        stop = min(len(content), start + draw(st.integers(0, 12)))
        put = draw(st.binary(max_size=12) | st.just(bytes(content[start:stop]) * 2))
        content[start:stop] = put
    return bytes(content)


def seen_by_us(content):
    text = text_of(content, PATH)
    return dict(text.metadata), [value.name for value in text.inputs], list(text.operators)


def seen_by_onnx(content):
    model = onnx.load_model_from_string(content)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    operators = sorted({node.op_type for node in model.graph.node})
    return metadata, [value.name for value in model.graph.input], operators


@settings(max_examples=300, deadline=None)
@given(content=damaged())
def test_any_damage_is_refused_or_seen_as_the_official_reader_sees_it(content):
    with contextlib.suppress(ModelFileError):
        assert seen_by_us(content) == seen_by_onnx(content)


@settings(max_examples=300, deadline=None)
@given(content=st.binary(max_size=200))
def test_any_bytes_are_refused_clearly(content):
    with pytest.raises(ModelFileError, match=r"model\.onnx"):
        contract_in(text_of(content, PATH), PATH)


def test_the_metadata_may_be_as_long_as_a_contract_may():
    model = model_of({METADATA_KEY: " " * 900_000})
    assert len(text_of(model.SerializeToString(), PATH).metadata[METADATA_KEY]) == 900_000
