"""Receiving: associations of known peers, C-ECHO, and C-STORE to the disk.

A peer is known by its AE title and its address together. A connection from another address is
closed before anything is read from it.
"""

from __future__ import annotations

import logging
import threading
from io import BytesIO
from socketserver import BaseServer
from typing import TYPE_CHECKING, Any, Final

from pynetdicom import AE, evt
from pynetdicom.pdu_primitives import A_RELEASE

from medstill.errors import ConfigError
from medstill.node import files, objects
from medstill.node.arrivals import Arrivals
from medstill.node.config import NodeConfig
from medstill.node.listening import Server, allowed, plain
from medstill.node.objects import MalformedError
from medstill.node.secure import server_context
from medstill.node.sessions import Session
from medstill.node.states import has_room

if TYPE_CHECKING:
    from pynetdicom.association import Association
    from pynetdicom.events import Event

log = logging.getLogger(__name__)

KIB: Final = 1024
MIB: Final = 1024 * KIB
_HEADER: Final = MIB
"""So much is kept of an instance that is too large: enough to say of which series it is."""
_LONGEST_PDU: Final = 4 * MIB
"""Longer ones are not read at all, whatever their header says."""

_VERIFICATION: Final = "1.2.840.10008.1.1"
STORED_CLASSES: Final = {
    "1.2.840.10008.5.1.4.1.1.2": "CT",
    "1.2.840.10008.5.1.4.1.1.2.1": "enhanced CT",
    "1.2.840.10008.5.1.4.1.1.2.2": "legacy converted enhanced CT",
    "1.2.840.10008.5.1.4.1.1.4": "MR",
    "1.2.840.10008.5.1.4.1.1.4.1": "enhanced MR",
    "1.2.840.10008.5.1.4.1.1.4.4": "legacy converted enhanced MR",
}
"""SOP classes of images that are taken in; all others are refused at the association."""
SYNTAXES: Final = (
    "1.2.840.10008.1.2.1",  # explicit VR little endian
    "1.2.840.10008.1.2",  # implicit VR little endian
    "1.2.840.10008.1.2.4.70",  # JPEG lossless, first-order prediction
    "1.2.840.10008.1.2.4.57",  # JPEG lossless
    "1.2.840.10008.1.2.4.80",  # JPEG-LS lossless
    "1.2.840.10008.1.2.4.90",  # JPEG 2000 lossless
    "1.2.840.10008.1.2.5",  # RLE
)
"""Transfer syntaxes that can be read and lose nothing."""
_CALLING_TITLE_UNKNOWN: Final = (0x01, 0x01, 0x03)


class _Overflow(BytesIO):
    """Takes the place of an instance's bytes that are too many: holds their beginning alone."""

    def write(self, data: Any, /) -> int:
        """Forget further bytes."""
        return memoryview(data).nbytes


