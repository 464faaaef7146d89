"""Series of which something may be missing: late losses, refusals, repeats, and what is said."""

from __future__ import annotations

import errno

import pytest
from node_scene import KEY, Scene

from medstill.node import files
from medstill.node.files import name_of
from medstill.node.shelves import RESULT, SENT
from medstill.node.states import State


@pytest.fixture
def scene(tmp_path):
    with Scene(tmp_path / "node") as found:
        yield found


def reason(scene, key=KEY):
    return (scene.shelves.place(State.FAILED, key) / "reason.txt").read_text()


def lost_late(scene, again):
    """A line that died after two instances, a retry, and only then the notice of the loss."""
    dead, _ = scene.put([1, 2])
    scene.now = 5.0
    scene.sent(again)
    scene.now = 60.0
    scene.arrivals.end(dead, released=False)


def test_a_whole_retry_is_complete_though_the_loss_is_noticed_after_it(scene):
    dead, _ = scene.put([1, 2])
    scene.now = 5.0
    retry, _ = scene.put([1, 2, 3, 4])
    scene.now = 60.0
    scene.arrivals.end(dead, released=False)
    scene.arrivals.end(retry, released=True)
    assert scene.wait(10.0) == [KEY]


def test_a_loss_that_is_noticed_after_the_retry_waits_for_the_sender(scene):
    lost_late(scene, [3, 4])
    assert scene.wait(50.0) == [], "it may have been one of two that sent a part each"
    scene.sent([4])
    assert scene.wait(10.0) == [KEY]


def test_a_retry_that_was_released_before_the_loss_was_noticed_counts(scene):
    lost_late(scene, [1, 2, 3, 4])
    assert scene.wait(10.0) == [KEY]


def test_an_abort_that_is_noticed_a_moment_after_the_retry_began(scene):
    dead, _ = scene.put([1, 2])
    scene.now = 0.1
    retry, _ = scene.put([3])
    scene.now = 0.3
    scene.arrivals.end(dead, released=False)
    scene.arrivals.end(retry, released=True)
    assert scene.wait(10.0) == [KEY]


def test_two_that_send_at_the_same_time_do_not_make_good_for_one_another(scene):
    dead, _ = scene.put([1])
    scene.now = 0.1
    other, _ = scene.put([2])
    scene.now = 0.2
    scene.put([3], dead)
    scene.now = 0.3
    scene.arrivals.end(dead, released=False)
    scene.arrivals.end(other, released=True)
    assert scene.wait(99.0) == []


@pytest.mark.parametrize("known", [True, False])
def test_an_instance_refused_and_then_taken_in_the_same_association(scene, known):
    session, _ = scene.put([1, 2])
    scene.arrivals.refuse(KEY if known else None, name_of("3"), session)
    scene.put([3], session)
    scene.arrivals.end(session, released=True)
    assert scene.wait(10.0) == [KEY]


def test_an_instance_of_which_the_series_is_unknown_holds_all_of_its_association(scene):
    session, _ = scene.put([1, 2])
    scene.arrivals.refuse(None, name_of("3"), session)
    scene.put([4], session)
    scene.arrivals.end(session, released=True)
    assert scene.wait(99.0) == []
    scene.wait(1.0)
    assert scene.state == State.FAILED
    assert "1 of the instances sent with it were refused" in reason(scene)


def test_the_reason_is_the_true_one(scene):
    session, _ = scene.put([1, 2, 3], expected=4)
    scene.arrivals.end(session, released=True)
    scene.wait(100.0)
    assert "4 instances (0020,1209), and 3 came" in reason(scene)
    assert "release" not in reason(scene)


def test_a_reason_after_a_restart(scene):
    scene.put([1])
    scene.reopen()
    scene.wait(100.0)
    assert "the node ended while it came in" in reason(scene)


def test_a_part_of_a_series_that_was_done_is_not_the_whole(scene):
    scene.done([1, 2, 3])
    scene.sent([4, 5, 6, 7])
    assert scene.wait(99.0) == [], "seven, and four have come"
    scene.sent([1, 2])
    assert scene.wait(99.0) == []
    scene.sent([3])
    assert scene.wait(10.0) == [KEY]
    scene.worker.step()
    assert scene.seen[-1] == [str(n) for n in range(1, 8)]
    scene.delivered()
    assert scene.state == State.DONE


def test_a_part_of_a_series_that_was_done_fails_with_the_true_reason(scene):
    scene.done([1, 2, 3])
    scene.sent([4, 1])
    scene.wait(100.0)
    assert "2 of the instances that it had have not come again" in reason(scene)


