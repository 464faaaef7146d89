"""Series that come in: from single instances, over several associations, to complete ones.

A file `open` lies in the folder of a series from its first instance until an association is
released that began after the last one that broke off. So a series whose sender, or whose node, died
on the way is not taken for a complete one.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from medstill.node import files
from medstill.node.objects import Instance
from medstill.node.shelves import (
    ATTEMPTS,
    IMAGES,
    OPEN,
    REASON,
    RECEIPT,
    RESULT,
    SENT,
    Shelves,
    short,
)
from medstill.node.states import Action, Arrival, State, Verdict, on_arrival, verdict

log = logging.getLogger(__name__)

EXPECTED: Final = "expected"
AT_LEAST: Final = "at-least"
_KEPT_ON_THE_WAY: Final = (State.WORKING, State.READY, State.OUTGOING, State.DONE)


@dataclass(eq=False)
class Session:
    """What one association has sent.

    Attributes:
        begun_s: When it began, on the clock of the arrivals.
        stored: How many instances were acknowledged, repeats included.
        refused: How many were not.
        touched: The series that it sent some of.
        spoilt: Those of which an instance was refused.
    """

    begun_s: float
    stored: int = 0
    refused: int = 0
    touched: set[str] = field(default_factory=set)
    spoilt: set[str] = field(default_factory=set)


@dataclass
class _Track:
    """What is not on the disk of a series that is coming in."""

    last_s: float
    broken_s: float = -float("inf")
    sessions: set[Session] = field(default_factory=set)


class Arrivals:
    """Takes instances in and says which series are complete."""

    def __init__(
        self,
        shelves: Shelves,
        *,
        quiet_s: float,
        abandon_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take up the series that are on the shelf for incoming ones.

        Args:
            shelves: The disk.
            quiet_s: How long nothing may come before a series is complete.
            abandon_s: The same before one that was broken off is given up.
            clock: Gives the time in seconds.
        """
        self._shelves = shelves
        self._quiet_s = quiet_s
        self._abandon_s = abandon_s
        self._clock = clock
        now = clock()
        self._tracks = {key: _Track(now) for key in shelves.keys(State.INCOMING)}

    def begin(self) -> Session:
        """A new association."""
        return Session(self._clock())

    def store(self, instance: Instance, parts: Sequence[bytes | memoryview], by: Session) -> bool:
        """Bring an instance to the disk; when this returns, it may be acknowledged.

        Args:
            instance: What it is.
            parts: The bytes of its file.
            by: The association that sent it.

        Returns:
            Whether it is new; False for one that is on its way or done already.

        Raises:
            OSError: The disk is full or fails; nothing is left of the instance.
        """
        with self._shelves.draft(parts) as draft, self._shelves.lock:
            key = instance.series
            state = self._shelves.state_of(key)
            known = any(self._shelves.holds(one, key, instance.name) for one in _KEPT_ON_THE_WAY)
            place = self._shelves.place(State.DONE, key)
            action = on_arrival(state, known=known, has_images=(place / IMAGES).is_dir())
            if action == Action.IGNORE:
                return False
            folder = self._prepare(key, state, action)
            if instance.expected is not None and not (folder / EXPECTED).exists():
                files.note(folder / EXPECTED, str(instance.expected))
            draft.replace(folder / IMAGES / f"{instance.name}.dcm")
            files.sync(folder / IMAGES)
            track = self._tracks.setdefault(key, _Track(self._clock()))
            track.last_s = self._clock()
            track.sessions.add(by)
            by.touched.add(key)
        return True

    def refuse(self, series: str | None, by: Session) -> None:
        """Note that an instance was refused: its series waits until it has been sent well."""
        by.refused += 1
        if series is not None:
            with self._shelves.lock:
                by.spoilt.add(series)

    def end(self, session: Session, *, released: bool) -> None:
        """An association has ended.

        Args:
            session: Which.
            released: Whether by a release, and not by an abort or a lost connection.
        """
        with self._shelves.lock:
            for key in session.touched | session.spoilt:
                track = self._tracks.get(key)
                if track is None:
                    continue
                track.sessions.discard(session)
                if not released or key in session.spoilt:
                    track.broken_s = self._clock()
                elif not track.sessions and session.begun_s > track.broken_s:
                    folder = self._shelves.place(State.INCOMING, key)
                    (folder / OPEN).unlink(missing_ok=True)
                    files.sync(folder)

    def collect(self) -> list[str]:
        """Bring complete series to `ready`, and abandoned ones to `failed`.

        Returns:
            The series that are complete now.
        """
        complete = []
        with self._shelves.lock:
            for key in self._shelves.keys(State.INCOMING):
                if self._shelves.place(State.WORKING, key).is_dir():
                    continue
                found = verdict(
                    self._arrival(key), quiet_s=self._quiet_s, abandon_s=self._abandon_s
                )
                if found == Verdict.READY:
                    self._pass_on(key)
                    complete.append(key)
                elif found == Verdict.ABANDON:
                    self._abandon(key)
        return complete

    def _prepare(self, key: str, state: State | None, action: Action) -> Path:
        """The folder of an incoming series, with all that must be on the disk before an image."""
        folder = self._shelves.place(State.INCOMING, key)
        if action == Action.REOPEN and state is not None:
            log.info("series %s: more of it has come, and it was %s", short(key), state)
            self._reopen(key, state)
        elif action == Action.BEGIN_ANEW:
            count = len(self._shelves.instances(State.DONE, key)) + 1
            log.info("series %s: more of it has come after it was done", short(key))
            (folder / IMAGES).mkdir(parents=True, exist_ok=True)
            files.note(folder / AT_LEAST, str(count))
            self._shelves.discard(self._shelves.place(State.DONE, key))
        if not (folder / OPEN).exists():
            (folder / IMAGES).mkdir(parents=True, exist_ok=True)
            files.note(folder / OPEN)
            files.sync(folder.parent)
        return folder

    def _reopen(self, key: str, state: State) -> None:
        place = self._shelves.place(state, key)
        files.note(place / OPEN)
        for name in (ATTEMPTS, REASON, RECEIPT, RESULT, EXPECTED, AT_LEAST):
            (place / name).unlink(missing_ok=True)
        for mark in place.glob(SENT + "*"):
            mark.unlink()
        self._shelves.move(key, state, State.INCOMING)

    def _arrival(self, key: str) -> Arrival:
        now = self._clock()
        track = self._tracks.setdefault(key, _Track(now))
        folder = self._shelves.place(State.INCOMING, key)
        return Arrival(
            instances=len(self._shelves.instances(State.INCOMING, key)),
            silent_s=now - track.last_s,
            sending=bool(track.sessions),
            broken=(folder / OPEN).exists(),
            expected=_number(folder / EXPECTED),
            at_least=_number(folder / AT_LEAST) or 1,
        )

    def _pass_on(self, key: str) -> None:
        count = len(self._shelves.instances(State.INCOMING, key))
        place = self._shelves.move(key, State.INCOMING, State.READY)
        (place / OPEN).unlink(missing_ok=True)
        del self._tracks[key]
        log.info("series %s: complete with %d instances", short(key), count)

    def _abandon(self, key: str) -> None:
        folder = self._shelves.place(State.INCOMING, key)
        del self._tracks[key]
        if not self._shelves.instances(State.INCOMING, key):
            self._shelves.discard(folder)  # its first instance could not be written
            return
        with contextlib.suppress(OSError):  # a full disk must not hold the other series up
            files.note(
                folder / REASON,
                "The sender broke off, or an instance of the series was refused, and it was not "
                f"sent again for {self._abandon_s:g} s. Send the series again.\n",
            )
        self._shelves.move(key, State.INCOMING, State.FAILED)
        log.error("series %s: given up, it was never sent to its end", short(key))


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (FileNotFoundError, ValueError):
        return None
