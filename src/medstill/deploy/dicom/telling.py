"""Warnings about source images, once for all objects that are written of them."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Final

_LOG = logging.getLogger(__name__)
_TOLD: Final[ContextVar[set[str] | None]] = ContextVar("told", default=None)


@contextlib.contextmanager
def told_once() -> Iterator[None]:
    """Within it, what `warn` was told already is not logged again."""
    token = _TOLD.set(set())
    try:
        yield
    finally:
        _TOLD.reset(token)


def warn(message: str) -> None:
    """Log a warning about source images."""
    told = _TOLD.get()
    if told is not None:
        if message in told:
            return
        told.add(message)
    _LOG.warning("%s", message)
