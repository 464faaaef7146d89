"""How a command ends: its exit code, and what it says when it did not come to its end."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable

from medstill.errors import MedstillError

WRONG = 2
INTERRUPTED = 130
TERMINATED = 143


def end_with(command: Callable[[], object]) -> None:
    """Run a command line; an error that a user can put right ends with exit code 2.

    Ctrl-C ends with 130, SIGTERM with 143. What is finished is kept, and a repeat of the command
    goes on from there.
    """
    code = INTERRUPTED

    def terminate(_signal: int, _frame: object) -> None:
        # Schedulers of clusters send it some time before they kill.
        nonlocal code
        code = TERMINATED
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, terminate)
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
