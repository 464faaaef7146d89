"""Series that come in: from single instances, over several associations, to complete ones.

A file `open` lies in the folder of a series from its first instance until the associations that
sent it are released and nothing is missing any more of what one broke off, or had refused (see
`sessions`). So a series whose sender, or whose node, died on the way is not taken for complete.
"""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from medstill.node import files
from medstill.node.objects import Instance
from medstill.node.sessions import Loss, Session, is_healed, loss_of, why_abandoned
from medstill.node.shelves import AGAIN, EXPECTED, IMAGES, NEEDED, OPEN, REASON, Shelves, short
from medstill.node.states import Action, Arrival, State, Verdict, on_arrival, verdict

log = logging.getLogger(__name__)

_KEPT_ON_THE_WAY: Final = (State.WORKING, State.READY, State.OUTGOING, State.DONE)


@dataclass
class _Track:
    """What is not on the disk of a series that is coming in."""

    last_s: float
    sessions: set[Session] = field(default_factory=set)
    released: list[Session] = field(default_factory=list)
    losses: list[Loss] = field(default_factory=list)


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
        self._repeats: dict[str, set[Session]] = {}

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
            key, now = instance.series, self._clock()
            state = self._shelves.state_of(key)
            known = any(self._shelves.holds(one, key, instance.name) for one in _KEPT_ON_THE_WAY)
            done = self._shelves.place(State.DONE, key)
            action = on_arrival(state, known=known, has_images=(done / IMAGES).is_dir())
            if action == Action.KEEP:
                self._put(draft, done / AGAIN, instance)
                self._repeats.setdefault(key, set()).add(by)
            elif action != Action.IGNORE:
                folder = self._prepare(key, state, action)
                if instance.expected is not None and not (folder / EXPECTED).exists():
                    files.note(folder / EXPECTED, str(instance.expected))
                self._put(draft, folder / IMAGES, instance)
                track = self._tracks.setdefault(key, _Track(now))
                track.last_s = now
                track.sessions.add(by)
            by.note(key, instance.name, now)
            for other in self._tracks.values():
                for loss in other.losses:
                    loss.lacking.discard(instance.name)
        return action not in (Action.IGNORE, Action.KEEP)

    def refuse(self, series: str | None, name: str, by: Session) -> None:
        """Note that an instance was refused: its series waits until it has been sent well.

        Args:
            series: The series, or None where that is not known: all of the association's wait.
            name: The instance.
            by: The association that sent it.
        """
        with self._shelves.lock:
            by.refuse(series, name)

    def end(self, session: Session, *, released: bool) -> None:
        """An association has ended.

        Args:
            session: Which.
            released: Whether by a release, and not by an abort or a lost connection.
        """
        with self._shelves.lock:
            for key in session.series():
                track = self._tracks.get(key)
                if track is not None:
                    self._close(key, track, session, released=released)
                else:
                    self._forget_repeats(key, session, released=released)

    def _close(self, key: str, track: _Track, session: Session, *, released: bool) -> None:
        track.sessions.discard(session)
        if released:
            track.released.append(session)
        loss = loss_of(session, key, released=released, now=self._clock())
        if loss is not None:
            loss.lacking -= self._shelves.instances(State.INCOMING, key)
            track.losses.append(loss)
        track.losses = [
            one
            for one in track.losses
            if not any(is_healed(one, by, by.names.get(key, set())) for by in track.released)
        ]
        if not track.losses and not track.sessions:
            folder = self._shelves.place(State.INCOMING, key)
            (folder / OPEN).unlink(missing_ok=True)
            files.sync(folder)

    def _forget_repeats(self, key: str, session: Session, *, released: bool) -> None:
        """A series that is done came again: delete that, once nothing new can follow."""
        sessions = self._repeats.get(key, set())
        sessions.discard(session)
        if released and not sessions:
            self._repeats.pop(key, None)
            self._shelves.discard(self._shelves.place(State.DONE, key) / AGAIN)

    def _put(self, draft: Path, folder: Path, instance: Instance) -> None:
        folder.mkdir(exist_ok=True)
        draft.replace(folder / f"{instance.name}.dcm")
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
            log.info("series %s: more of it has come after it was done", short(key))
            self._begin_anew(key)
        if not (folder / OPEN).exists():
            (folder / IMAGES).mkdir(parents=True, exist_ok=True)
            files.note(folder / OPEN)
            files.sync(folder.parent)
        return folder

    def _reopen(self, key: str, state: State) -> None:
        files.note(self._shelves.place(state, key) / OPEN)
        self._shelves.move(key, state, State.INCOMING)
        self._shelves.strip(key)

    def _begin_anew(self, key: str) -> None:
        """Make an incoming series of those that have come again; it must become what it was."""
        done = self._shelves.place(State.DONE, key)
        files.note(done / NEEDED, json.dumps(sorted(self._shelves.instances(State.DONE, key))))
        self._reopen(key, State.DONE)
        track = self._tracks.setdefault(key, _Track(self._clock()))
        track.sessions |= self._repeats.pop(key, set())

    def _arrival(self, key: str) -> Arrival:
        now = self._clock()
        track = self._tracks.setdefault(key, _Track(now))
        folder = self._shelves.place(State.INCOMING, key)
        here = self._shelves.instances(State.INCOMING, key)
        return Arrival(
            instances=len(here),
            silent_s=now - track.last_s,
            sending=bool(track.sessions),
            broken=(folder / OPEN).exists(),
            expected=_number(folder / EXPECTED),
            lacking=len(self._shelves.needed(key) - here),
        )

    def _pass_on(self, key: str) -> None:
        count = len(self._shelves.instances(State.INCOMING, key))
        place = self._shelves.move(key, State.INCOMING, State.READY)
        for name in (OPEN, NEEDED, EXPECTED):
            (place / name).unlink(missing_ok=True)
        del self._tracks[key]
        log.info("series %s: complete with %d instances", short(key), count)

    def _abandon(self, key: str) -> None:
        folder = self._shelves.place(State.INCOMING, key)
        arrival, track = self._arrival(key), self._tracks.pop(key)
        if not arrival.instances:
            self._shelves.discard(folder)  # its first instance could not be written
            return
        with contextlib.suppress(OSError):  # a full disk must not hold the other series up
            files.note(folder / REASON, why_abandoned(arrival, track.losses, self._abandon_s))
        self._shelves.move(key, State.INCOMING, State.FAILED)
        log.error("series %s: given up, it did not come whole; see %s", short(key), REASON)


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (FileNotFoundError, ValueError):
        return None