@pytest.mark.parametrize("killed", [False, True])
def test_a_series_that_was_done_comes_whole_with_a_new_one_at_its_end(scene, killed):
    scene.done([1, 2, 3])
    session, new = scene.put([1, 2, 3])
    assert new == [False, False, False]
    assert scene.state == State.DONE
    if killed:
        scene.reopen()
        session = None
    assert scene.sent([4], session=session) == [True]
    assert scene.wait(10.0) == [KEY]
    scene.worker.step()
    assert scene.seen[-1] == ["1", "2", "3", "4"]


def test_a_series_that_was_done_and_comes_again_in_two_associations(scene):
    scene.done([1, 2, 3])
    one, _ = scene.put([1, 2])
    two, _ = scene.put([3])
    scene.arrivals.end(two, released=True)
    scene.put([4], one)
    assert scene.wait(50.0) == []
    scene.arrivals.end(one, released=True)
    assert scene.wait(0.1) == [KEY]
    scene.worker.step()
    assert scene.seen[-1] == ["1", "2", "3", "4"]


def test_a_series_that_was_done_and_came_again_leaves_nothing(scene):
    scene.done([1, 2])
    scene.sent([1, 2])
    assert scene.state == State.DONE
    assert not list(scene.folder.rglob("*.dcm"))


def test_a_sweep_leaves_what_is_coming_again_and_later_deletes_it(scene, monkeypatch):
    scene.done([1, 2])
    dead, _ = scene.put([1])
    scene.arrivals.end(dead, released=False)
    scene.outbox.sweep()
    assert len(list(scene.folder.rglob("*.dcm"))) == 1
    monkeypatch.setattr(scene.outbox, "_clock", lambda: files_now(scene) + 101.0)
    scene.outbox.sweep()
    assert not list(scene.folder.rglob("*.dcm"))


def files_now(scene):
    return (scene.shelves.place(State.DONE, KEY) / "again").stat().st_mtime


def test_a_segmentation_on_its_way_is_not_taken_for_the_one_after_it(scene):
    scene.sent([1, 2])
    scene.wait(10.0)
    scene.worker.step()
    _, old = scene.outbox.result(KEY)
    scene.sent([3])
    scene.wait(10.0)
    scene.worker.step()
    from node_scene import ARCHIVE

    scene.outbox.sent(KEY, ARCHIVE, old)
    assert scene.outbox.pending(ARCHIVE) == [KEY]
    scene.delivered()
    assert scene.outbox.pending(ARCHIVE) == []


@pytest.mark.parametrize("last", [RESULT, "attempts"])
def test_a_kill_while_a_segmented_series_is_opened_again(scene, monkeypatch, last):
    scene.sent([1, 2])
    scene.wait(10.0)
    scene.worker.step()
    place = scene.shelves.place(State.OUTGOING, KEY)
    (place / (SENT + "other")).touch()

    def killed(path):
        if path.name == last:
            raise KeyboardInterrupt
        plain(path)

    plain = scene.shelves.discard
    monkeypatch.setattr(scene.shelves, "discard", killed)
    with pytest.raises(KeyboardInterrupt):
        scene.sent([3])
    scene.reopen()
    assert scene.state == State.INCOMING
    scene.sent([1, 2, 3])
    assert scene.wait(10.0) == [KEY]
    scene.worker.step()
    assert scene.seen[-1] == ["1", "2", "3"]
    assert not list(scene.folder.rglob(SENT + "*")), "nobody has the new one"


def test_a_full_disk_while_a_series_begins_anew_loses_nothing(scene, monkeypatch):
    scene.done([1, 2])
    session, _ = scene.put([1, 2])

    def full(path, _text=""):
        if path.name != "needed.json":
            plain(path, _text)
            return
        raise OSError(errno.ENOSPC, "No space left on device")

    plain = files.note
    monkeypatch.setattr(files, "note", full)
    with pytest.raises(OSError, match="No space left"):
        scene.put([3], session)
    monkeypatch.undo()
    scene.put([3], session)
    scene.arrivals.end(session, released=True)
    assert scene.wait(10.0) == [KEY]
    scene.worker.step()
    assert scene.seen[-1] == ["1", "2", "3"]


def test_series_are_segmented_in_the_order_in_which_they_became_complete(scene):
    from medstill.node.objects import Instance

    keys = [name_of(text) for text in "abcd"]
    for key in keys:
        session = scene.arrivals.begin()
        scene.arrivals.store(Instance(name_of("1"), key, 1), [key.encode()], session)
        scene.arrivals.end(session, released=True)
        scene.arrivals.collect()
    while scene.worker.step():
        pass
    assert [names for (names,) in scene.seen] == keys != sorted(keys)


def test_a_reason_may_hold_what_is_no_text(scene):
    scene.sent([1])
    scene.wait(10.0)

    def handle(_folder, _result):
        raise ValueError("a header of bytes: \udcb5")

    scene.worker._handle = handle
    scene.worker.step()
    assert "\\udcb5" in reason(scene)
