"""Worker, outbox and senders: what fails is put aside or tried again, and nothing is lost."""

from __future__ import annotations

import errno
import json
import logging
import os
import threading
from itertools import pairwise

import pytest
from node_scene import ARCHIVE, KEY, Scene

from dicom_node import fake_handle, write_series
from medstill.errors import GeometryError, StorageError
from medstill.node.config import Peer
from medstill.node.files import name_of
from medstill.node.outbox import Outbox
from medstill.node.states import State

SECOND = Peer(aet="SECOND", host="127.0.0.1", port=105, receives=True)
HOUR_S = 3600.0


@pytest.fixture
def scene(tmp_path):
    with Scene(tmp_path / "node") as found:
        found.sent([1, 2])
        found.wait(10.0)
        yield found


def failing(error):
    def handle(folder, result):
        result.write_text("half a segmentation")
        raise error

    return handle


def test_a_series_that_cannot_be_segmented_is_put_aside_with_the_reason(scene, caplog):
    scene.worker._handle = failing(GeometryError("'Geheim^Erika' has a gap"))
    with caplog.at_level(logging.INFO):
        assert scene.worker.step()
    assert scene.state == State.FAILED
    folder = scene.shelves.place(State.FAILED, KEY)
    assert (folder / "reason.txt").read_text() == "GeometryError: 'Geheim^Erika' has a gap\n"
    assert len(list((folder / "images").iterdir())) == 2
    assert not (folder / "result.dcm").exists()
    assert "GeometryError" in caplog.text
    assert "Geheim" not in caplog.text


def test_a_series_that_failed_is_tried_again_when_it_is_sent_again(scene):
    plain = scene.worker._handle
    scene.worker._handle = failing(ValueError("x"))
    scene.worker.step()
    scene.worker._handle = plain
    assert scene.sent([1, 2]) == [True, True]
    scene.wait(10.0)
    scene.worker.step()
    assert scene.state == State.OUTGOING


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_full_disk_makes_the_series_wait(scene, wrapped):
    error = OSError(errno.ENOSPC, "No space left on device")
    if wrapped:
        error, cause = StorageError("No space left while writing"), error
        error.__cause__ = cause
    plain = scene.worker._handle
    scene.worker._handle = failing(error)
    for _ in range(5):
        assert not scene.worker.step()
        scene.now += 5.0
    assert scene.state == State.READY
    scene.worker._handle = plain
    assert scene.worker.step()
    assert scene.state == State.OUTGOING


def test_a_full_disk_is_not_met_at_once_again(scene):
    runs = []
    full = failing(OSError(errno.ENOSPC, "No space left on device"))
    scene.worker._handle = lambda folder, result: (runs.append(scene.now), full(folder, result))
    for _ in range(20):
        scene.worker.step()
        scene.now += 1.0
    assert runs == [10.0, 15.0, 20.0, 25.0]


def test_a_result_that_cannot_be_noted_as_sent_is_not_sent_again_at_once(sending, monkeypatch):
    scene, sender, line = sending
    plain, full = scene.outbox.sent, OSError(errno.ENOSPC, "No space left on device")

    def fail(*_):
        raise full

    monkeypatch.setattr(scene.outbox, "sent", fail)
    for _ in range(3):
        sender.step(threading.Event())
    assert line.tries == 2
    monkeypatch.setattr(scene.outbox, "sent", plain)
    scene.now += 5.0
    sender.step(threading.Event())
    assert scene.outbox.pending(ARCHIVE) == []
    assert len(set(line.got)) == 2, "the same objects, whose UIDs the receiver knows"


def test_a_series_that_takes_the_process_down_is_put_aside(scene):
    class Killed(BaseException):
        pass

    plain = scene.worker._handle
    for _ in range(3):
        scene.worker._handle = failing(Killed())
        with pytest.raises(Killed):
            scene.worker.step()
        scene.reopen()
    scene.worker._handle = plain
    assert not scene.worker.step()
    assert scene.state == State.FAILED
    reason = (scene.shelves.place(State.FAILED, KEY) / "reason.txt").read_text()
    assert "ended 3 times" in reason


def test_a_node_that_is_told_to_stop_does_not_blame_the_series(scene):
    for _ in range(5):
        taken = scene.worker._take()
        assert taken is not None
        scene.worker.excuse()
        scene.reopen()
    assert scene.worker.step()


def test_a_series_is_done_when_every_receiver_has_it(scene):
    scene.worker.step()
    outbox = Outbox(scene.shelves, [ARCHIVE, SECOND], scene.waits)
    scene.delivered(SECOND, outbox)
    assert (outbox.pending(ARCHIVE), outbox.pending(SECOND)) == ([KEY], [])
    again = Outbox(scene.shelves, [ARCHIVE, SECOND], scene.waits)
    assert (again.pending(ARCHIVE), again.pending(SECOND)) == ([KEY], [])
    scene.delivered(ARCHIVE, again)
    assert scene.state == State.DONE
    receipt = json.loads((scene.shelves.place(State.DONE, KEY) / "receipt.json").read_text())
    assert sorted(receipt) == sorted([name_of("1"), name_of("2")])