class Receiver:
    """Listens, and stores what known peers send."""

    def __init__(self, config: NodeConfig, arrivals: Arrivals) -> None:
        """Look the peers' addresses up.

        Raises:
            ConfigError: The name of a peer cannot be looked up.
        """
        self._config = config
        self._arrivals = arrivals
        self._allowed = allowed(config.peers)
        self._sessions: dict[Association, Session] = {}
        self._lock = threading.Lock()
        self._server: Server | None = None

    def start(self) -> None:
        """Listen, in threads of its own.

        Raises:
            ConfigError: The address and port cannot be listened at.
        """
        config, limits = self._config, self._config.limits
        entity = AE(ae_title=config.aet)
        entity.require_called_aet = True
        entity.maximum_associations = limits.associations
        entity.maximum_pdu_size = limits.pdu_kb * KIB
        entity.network_timeout = entity.acse_timeout = config.waits.network_s
        entity.add_supported_context(_VERIFICATION)
        for stored in STORED_CLASSES:
            entity.add_supported_context(stored, list(SYNTAXES))
        handlers: list[Any] = [
            (evt.EVT_CONN_OPEN, self._opened),
            (evt.EVT_REQUESTED, self._requested),
            (evt.EVT_PDU_RECV, self._received),
            (evt.EVT_C_STORE, self._store),
            (evt.EVT_ACSE_RECV, self._released),
            (evt.EVT_ABORTED, self._aborted),
        ]
        secure = None if config.tls is None else server_context(config.tls)
        try:
            server: Any = entity.make_server(
                (config.host, config.port),
                ssl_context=secure,
                evt_handlers=handlers,
                server_class=Server,
                addresses={address for _, address in self._allowed},
                network_s=config.waits.network_s,
            )
        except OSError as error:
            raise ConfigError(
                f"Cannot listen at {config.host}, port {config.port}: {error.strerror}. Stop what "
                "listens there, or set another host or port."
            ) from error
        self._server = server
        threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True).start()

    def tend(self) -> None:
        """Notice associations that ended without a release."""
        with self._lock:
            ended = [one for one in self._sessions if not one.is_alive() and one.ident is not None]
        for association in ended:
            self._end(association, released=False)

    def stop_listening(self) -> None:
        """Take no further connection; associations that are there go on."""
        if self._server is not None:
            # The server's own method takes itself from a list that it is not on.
            BaseServer.shutdown(self._server)
            self._server.server_close()
            self._server = None

    def busy(self) -> bool:
        """Whether a peer is still sending."""
        self.tend()
        return bool(self._sessions)

    def abort(self) -> None:
        """End the associations that are there."""
        for association in list(self._sessions):
            association.abort()
            self._end(association, released=False)

    def _opened(self, event: Event) -> None:
        """Bound what a connection may have us read at once."""
        connection: Any = event.assoc.dul.socket
        read = connection.recv

        def bounded(count: int) -> bytearray:
            if count > _LONGEST_PDU:
                raise OSError("a PDU is longer than any that this node offers to take")
            received: bytearray = read(count)
            return received

        connection.recv = bounded

    def _requested(self, event: Event) -> None:
        association = event.assoc
        primitive: Any = association.requestor.primitive
        caller = (str(primitive.calling_ae_title).strip(), plain(association.requestor.address))
        if caller not in self._allowed:
            log.warning("association of an unknown AE title from %s refused", caller[1])
            association.acse.send_reject(*_CALLING_TITLE_UNKNOWN)
            association.kill()

    def _received(self, event: Event) -> None:
        """Stop to keep an instance that grows over the limit; its sender will be told."""
        message = event.assoc.dimse.message
        if message is None or message.data_set is None or isinstance(message.data_set, _Overflow):
            return
        if message.data_set.tell() > self._config.limits.object_mb * MIB:
            message.data_set = _Overflow(message.data_set.getvalue()[:_HEADER])

    def _store(self, event: Event) -> int:
        """Take one instance in; the status that its sender is told."""
        session = self._session(event.assoc)
        request: Any = event.request
        name = files.name_of(str(request.AffectedSOPInstanceUID))
        try:
            return self._take_in(event, session)
        except MalformedError as error:
            self._arrivals.refuse(error.series, name, session)
            log.warning("an instance was refused: %s", error)
            return error.status
        except Exception as error:  # the association goes on, whatever this instance was
            self._arrivals.refuse(None, name, session)
            log.error("an instance was refused (%s)", type(error).__name__)
            return objects.CANNOT_UNDERSTAND

    def _take_in(self, event: Event, session: Session) -> int:
        request: Any = event.request
        if request.DataSet is None:
            raise MalformedError(objects.CANNOT_UNDERSTAND, "it is empty")
        stream = event.encoded_dataset()
        announced = (str(request.AffectedSOPClassUID), str(request.AffectedSOPInstanceUID))
        if isinstance(request.DataSet, _Overflow):
            series = objects.series_of(stream, *announced)
            text = "it is larger than the limit"
            raise MalformedError(objects.OUT_OF_RESOURCES, text, series)
        instance = objects.identify(stream, *announced)
        reserve = self._config.limits.reserve_mb * MIB
        try:
            if not has_room(files.free_bytes(self._config.folder), len(stream), reserve):
                raise OSError(files.FULL[0], "the reserve is reached")
            self._arrivals.store(instance, [stream], session)
        except OSError as error:
            what = "the disk is full" if files.is_full(error) else "the disk fails"
            text = f"{what} ({error.strerror})"
            raise MalformedError(objects.OUT_OF_RESOURCES, text, instance.series) from error
        return objects.SUCCESS

    def _released(self, event: Event) -> None:
        """A peer asks for the release: it has sent what it wanted to."""
        if isinstance(getattr(event, "primitive", None), A_RELEASE):
            self._end(event.assoc, released=True)

    def _aborted(self, event: Event) -> None:
        self._end(event.assoc, released=False)

    def _session(self, association: Association) -> Session:
        with self._lock:
            if association not in self._sessions:
                self._sessions[association] = self._arrivals.begin()
            return self._sessions[association]

    def _end(self, association: Association, *, released: bool) -> None:
        with self._lock:
            session = self._sessions.pop(association, None)
        if session is not None:
            self._arrivals.end(session, released=released)
            title = str(association.requestor.ae_title).strip()
            how = "released" if released else "broken off"
            log.info(
                "association of %s %s: %d stored, %d refused",
                *(title, how, session.stored, session.refused),
            )
