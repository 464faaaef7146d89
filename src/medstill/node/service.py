"""The service: receiver, worker and senders in threads, until it is told to stop."""

from __future__ import annotations

import logging
import signal
import threading
import time
import warnings
from collections.abc import Callable
from types import FrameType
from typing import Final

import SimpleITK as sitk

from medstill.errors import ConfigError
from medstill.node.arrivals import Arrivals
from medstill.node.config import NodeConfig
from medstill.node.outbox import Outbox
from medstill.node.receive import Receiver
from medstill.node.send import Deliver, Dimse, Sender
from medstill.node.shelves import Shelves
from medstill.node.work import Handle, Worker

log = logging.getLogger(__name__)

TICK_S: Final = 0.2
FAILED_S: Final = 5.0
SWEEP_S: Final = 60.0
TALKATIVE: Final = ("pynetdicom", "pydicom", "highdicom")


class Node:
    """A node that runs in threads of this process; `stop` ends it."""

    def __init__(self, config: NodeConfig, handle: Handle, deliver: Deliver | None = None) -> None:
        """Open the folder and take up what is in it; nothing runs yet.

        Args:
            config: The node.
            handle: Segments a series; see `segmenting`.
            deliver: Sends a result; None sends it by DIMSE.

        Raises:
            ConfigError: Another node has the folder, or a peer's name cannot be looked up.
            StorageError: The folder cannot be written.
        """
        waits = config.waits
        self._config = config
        self._shelves = Shelves(config.folder)
        self._arrivals = Arrivals(self._shelves, quiet_s=waits.quiet_s, abandon_s=waits.abandon_s)
        self._outbox = Outbox(self._shelves, config.receivers, waits)
        self._worker = Worker(self._shelves, handle, attempts=config.attempts)
        self._receiver = Receiver(config, self._arrivals)
        deliver = deliver or Dimse(config)
        self._senders = [Sender(self._outbox, peer, waits, deliver) for peer in config.receivers]
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Listen, work and send.

        Raises:
            ConfigError: The port is taken, or the certificates cannot be used.
        """
        try:
            self._receiver.start()
        except ConfigError:
            self._shelves.close()
            raise
        loops = [self._tend, self._work, *(self._sending(sender) for sender in self._senders)]
        self._threads = [threading.Thread(target=loop, daemon=True) for loop in loops]
        for thread in self._threads:
            thread.start()
        config = self._config
        log.info("%s listens at %s, port %d", config.aet, config.host, config.port)

    def stop(self) -> None:
        """Listen no more, let senders and the model finish for a while, and end.

        What is not finished is on the disk, and the next start goes on with it.
        """
        self._receiver.stop_listening()
        end = time.monotonic() + self._config.waits.stop_s
        while self._receiver.busy() and time.monotonic() < end:
            time.sleep(TICK_S / 4)
        self._receiver.abort()
        self._stop.set()
        for thread in self._threads:
            thread.join(max(0.1, end - time.monotonic()))
        self._worker.excuse()
        self._shelves.close()
        log.info("stopped")

    def _tend(self) -> None:
        swept_s = -float("inf")

        def step() -> bool:
            nonlocal swept_s
            self._receiver.tend()
            self._arrivals.collect()
            if time.monotonic() - swept_s >= SWEEP_S:
                swept_s = time.monotonic()
                self._outbox.sweep()
            return False

        self._repeat(step)

    def _work(self) -> None:
        self._repeat(self._worker.step)

    def _sending(self, sender: Sender) -> Callable[[], None]:
        def step() -> bool:
            sender.step(self._stop)
            return False

        return lambda: self._repeat(step)

    def _repeat(self, step: Callable[[], bool]) -> None:
        """Do a step again and again; after one that did nothing, wait a little."""
        while not self._stop.is_set():
            try:
                again = step()
            except Exception as error:  # a disk that fails now may work later
                log.error("a step failed (%s); it is repeated", type(error).__name__)
                self._stop.wait(FAILED_S)
                continue
            if not again:
                self._stop.wait(TICK_S)


def serve(config: NodeConfig, handle: Handle) -> None:
    """Run a node in this process until SIGTERM or SIGINT, and then end it gracefully.

    Args:
        config: The node.
        handle: Segments a series.

    Raises:
        MedstillError: The node cannot be started.
    """
    keep_libraries_quiet()
    told = threading.Event()

    def tell(_number: int, _frame: FrameType | None) -> None:
        told.set()

    node = Node(config, handle)
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, tell)
    node.start()
    while not told.wait(1.0):
        pass
    log.info("told to stop")
    node.stop()


def keep_libraries_quiet() -> None:
    """Silence what others log, warn and print: it can hold values of a header."""
    for name in TALKATIVE:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    warnings.simplefilter("ignore")
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    threading.excepthook = _hook


def _hook(args: threading.ExceptHookArgs) -> None:
    log.error("a thread ended (%s)", args.exc_type.__name__)