def test_a_receiver_that_is_taken_out_of_the_file_is_not_waited_for(scene):
    scene.worker.step()
    scene.delivered(ARCHIVE, Outbox(scene.shelves, [ARCHIVE, SECOND], scene.waits))
    assert scene.state == State.OUTGOING
    Outbox(scene.shelves, [ARCHIVE], scene.waits).sweep()
    assert scene.state == State.DONE


def aged(scene, state, hours):
    for path in (scene.shelves.place(state, KEY), *scene.shelves.place(state, KEY).glob("*")):
        then = path.stat().st_mtime - hours * HOUR_S
        os.utime(path, (then, then))


def test_what_is_done_is_deleted_and_its_receipt_kept_for_a_day(scene):
    scene.worker.step()
    scene.delivered()
    left = {path.name for path in scene.shelves.place(State.DONE, KEY).iterdir()}
    assert "receipt.json" in left
    assert not {"images", "result.dcm"} & left
    aged(scene, State.DONE, 23.9)
    scene.outbox.sweep()
    assert scene.state == State.DONE
    aged(scene, State.DONE, 0.2)
    scene.outbox.sweep()
    assert scene.state == []
    assert scene.sent([1, 2]) == [True, True]


@pytest.fixture
def with_waits(tmp_path):
    """Gives a scene with waits of its own, whose series is ready."""
    opened = []

    def build(**waits):
        scene = Scene(tmp_path / "node", **waits)
        opened.append(scene)
        scene.sent([1, 2])
        scene.wait(10.0)
        return scene

    yield build
    for scene in opened:
        scene.shelves.close()


def test_what_is_done_can_be_kept(with_waits):
    scene = with_waits(keep_done_h=48.0)
    scene.worker.step()
    scene.delivered()
    aged(scene, State.DONE, 47.0)
    scene.outbox.sweep()
    place = scene.shelves.place(State.DONE, KEY)
    assert sorted(path.name for path in (place / "images").iterdir())
    assert (place / "result.dcm").exists()
    aged(scene, State.DONE, 2.0)
    scene.outbox.sweep()
    assert scene.state == []


@pytest.mark.parametrize(("keep_failed_h", "left"), [(None, State.FAILED), (1.0, [])])
def test_what_failed_is_kept_as_long_as_the_file_says(with_waits, keep_failed_h, left):
    scene = with_waits(keep_failed_h=keep_failed_h)
    scene.worker._handle = failing(ValueError("x"))
    scene.worker.step()
    aged(scene, State.FAILED, 10_000.0)
    scene.outbox.sweep()
    assert scene.state == left


class Line:
    """A receiver that can be dead, or refuse one series."""

    def __init__(self, send):
        self.send = send
        self.got, self.tries, self.dead, self.refused = [], 0, False, set()

    def __call__(self, _, dataset):
        self.tries += 1
        if self.dead:
            raise self.send.UnreachableError("no association")
        if str(dataset.SOPInstanceUID) in self.refused:
            raise self.send.RefusedError("status C000")
        self.got.append(str(dataset.SOPInstanceUID))


@pytest.fixture
def sending(scene, tmp_path):
    """A scene with two real results to send, their sender, and the line."""
    pytest.importorskip("pynetdicom", reason="pip install 'medstill[dicom]'")
    from medstill.node import send

    images = tmp_path / "images"
    write_series(images, slices=1)
    for number in range(2):
        folder = scene.shelves.place(State.OUTGOING, name_of(f"sent {number}"))
        folder.mkdir()
        fake_handle(images, folder / "result.dcm")
    line = Line(send)
    sender = send.Sender(scene.outbox, ARCHIVE, scene.waits, line, clock=lambda: scene.now)
    return scene, sender, line


def test_a_dead_receiver_is_asked_again_after_longer_and_longer_waits(sending):
    scene, sender, line = sending
    line.dead = True
    tried = []
    for _ in range(400):
        before = line.tries
        sender.step(threading.Event())
        tried += [scene.now] * (line.tries - before)
        scene.now += 1.0
    gaps = [later - earlier for earlier, later in pairwise(tried)]
    assert gaps == [5.0, 10.0, 20.0, 40.0, 80.0, 160.0]
    line.dead = False
    scene.now += 1000.0
    sender.step(threading.Event())
    assert len(line.got) == 2
    assert scene.outbox.pending(ARCHIVE) == []


def test_a_result_that_is_refused_does_not_keep_the_others_back(sending):
    from pydicom import dcmread

    scene, sender, line = sending
    first, second = (
        str(dcmread(scene.outbox.result(key)[0]).SOPInstanceUID)
        for key in scene.outbox.pending(ARCHIVE)
    )
    line.refused = {first}
    sender.step(threading.Event())
    assert line.got == [second]
    sender.step(threading.Event())
    assert line.tries == 2
    line.refused = set()
    scene.now += 5.0
    sender.step(threading.Event())
    assert line.got == [second, first]


def test_a_result_that_cannot_be_read_does_not_keep_the_others_back(sending, caplog):
    scene, sender, line = sending
    scene.outbox.result(scene.outbox.pending(ARCHIVE)[0])[0].write_text("no DICOM")
    sender.step(threading.Event())
    assert len(line.got) == 1
    assert "not sent to ARCHIVE" in caplog.text
