"""Series in which there is nothing to segment: done without a result, and nothing is sent."""

from __future__ import annotations

import logging

import onnx
import pytest
from fake_model import contract_of, model_of
from node_scene import ARCHIVE, KEY, Scene

from dicom_factory import SCOUT, write_series
from medstill.errors import NothingToSegmentError
from medstill.node.files import name_of
from medstill.node.handling import segmenting
from medstill.node.states import State


@pytest.fixture
def scene(tmp_path):
    with Scene(tmp_path / "node", keep_done_h=1) as found:
        found.handled = found.worker._handle
        found.worker._handle = nothing
        found.sent([1, 2])
        found.wait(10.0)
        yield found


def nothing(folder, result):
    result.write_text("begun")
    raise NothingToSegmentError("scout views of Geheim^Erika alone")


def test_nothing_is_sent_and_the_series_is_done(scene, caplog):
    with caplog.at_level(logging.INFO):
        assert scene.worker.step()
    assert scene.outbox.pending(ARCHIVE) == []
    scene.outbox.sweep()
    assert scene.state == State.DONE
    place = scene.shelves.place(State.DONE, KEY)
    assert not (place / "result.dcm").exists()
    assert sorted(scene.shelves.instances(State.DONE, KEY)) == sorted([name_of("1"), name_of("2")])
    assert "nothing to segment" in caplog.text
    assert "segmented" not in caplog.text
    assert "Geheim" not in caplog.text
    assert scene.sent([1, 2]) == [False, False]


def test_it_is_done_after_a_kill_too(scene):
    scene.worker.step()
    scene.reopen()
    assert scene.state == State.OUTGOING
    scene.outbox.sweep()
    assert scene.state == State.DONE
    assert scene.seen == []


def test_slices_that_come_after_a_scout_are_segmented(scene):
    scene.worker.step()
    scene.outbox.sweep()
    scene.worker._handle = scene.handled
    assert scene.sent([3]) == [True]
    scene.wait(10.0)
    assert scene.worker.step()
    assert [len(found) for found in scene.seen] == [3]
    assert scene.outbox.pending(ARCHIVE) == [KEY]
    scene.delivered()
    assert scene.state == State.DONE


def test_what_a_killed_node_thought_of_a_series_does_not_stay(scene):
    """It is killed when it has noted that there is nothing, and its successor finds something."""
    move = scene.shelves.move

    def killed(*_):
        raise KeyboardInterrupt

    scene.shelves.move = lambda key, source, target: (
        killed() if target == State.OUTGOING else move(key, source, target)
    )
    with pytest.raises(KeyboardInterrupt):
        scene.worker.step()
    scene.reopen()
    assert scene.worker.step()
    assert scene.outbox.pending(ARCHIVE) == [KEY]


def test_the_model_passes_scouts_over(tmp_path):
    exported = tmp_path / "model.onnx"
    onnx.save(model_of(contract_of().to_metadata()), exported)
    write_series(tmp_path / "images", SCOUT)
    with pytest.raises(NothingToSegmentError):
        segmenting(exported)(tmp_path / "images", tmp_path / "result.dcm")
    assert not (tmp_path / "result.dcm").exists()
