"""The worker: takes complete series in turn and has each segmented."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from medstill.errors import NothingToSegmentError
from medstill.node import files
from medstill.node.shelves import ATTEMPTS, IMAGES, NOTHING, REASON, RESULT, Shelves, short
from medstill.node.states import State

log = logging.getLogger(__name__)

Handle = Callable[[Path, Path], tuple[str, ...]]
"""Segments the series in a folder into a DICOM file; returns warnings that name no patient.

It raises `NothingToSegmentError` for a series that is to be passed over.
"""

FULL_WAIT_S: Final = 5.0
"""Wait before the model is run again after it met a full disk."""
_NO_MEMORY: Final = "There is not enough memory to segment this series."


class Worker:
    """Runs the model on one series after the other."""

    def __init__(
        self,
        shelves: Shelves,
        handle: Handle,
        *,
        attempts: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Hold what is needed.

        Args:
            shelves: The disk.
            handle: Segments a series.
            attempts: How often a series may end the whole process before it is put aside.
            clock: Gives the time in seconds.
        """
        self._shelves = shelves
        self._handle = handle
        self._attempts = attempts
        self._clock = clock
        self._not_before_s = -float("inf")

    def step(self) -> bool:
        """Segment the first series that is ready, if there is one.

        Returns:
            Whether something was done; False also when the disk is full, so that the caller waits.
        """
        taken = self._take() if self._clock() >= self._not_before_s else None
        if taken is None:
            return False
        key, folder = taken
        try:
            warnings, answer = self._answered(folder)
        except Exception as error:  # whatever a series does, the next one gets its turn
            return self._recover(key, error)
        for warning in warnings:
            log.warning("series %s: %s", short(key), warning)
        self._pass_on(key, answer)
        return True

    def _answered(self, folder: Path) -> tuple[tuple[str, ...], str]:
        """Write the result of a series, or that there is none; warnings, and what to log."""
        self._shelves.discard(folder / NOTHING)
        try:
            warnings = self._handle(folder / IMAGES, folder / RESULT)
        except NothingToSegmentError:
            self._shelves.discard(folder / RESULT)
            files.note(folder / NOTHING)
            return (), "nothing to segment"
        files.sync(folder / RESULT)
        return warnings, "segmented"

    def excuse(self) -> None:
        """The node ends while the model runs: that is no fault of the series."""
        with self._shelves.lock:
            for key in self._shelves.keys(State.WORKING):
                (self._shelves.place(State.WORKING, key) / ATTEMPTS).unlink(missing_ok=True)

    def _take(self) -> tuple[str, Path] | None:
        with self._shelves.lock:
            for key in self._in_turn():
                place = self._shelves.place(State.READY, key)
                begun = _number(place / ATTEMPTS)
                try:
                    if begun < self._attempts:
                        files.note(place / ATTEMPTS, str(begun + 1))
                        return key, self._shelves.move(key, State.READY, State.WORKING)
                except OSError as error:
                    if not files.is_full(error):
                        raise
                    self._rest()
                    return None
                self._fail(key, State.READY, f"The process ended {begun} times during this series.")
        return None

    def _in_turn(self) -> list[str]:
        """The series that are ready, the one first that became so first."""
        places = [self._shelves.place(State.READY, key) for key in self._shelves.keys(State.READY)]
        return [place.name for place in sorted(places, key=lambda one: one.stat().st_mtime_ns)]

    def _recover(self, key: str, error: Exception) -> bool:
        with self._shelves.lock:
            place = self._shelves.place(State.WORKING, key)
            self._shelves.discard(place / RESULT)
            if files.is_full(error):
                self._rest()
                (place / ATTEMPTS).unlink(missing_ok=True)
                self._leave(key, State.READY)
                return False
            text = _NO_MEMORY if isinstance(error, MemoryError) else str(error)
            if not self._leave_to_grown(key):
                self._fail(key, State.WORKING, f"{type(error).__name__}: {text}")
        return True

    def _rest(self) -> None:
        log.error("the disk is full: the series wait")
        self._not_before_s = self._clock() + FULL_WAIT_S

    def _pass_on(self, key: str, answer: str) -> None:
        with self._shelves.lock:
            if self._leave(key, State.OUTGOING) == State.OUTGOING:
                log.info("series %s: %s", short(key), answer)

    def _leave(self, key: str, state: State) -> State:
        """Bring a series from working into another state, or back to what came meanwhile."""
        if self._leave_to_grown(key):
            return State.INCOMING
        self._shelves.move(key, State.WORKING, state)
        return state

    def _leave_to_grown(self, key: str) -> bool:
        if not self._shelves.place(State.INCOMING, key).is_dir():
            return False
        log.info("series %s: grew while the model ran; it will be segmented anew", short(key))
        self._shelves.merge_back(key)
        return True

    def _fail(self, key: str, state: State, reason: str) -> None:
        """Put a series aside. The reason may name what is in its header, so no log has it."""
        name = reason.partition(":")[0] if ":" in reason[:60] else "given up"
        log.error("series %s: failed (%s); see %s in its folder", short(key), name, REASON)
        try:
            files.note(self._shelves.place(state, key) / REASON, reason + "\n")
        except OSError:
            log.error("series %s: its reason could not be written", short(key))
        self._shelves.move(key, state, State.FAILED)


def _number(path: Path) -> int:
    try:
        return int(path.read_text())
    except (FileNotFoundError, ValueError):
        return 0
