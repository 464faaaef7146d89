"""What an instance, and time, do to a series: every case, without a disk."""

from __future__ import annotations

from dataclasses import replace

import pytest

from medstill.node.states import Action, Arrival, State, Verdict, has_room, on_arrival, wait_s
from medstill.node.states import verdict as judge

SOME = Arrival(instances=3, silent_s=0.0, sending=False, broken=False)


def verdict(**known):
    return judge(replace(SOME, **known), quiet_s=10.0, abandon_s=100.0)


@pytest.mark.parametrize(
    ("state", "known", "has_images", "action"),
    [
        (None, False, False, Action.STORE),
        (State.INCOMING, False, True, Action.STORE),
        (State.WORKING, False, True, Action.STORE),
        (State.READY, False, True, Action.REOPEN),
        (State.OUTGOING, False, True, Action.REOPEN),
        (State.DONE, False, True, Action.REOPEN),
        (State.DONE, False, False, Action.BEGIN_ANEW),
        (State.FAILED, False, True, Action.REOPEN),
        (State.FAILED, True, True, Action.REOPEN),
        *((state, True, True, Action.IGNORE) for state in State if state != State.FAILED),
        (State.DONE, True, False, Action.KEEP),
    ],
)
def test_an_instance_that_arrives(state, known, has_images, action):
    assert on_arrival(state, known=known, has_images=has_images) == action


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        ({"silent_s": 9.9}, Verdict.WAIT),
        ({"silent_s": 10.0}, Verdict.READY),
        ({"silent_s": 99.0, "sending": True}, Verdict.WAIT),
        ({"silent_s": 999.0, "sending": True}, Verdict.WAIT),
        ({"silent_s": 99.0, "broken": True}, Verdict.WAIT),
        ({"silent_s": 100.0, "broken": True}, Verdict.ABANDON),
        ({"expected": 3}, Verdict.READY),
        ({"expected": 3, "sending": True}, Verdict.READY),
        ({"expected": 3, "broken": True}, Verdict.READY),
        ({"expected": 4, "silent_s": 99.0}, Verdict.WAIT),
        ({"expected": 4, "silent_s": 100.0}, Verdict.ABANDON),
        ({"lacking": 1, "silent_s": 99.0}, Verdict.WAIT),
        ({"lacking": 1, "silent_s": 100.0}, Verdict.ABANDON),
        ({"lacking": 1, "expected": 3, "silent_s": 50.0}, Verdict.WAIT),
    ],
)
def test_a_series_that_comes_in(known, expected):
    assert verdict(**known) == expected


def test_waits_double_up_to_the_longest():
    waits = [wait_s(count, first_s=5.0, longest_s=60.0) for count in (1, 2, 3, 4, 5, 9_999)]
    assert waits == [5.0, 10.0, 20.0, 40.0, 60.0, 60.0]


def test_the_reserve_stays_free():
    assert has_room(100, 40, 60)
    assert not has_room(100, 41, 60)
