"""Worker processes, and scripts that these start again."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

from medstill.errors import RunError

NO_GUARD = (
    "In a script of your own, put the lines that call medstill under `if __name__ == '__main__':`, "
    "since each worker process reads the script again"
)


def worker_pool(workers: int, start: Callable[[], object] | None = None) -> ProcessPoolExecutor:
    """Processes that share nothing with this one; each calls `start` first, where it is given.

    Raises:
        RunError: See `demand_guard`.
    """
    demand_guard()
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, mp_context=context, initializer=start)


def demand_guard() -> None:
    """Refuse to compute in a worker process that only reads the script that started it.

    Raises:
        RunError: The script has no `if __name__ == '__main__':`.
    """
    # The flag by which multiprocessing itself knows it.
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise RunError(f"{NO_GUARD}, and would compute everything again.")
