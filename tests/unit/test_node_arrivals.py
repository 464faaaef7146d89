"""Series that come in: what is on the disk after each event, with a clock that tests turn."""

from __future__ import annotations

import errno

import pytest
from node_scene import ARCHIVE, KEY, Scene

from medstill.errors import ConfigError
from medstill.node import files
from medstill.node.files import name_of
from medstill.node.shelves import RESULT, Shelves
from medstill.node.states import State


@pytest.fixture
def scene(tmp_path):
    with Scene(tmp_path / "node") as found:
        yield found


def test_a_series_is_complete_when_nothing_came_for_a_while_after_the_release(scene):
    session, _ = scene.put([1, 2])
    assert scene.wait(50.0) == []
    scene.arrivals.end(session, released=True)
    scene.now = 0.0
    scene.sent([3])
    assert scene.wait(9.0) == []
    assert scene.wait(1.0) == [KEY]
    assert scene.worker.step()
    assert scene.seen == [["1", "2", "3"]]
    assert not scene.worker.step()


def test_a_series_of_which_the_number_is_known_needs_no_wait(scene):
    session, _ = scene.put([1, 2], expected=3)
    assert scene.wait(0.1) == []
    scene.put([3], session, expected=3)
    assert scene.wait(0.1) == [KEY]


def test_two_associations_that_send_one_series_are_both_waited_for(scene):
    one, _ = scene.put([1])
    two, _ = scene.put([2])
    scene.arrivals.end(one, released=True)
    assert scene.wait(20.0) == []
    scene.arrivals.end(two, released=True)
    assert scene.wait(0.1) == [KEY]


def test_a_series_broken_off_waits_for_its_sender_and_then_fails(scene):
    session, _ = scene.put([1, 2])
    scene.arrivals.end(session, released=False)
    assert scene.wait(99.0) == []
    assert scene.state == State.INCOMING
    assert scene.wait(1.0) == []
    assert scene.state == State.FAILED
    assert (
        "Send the whole series again"
        in (scene.shelves.place(State.FAILED, KEY) / "reason.txt").read_text()
    )
    assert scene.sent([1, 2, 3]) == [True, True, True]
    assert scene.wait(10.0) == [KEY]
    scene.worker.step()
    assert scene.seen == [["1", "2", "3"]]


def test_a_series_broken_off_is_complete_once_it_was_sent_well(scene):
    broken, _ = scene.put([1])
    scene.arrivals.end(broken, released=False)
    scene.wait(50.0)
    scene.sent([1, 2])
    assert scene.wait(10.0) == [KEY]


def test_an_association_that_began_before_another_broke_off_does_not_heal_it(scene):
    early, _ = scene.put([1])
    scene.now = 1.0
    other, _ = scene.put([2])
    scene.arrivals.end(other, released=False)
    scene.arrivals.end(early, released=True)
    assert scene.wait(20.0) == []


def test_a_series_with_a_refused_instance_is_not_complete(scene):
    session, _ = scene.put([1, 2])
    scene.arrivals.refuse(KEY, name_of("3"), session)
    scene.arrivals.end(session, released=True)
    assert scene.wait(50.0) == []
    scene.sent([1])
    assert scene.wait(10.0) == [], "the refused one is still missing"
    scene.sent([3])
    assert scene.wait(10.0) == [KEY]


def test_a_kill_on_the_way_leaves_a_series_that_waits_for_its_sender(scene):
    scene.put([1, 2])
    scene.reopen()
    assert scene.wait(50.0) == []
    scene.sent([1, 2, 3])
    assert scene.wait(10.0) == [KEY]


def test_a_kill_after_the_release_leaves_a_series_that_completes(scene):
    scene.sent([1, 2])
    scene.reopen()
    assert scene.wait(9.0) == []
    assert scene.wait(1.0) == [KEY]


def test_an_instance_that_comes_twice_is_kept_once_and_the_later_one_counts(scene):
    scene.sent([1, 2])
    assert scene.sent([2], text="later {}") == [True]
    scene.wait(10.0)
    scene.worker.step()
    assert scene.seen == [["1", "later 2"]]


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_a_series_that_comes_again_is_not_segmented_again(scene, steps):
    scene.sent([1, 2])
    scene.wait(10.0)
    if steps:
        scene.worker.step()
    if steps == 2:
        scene.delivered()
        scene.outbox.sweep()
    state = scene.state
    assert scene.sent([1, 2]) == [False, False]
    assert scene.state == state == (State.READY, State.OUTGOING, State.DONE)[steps]
    assert scene.wait(1000.0) == []


