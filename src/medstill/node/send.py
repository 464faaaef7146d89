"""Sending: segmentations to the receivers, again and again until each has them."""

from __future__ import annotations

import logging
import ssl
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from pydicom import dcmread
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from medstill.node.config import NodeConfig, Peer, Waits
from medstill.node.outbox import Outbox
from medstill.node.secure import client_context
from medstill.node.shelves import short
from medstill.node.states import wait_s

if TYPE_CHECKING:
    from pydicom import Dataset
    from pynetdicom.association import Association

log = logging.getLogger(__name__)

_VERIFICATION: Final = "1.2.840.10008.1.1"
_CONNECT_S: Final = 10.0


class UnreachableError(Exception):
    """A receiver that does not answer, or refuses the association: all it should get waits."""


class RefusedError(Exception):
    """A receiver that refuses this one object: the others may still go."""


Deliver = Callable[[Peer, "Dataset"], None]
"""Sends one object; raises `UnreachableError` or `RefusedError`."""


class Dimse:
    """Sends by DIMSE, one association for each object."""

    def __init__(self, config: NodeConfig) -> None:
        """Hold the AE title, the waits and the certificates."""
        self._aet = config.aet
        self._network_s = config.waits.network_s
        self._tls = config.tls

    def __call__(self, receiver: Peer, dataset: Dataset) -> None:
        """Send one object.

        Raises:
            UnreachableError: There is no association, or it broke off.
            RefusedError: The receiver does not take the object.
        """
        syntax = dataset.file_meta.TransferSyntaxUID
        plain = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]
        syntaxes = [syntax, *(one for one in plain if one != syntax)]
        association = self._associate(receiver, dataset.SOPClassUID, syntaxes)
        try:
            status = association.send_c_store(dataset)
        except RuntimeError as error:
            raise UnreachableError("the association broke off") from error
        except (ValueError, AttributeError) as error:
            raise RefusedError("it takes no such object") from error
        finally:
            association.release()
        if "Status" not in status:
            raise UnreachableError("the association broke off")
        # Warnings (Bxxx) say that the object was stored.
        if status.Status != 0x0000 and status.Status & 0xF000 != 0xB000:
            raise RefusedError(f"status {status.Status:04X}")

    def echo(self, receiver: Peer) -> None:
        """Ask a receiver whether it is there (C-ECHO).

        Raises:
            UnreachableError: It is not, or it does not know this node.
            RefusedError: It takes no echo.
        """
        association = self._associate(receiver, _VERIFICATION, [ImplicitVRLittleEndian])
        try:
            status = association.send_c_echo()
        finally:
            association.release()
        if status.get("Status") != 0x0000:
            raise UnreachableError("it does not answer an echo")

    def _associate(self, receiver: Peer, what: str, syntaxes: list[Any]) -> Association:
        from pynetdicom import AE

        entity = AE(ae_title=self._aet)
        entity.connection_timeout = _CONNECT_S
        entity.acse_timeout = entity.dimse_timeout = self._network_s
        entity.network_timeout = self._network_s
        entity.add_requested_context(what, syntaxes)
        secure = None
        if receiver.tls and self._tls is not None:
            secure = (client_context(self._tls), receiver.host)
        try:
            association = entity.associate(
                receiver.host, receiver.port or 0, ae_title=receiver.aet, tls_args=secure
            )
        except (OSError, ssl.SSLError) as error:
            raise UnreachableError("its address cannot be found") from error
        if association.is_established:
            return association
        if association.is_rejected:
            raise UnreachableError("it refuses the association")
        if association.acceptor.primitive is not None:
            raise RefusedError("it takes no object of this class, or not in this transfer syntax")
        raise UnreachableError("no association")


class Sender:
    """Brings what waits in the outbox to one receiver."""

    def __init__(
        self,
        outbox: Outbox,
        receiver: Peer,
        waits: Waits,
        deliver: Deliver,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Hold what is needed; waits begin anew with every start of the node."""
        self._outbox = outbox
        self._receiver = receiver
        self._waits = waits
        self._deliver = deliver
        self._clock = clock
        self._failures: dict[str, int] = {}
        self._not_before_s: dict[str, float] = {}

    def step(self, stop: threading.Event) -> None:
        """Send all that waits, except what failed a short while ago."""
        for key in self._outbox.pending(self._receiver):
            if stop.is_set() or not self._due(self._receiver.aet):
                return
            if self._due(key):
                self._attempt(key)

    def _attempt(self, key: str) -> None:
        aet = self._receiver.aet
        try:
            result, which = self._outbox.result(key)
            self._deliver(self._receiver, dcmread(result))
            self._outbox.sent(key, self._receiver, which)
        except FileNotFoundError:
            return  # its series grew meanwhile
        except UnreachableError as error:
            self._put_off(aet)
            log.warning("receiver %s: %s; the results wait", aet, error)
        except RefusedError as error:
            self._succeeded(aet)
            self._put_off(key)
            log.error("series %s: receiver %s refuses it (%s)", short(key), aet, error)
        except Exception as error:  # this result must not keep the others back
            self._put_off(key)
            log.error("series %s: not sent to %s (%s)", short(key), aet, type(error).__name__)
        else:
            self._succeeded(aet)
            self._succeeded(key)
            log.info("series %s: sent to %s", short(key), aet)

    def _due(self, what: str) -> bool:
        return self._clock() >= self._not_before_s.get(what, -float("inf"))

    def _put_off(self, what: str) -> None:
        self._failures[what] = self._failures.get(what, 0) + 1
        self._not_before_s[what] = self._clock() + wait_s(
            self._failures[what],
            first_s=self._waits.resend_s,
            longest_s=self._waits.longest_resend_s,
        )

    def _succeeded(self, what: str) -> None:
        self._failures.pop(what, None)
        self._not_before_s.pop(what, None)


def echo(config: NodeConfig) -> dict[str, str | None]:
    """Ask every receiver whether it is there.

    Returns:
        AE title -> None for one that answers, else why not.
    """
    dimse = Dimse(config)
    found: dict[str, str | None] = {}
    for receiver in config.receivers:
        try:
            dimse.echo(receiver)
            found[receiver.aet] = None
        except (UnreachableError, RefusedError) as error:
            found[receiver.aet] = str(error)
    return found
