"""A byte that rots in an exported network is found before it predicts."""

from __future__ import annotations

import onnx
import pytest
from onnx import numpy_helper

from medstill.deploy.digest import GRAPH_KEY
from medstill.deploy.graph import save
from medstill.deploy.metadata import read_metadata
from medstill.deploy.runtime import load_model
from medstill.errors import ModelFileError
from tiny_onnx import write


@pytest.fixture
def path(tmp_path):
    written = write(tmp_path / "model.onnx")
    save(onnx.load(written), written)
    return written


def test_each_byte_of_the_weights_counts(path):
    content = path.read_bytes()
    (kernel,) = onnx.load(path).graph.initializer
    weights = kernel.raw_data or numpy_helper.to_array(kernel).astype("<f4").tobytes()
    start = content.index(weights)
    load_model(path, threads=1)
    for place in range(start, start + len(weights), 7):
        changed = bytearray(content)
        changed[place] ^= 4
        path.write_bytes(changed)
        with pytest.raises(ModelFileError, match="damaged, since its checksum is another"):
            load_model(path, threads=1)
        with pytest.raises(ModelFileError, match="checksum"):
            read_metadata(path)


def test_a_file_that_is_written_again_has_the_checksum_of_its_own(path):
    model = onnx.load(path)
    before = read_metadata(path).metadata
    (kernel,) = model.graph.initializer
    kernel.CopyFrom(numpy_helper.from_array(2 * numpy_helper.to_array(kernel), kernel.name))
    save(model, path)
    after = read_metadata(path).metadata
    assert before.keys() == after.keys()
    assert before[GRAPH_KEY] != after[GRAPH_KEY]
    assert {key for key in after if before[key] != after[key]} == {GRAPH_KEY}


def test_a_file_without_a_checksum_is_taken(tmp_path):
    path = write(tmp_path / "model.onnx")
    assert GRAPH_KEY not in read_metadata(path).metadata
    load_model(path, threads=1)