@pytest.mark.parametrize("worked", [False, True])
def test_a_series_that_grows_before_it_is_sent_is_segmented_whole(scene, worked):
    scene.sent([1, 2])
    scene.wait(10.0)
    if worked:
        scene.worker.step()
    assert scene.sent([3]) == [True]
    assert scene.state == State.INCOMING
    assert scene.outbox.pending(ARCHIVE) == []
    assert scene.wait(10.0) == [KEY]
    scene.worker.step()
    assert scene.seen[-1] == ["1", "2", "3"]
    assert scene.outbox.pending(ARCHIVE) == [KEY]


def test_a_series_that_grows_while_the_model_runs_is_segmented_once_more(scene):
    scene.sent([1, 2])
    scene.wait(10.0)
    plain = scene.worker._handle

    def slowly(folder, result):
        found = plain(folder, result)
        assert scene.sent([2, 3]) == [False, True]
        assert scene.wait(50.0) == [], "the model still works on it"
        return found

    scene.worker._handle = slowly
    scene.worker.step()
    assert scene.state == State.INCOMING
    assert not list(scene.folder.rglob(RESULT))
    scene.worker._handle = plain
    assert scene.wait(10.0) == [KEY]
    scene.worker.step()
    assert scene.seen == [["1", "2"], ["1", "2", "3"]]


def test_a_series_that_grows_after_its_images_are_gone_waits_for_all_of_them(scene):
    scene.sent([1, 2])
    scene.wait(10.0)
    scene.worker.step()
    scene.delivered()
    scene.outbox.sweep()
    assert scene.sent([3]) == [True]
    assert scene.wait(50.0) == [], "one instance alone must not be segmented"
    assert scene.sent([1, 2]) == [True, True]
    assert scene.wait(10.0) == [KEY]
    scene.worker.step()
    assert scene.seen[-1] == ["1", "2", "3"]


def test_a_full_disk_leaves_nothing_of_the_instance_and_the_series_goes_on(scene, monkeypatch):
    session, _ = scene.put([1])
    plain = files.os.fsync

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as caught:
        scene.put([2], session)
    assert files.is_full(caught.value)
    assert list((scene.folder / "drafts").iterdir()) == []
    monkeypatch.setattr(files.os, "fsync", plain)
    scene.put([2], session)
    scene.arrivals.end(session, released=True)
    assert scene.wait(10.0) == [KEY]


def test_a_series_whose_first_instance_found_no_room_leaves_nothing(scene, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "note", full)
    with pytest.raises(OSError, match="No space left"):
        scene.put([1])
    monkeypatch.undo()
    scene.wait(0.1)
    scene.wait(100.0)
    assert scene.state == []


def test_two_nodes_do_not_share_a_folder(scene):
    with pytest.raises(ConfigError, match="Another node works on the folder"):
        Shelves(scene.folder)
    scene.shelves.close()
    Shelves(scene.folder).close()


def test_what_a_killed_node_left_half_done_is_put_right(scene):
    scene.sent([1, 2])
    scene.wait(10.0)
    scene.shelves.move(KEY, State.READY, State.WORKING)
    (scene.folder / "drafts" / "half").write_text("half an instance")
    (scene.folder / "trash" / "half").mkdir()
    scene.shelves.place(State.INCOMING, name_of("empty")).mkdir()
    scene.reopen()
    assert scene.state == State.READY
    assert not list((scene.folder / "drafts").iterdir())
    assert not list((scene.folder / "trash").iterdir())
    assert scene.shelves.keys(State.INCOMING) == []


def test_a_kill_while_a_growing_series_is_worked_on_loses_nothing(scene):
    scene.sent([1, 2])
    scene.wait(10.0)
    scene.shelves.move(KEY, State.READY, State.WORKING)
    scene.sent([3])
    scene.reopen()
    assert scene.state == State.INCOMING
    assert scene.wait(10.0) == [KEY]
    scene.worker.step()
    assert scene.seen == [["1", "2", "3"]]
