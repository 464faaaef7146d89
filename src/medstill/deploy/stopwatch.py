"""How long each phase of a prediction is at work."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from medstill.deploy.calls import Each
from medstill.patches.grid import Volume


class Stopwatch:
    """Adds up the seconds of named phases, over all threads that work on one.

    Phases that overlap are counted in full, so their sum may exceed what a clock on the wall shows.

    Attributes:
        seconds: Phase -> seconds.
    """

    def __init__(self) -> None:
        """Begin with no phase."""
        self.seconds: dict[str, float] = defaultdict(float)
        self._lock = threading.Lock()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count what happens inside."""
        started = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - started
            with self._lock:
                self.seconds[name] += spent

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function whose calls are counted."""

        def called(*arguments: Any) -> Any:
            with self.phase(name):
                return function(*arguments)

        return called

    def timed_each(self, name: str, each: Each) -> Each:
        """A `map` whose calls of the function are counted."""

        def called(function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
            return each(self.timed(name, function), items)

        return called


class TimedVolume:
    """A volume whose reading is counted."""

    ndim = 4

    def __init__(self, volume: Volume, name: str, watch: Stopwatch) -> None:
        """Count reads of a volume `(C, Z, Y, X)` under a name."""
        self.shape = volume.shape
        self._read = watch.timed(name, volume.__getitem__)

    def __getitem__(self, index: tuple[slice, ...], /) -> Any:
        """The block at a slice of each axis."""
        return self._read(index)
