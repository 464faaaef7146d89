"""How a command ends: its exit code, and what it says when it did not come to its end."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable

from medstill.errors import MedstillError

WRONG = 2
INTERRUPTED = 130
_ENDINGS = {"SIGTERM": 143, "SIGHUP": 129}
"""Signals that end a command as Ctrl-C does, where the system knows them, and the exit codes."""


def end_with(command: Callable[[], object]) -> None:
    """Run a command line; an error that a user can put right ends with exit code 2.

    Ctrl-C ends with 130, SIGTERM with 143 and a lost terminal (SIGHUP) with 129; a signal that is
    ignored, as `nohup` asks, stays so. What is finished is kept, and a repeat of the command goes
    on from there.
    """
    code = INTERRUPTED

    def terminate(number: int, _frame: object) -> None:
        # Schedulers of clusters send SIGTERM some time before they kill.
        nonlocal code
        code = _ENDINGS[signal.Signals(number).name]
        raise KeyboardInterrupt

    for name in _ENDINGS:
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, terminate)
    try:
        command()
    except MedstillError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(WRONG)
    except (KeyboardInterrupt, SystemExit) as ended:
        # Typer answers Ctrl-C by itself, with the exit code alone.
        if isinstance(ended, SystemExit) and ended.code != INTERRUPTED:
            raise
        sys.stderr.write(
            "Interrupted. What was finished is kept; repeat the command to go on from there.\n"
        )
        sys.exit(code)
