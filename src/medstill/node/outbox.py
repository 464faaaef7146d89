"""Segmentations that wait for their receivers, and what is kept of a series that is done."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from medstill.node import files
from medstill.node.config import Peer, Waits
from medstill.node.shelves import AGAIN, IMAGES, NOTHING, RECEIPT, RESULT, SENT, Shelves, short
from medstill.node.states import State

log = logging.getLogger(__name__)

HOUR_S: Final = 3600.0

Stamp = tuple[int, int]
"""Which file it was that lay in one place: its inode and the time of its last change in ns."""


class Outbox:
    """The queue to the receivers, on the disk."""

    def __init__(
        self,
        shelves: Shelves,
        receivers: Sequence[Peer],
        waits: Waits,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Hold what is needed; what is queued is on the disk.

        Args:
            shelves: The disk.
            receivers: Who must get each segmentation.
            waits: How long what is done, or failed, is kept.
            clock: Gives the time of the files' stamps, in seconds.
        """
        self._shelves = shelves
        self._marks = {peer.aet: SENT + files.name_of(peer.aet) for peer in receivers}
        self._waits = waits
        self._clock = clock

    def pending(self, receiver: Peer) -> list[str]:
        """The series whose segmentation a receiver lacks."""
        mark = self._marks[receiver.aet]
        keys = self._shelves.keys(State.OUTGOING)
        return [key for key in keys if _lacks(self._shelves.place(State.OUTGOING, key), mark)]

    def result(self, key: str) -> tuple[Path, Stamp]:
        """The segmentation of a series, and which it is.

        Raises:
            FileNotFoundError: The series has grown and has none now.
        """
        path = self._shelves.place(State.OUTGOING, key) / RESULT
        return path, _stamp(path)

    def sent(self, key: str, receiver: Peer, which: Stamp) -> None:
        """Note that a receiver has acknowledged a segmentation.

        Args:
            key: The series.
            receiver: Who has it.
            which: The segmentation, as `result` names it.
        """
        with self._shelves.lock:
            place = self._shelves.place(State.OUTGOING, key)
            try:
                if _stamp(place / RESULT) != which:
                    return  # the series grew while this was on its way, and the new one waits here
            except FileNotFoundError:
                return  # the same, and the new one will follow
            files.note(place / self._marks[receiver.aet])
            self._finish(key)

    def sweep(self) -> None:
        """Finish what every receiver has, and delete what has been kept long enough."""
        with self._shelves.lock:
            for key in self._shelves.keys(State.OUTGOING):
                self._finish(key)
            for key in self._shelves.keys(State.DONE):
                self._clear(key)
            for key in self._shelves.keys(State.FAILED):
                place = self._shelves.place(State.FAILED, key)
                kept_h = self._waits.keep_failed_h
                if kept_h is not None and self._age_h(place) >= kept_h:
                    self._shelves.discard(place)

    def _clear(self, key: str) -> None:
        """Delete of a series that is done what has been kept long enough."""
        place = self._shelves.place(State.DONE, key)
        if self._age_h(place / AGAIN) * HOUR_S >= self._waits.abandon_s:
            self._shelves.discard(place / AGAIN)
        if (place / AGAIN).is_dir():
            return  # it is coming again, and something new may follow
        age_h = self._age_h(place / RECEIPT)
        if age_h >= max(self._waits.keep_done_h, self._waits.remember_h):
            self._shelves.discard(place)
        elif age_h >= self._waits.keep_done_h:
            self._shelves.discard(place / IMAGES)
            self._shelves.discard(place / RESULT)

    def _finish(self, key: str) -> None:
        place = self._shelves.place(State.OUTGOING, key)
        if any(_lacks(place, mark) for mark in self._marks.values()):
            return
        instances = sorted(self._shelves.instances(State.OUTGOING, key))
        files.note(place / RECEIPT, json.dumps(instances))
        self._shelves.move(key, State.OUTGOING, State.DONE)
        log.info("series %s: done", short(key))
        self._clear(key)

    def _age_h(self, path: Path) -> float:
        try:
            return (self._clock() - path.stat().st_mtime) / HOUR_S
        except FileNotFoundError:
            return 0.0


def _lacks(place: Path, mark: str) -> bool:
    """Whether a receiver has still to get what there is to send of a series."""
    return not ((place / mark).exists() or (place / NOTHING).exists())


def _stamp(path: Path) -> Stamp:
    found = path.stat()
    return found.st_ino, found.st_mtime_ns
