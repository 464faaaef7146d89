"""The folder of a node: one folder for each state, and in it one for each series.

    incoming/KEY/images/INSTANCE.dcm    KEY and INSTANCE are hashes of UIDs
    incoming/KEY/open                   a sender has not finished; see `arrivals`
    working/KEY/attempts                how often the model has begun
    outgoing/KEY/result.dcm, sent-AET   the segmentation, and who has it
    outgoing/KEY/nothing                there was nothing to segment, so nothing is sent
    done/KEY/receipt.json               which instances it was made of
    done/KEY/again/INSTANCE.dcm         those that have come again after the images were deleted
    incoming/KEY/needed.json            those that must come again before it is complete
    failed/KEY/reason.txt               why; it may name what is in the images, the log never does

A series changes its state by one rename. The lock is held for each change.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import threading
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Final

from medstill.errors import ConfigError, StorageError
from medstill.node import files
from medstill.node.states import State

IMAGES: Final = "images"
RESULT: Final = "result.dcm"
NOTHING: Final = "nothing"
RECEIPT: Final = "receipt.json"
ATTEMPTS: Final = "attempts"
REASON: Final = "reason.txt"
OPEN: Final = "open"
SENT: Final = "sent-"
AGAIN: Final = "again"
NEEDED: Final = "needed.json"
EXPECTED: Final = "expected"
_OF_LATER_STATES: Final = (ATTEMPTS, REASON, RECEIPT, RESULT, NOTHING, AGAIN)

_DRAFTS: Final = "drafts"
_TRASH: Final = "trash"
_LOCK: Final = "lock"
_KEY: Final = re.compile(rf"[0-9a-f]{{{files.NAME_LENGTH}}}")


class Shelves:
    """The series of a node on the disk."""

    def __init__(self, folder: Path) -> None:
        """Open the folder of a node, and put right what a killed one left behind.

        Raises:
            ConfigError: Another node works on the folder.
            StorageError: The folder cannot be written.
        """
        self.folder = folder
        self.lock = threading.RLock()
        try:
            for name in (*State, _DRAFTS, _TRASH):
                (folder / name).mkdir(mode=0o700, parents=True, exist_ok=True)
            self._claim = _claim(folder / _LOCK)
        except OSError as error:
            raise StorageError(
                f"Cannot write the folder of the node, '{folder}': {error.strerror}. Set 'folder' "
                "to one that this user may write to."
            ) from error
        self._recover()

    def close(self) -> None:
        """Let another node have the folder."""
        self._claim.close()

    def place(self, state: State, key: str) -> Path:
        """The folder of a series in a state, whether it is there or not."""
        return self.folder / state / key

    def keys(self, state: State) -> list[str]:
        """The series in a state, sorted."""
        found = files.entries(self.folder / state)
        return [entry.name for entry in found if _KEY.fullmatch(entry.name)]

    def state_of(self, key: str) -> State | None:
        """The state of a series; incoming comes first where it grows while the model works."""
        return next((state for state in State if self.place(state, key).is_dir()), None)

    def instances(self, state: State, key: str) -> set[str]:
        """Names of the instances of a series, those too that are done and deleted."""
        place = self.place(state, key)
        found = {entry.stem for entry in files.entries(place / IMAGES)}
        if not found and state == State.DONE:
            with contextlib.suppress(OSError, ValueError):
                return set(json.loads((place / RECEIPT).read_text()))
        return found

    def holds(self, state: State, key: str, instance: str) -> bool:
        """Whether an instance is among those of a series in a state."""
        place = self.place(state, key)
        if (place / IMAGES / f"{instance}.dcm").exists():
            return True
        return state == State.DONE and instance in self.instances(state, key)

    def needed(self, key: str) -> set[str]:
        """The instances without which an incoming series is not complete."""
        with contextlib.suppress(OSError, ValueError):
            return set(json.loads((self.place(State.INCOMING, key) / NEEDED).read_text()))
        return set()

    def strip(self, key: str) -> None:
        """Take from an incoming series what it has from the states that it was in before."""
        place = self.place(State.INCOMING, key)
        if (place / AGAIN).is_dir() and not (place / IMAGES).is_dir():
            (place / AGAIN).rename(place / IMAGES)
            files.sync(place)
        for path in (*(place / name for name in _OF_LATER_STATES), *place.glob(SENT + "*")):
            self.discard(path)

    def move(self, key: str, source: State, target: State) -> Path:
        """Bring a series into another state; returns its new folder.

        What a crash left of the series in that state gives way.
        """
        place = self.place(target, key)
        self.discard(place)
        files.move(self.place(source, key), place)
        return place

    @contextlib.contextmanager
    def draft(self, parts: Iterable[bytes | memoryview]) -> Iterator[Path]:
        """Write a file that is on the disk and waits to be renamed; it is removed if it is not."""
        path = self.folder / _DRAFTS / uuid.uuid4().hex
        files.write(path, parts)
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)

    def discard(self, path: Path) -> None:
        """Remove a file or folder at once, also where the node is killed meanwhile."""
        if path.exists():
            grave = self.folder / _TRASH / uuid.uuid4().hex
            path.rename(grave)
            files.sync(path.parent)
            _remove(grave)

    def merge_back(self, key: str) -> None:
        """Bring the images that the model worked on to those that came meanwhile."""
        source, target = self.place(State.WORKING, key), self.place(State.INCOMING, key)
        for image in files.entries(source / IMAGES):
            if not (target / IMAGES / image.name).exists():
                image.rename(target / IMAGES / image.name)
        files.sync(target / IMAGES)
        self.discard(source)

    def _recover(self) -> None:
        for scrap in (*files.entries(self.folder / _DRAFTS), *files.entries(self.folder / _TRASH)):
            _remove(scrap)
        for key in self.keys(State.INCOMING):
            self.strip(key)
            if not self.instances(State.INCOMING, key) and not self.needed(key):
                self.discard(self.place(State.INCOMING, key))
        for key in self.keys(State.OUTGOING):
            place = self.place(State.OUTGOING, key)
            if not ((place / RESULT).exists() or (place / NOTHING).exists()):
                self.move(key, State.OUTGOING, State.READY)
        for key in self.keys(State.WORKING):
            if self.place(State.INCOMING, key).is_dir():
                self.merge_back(key)
            else:
                self.move(key, State.WORKING, State.READY)


def _claim(path: Path) -> IO[str]:
    """Hold a lock on a file for as long as this process lives, or until it is closed."""
    file = path.open("w")
    try:
        import fcntl
    except ImportError:  # Windows: there the port alone keeps a second node away
        return file
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise ConfigError(
            f"Another node works on the folder '{path.parent}'. Stop it, or set another 'folder'."
        ) from error
    return file


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def short(key: str) -> str:
    """How a series is called in the log: enough to find its folder."""
    return key[:12]
