"""A step that is done again and again beside other work."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def repeated(step: Callable[[], None], every_s: float) -> Iterator[None]:
    """Do a step in a thread, each time after a wait, while the block runs."""
    stop = threading.Event()

    def loop() -> None:
        while not stop.wait(every_s):
            step()

    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
