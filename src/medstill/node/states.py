"""The states of a series and what leads from one to the next: functions without a disk."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """Where a series stands; also the name of the folder that holds its folder."""

    INCOMING = "incoming"
    READY = "ready"
    WORKING = "working"
    OUTGOING = "outgoing"
    DONE = "done"
    FAILED = "failed"


class Action(StrEnum):
    """What to do with an instance that has arrived."""

    STORE = "store"
    """Put it to the others of the incoming series, or begin one."""
    IGNORE = "ignore"
    """It is here already and its series is on its way: acknowledge it, no more."""
    REOPEN = "reopen"
    """Bring the series back to incoming with all it has, and put the instance to it."""
    KEEP = "keep"
    """It was here, and its series is done and deleted: keep it, since a new one may follow."""
    BEGIN_ANEW = "begin anew"
    """The series was done and its images are gone: wait until all have come again."""


class Verdict(StrEnum):
    """What to do with a series that is coming in."""

    WAIT = "wait"
    READY = "ready"
    ABANDON = "abandon"


@dataclass(frozen=True)
class Arrival:
    """What is known of a series that is coming in.

    Attributes:
        instances: How many are here.
        silent_s: Time since the last one came, or since the node was started.
        sending: Whether an association that sent some of it is still there.
        broken: Whether one ended without a release, or had an instance refused, and that has not
            been made good since.
        expected: How many instances the series has, where its headers say so.
        lacking: How many of those that it had when it was segmented before have not come again.
    """

    instances: int
    silent_s: float
    sending: bool
    broken: bool
    expected: int | None = None
    lacking: int = 0


def on_arrival(state: State | None, *, known: bool, has_images: bool = True) -> Action:
    """What to do with an instance, by the state of its series.

    Args:
        state: State of the series; None when it is new.
        known: Whether this very instance was among those of a series that is on its way or done.
        has_images: Whether the images of a series that is done are still there.
    """
    if known and state != State.FAILED:
        return Action.KEEP if state == State.DONE and not has_images else Action.IGNORE
    if state in (State.READY, State.OUTGOING, State.FAILED):
        return Action.REOPEN
    if state == State.DONE:
        return Action.REOPEN if has_images else Action.BEGIN_ANEW
    # Beside a series that the model works on, the new instance waits until that is finished.
    return Action.STORE


def verdict(series: Arrival, *, quiet_s: float, abandon_s: float) -> Verdict:
    """Whether a series is complete, is to be waited for, or will never be.

    Args:
        series: What is known of it.
        quiet_s: How long nothing may come before it counts as complete.
        abandon_s: The same before one that was broken off is given up.
    """
    enough = not series.lacking and series.instances >= (series.expected or 1)
    if series.expected is not None and enough:
        return Verdict.READY
    if series.sending:
        return Verdict.WAIT
    if enough and not series.broken:
        return Verdict.READY if series.silent_s >= quiet_s else Verdict.WAIT
    return Verdict.ABANDON if series.silent_s >= abandon_s else Verdict.WAIT


def wait_s(failures: int, *, first_s: float, longest_s: float) -> float:
    """Time to wait after so many failures in a row: doubled each time, up to the longest."""
    doublings = min(max(failures, 1) - 1, 60)
    return min(first_s * 2.0**doublings, longest_s)


def has_room(free: int, size: int, reserve: int) -> bool:
    """Whether an instance of `size` bytes leaves the reserve free."""
    return free - size >= reserve
