"""Listening: who may connect, and connections that nobody has to wait for."""

from __future__ import annotations

import ipaddress
import logging
import socket
import ssl
from collections.abc import Iterable
from typing import Any

from pynetdicom.transport import ThreadedAssociationServer

from medstill.errors import ConfigError
from medstill.node.config import Peer

log = logging.getLogger(__name__)


class Server(ThreadedAssociationServer):
    """Accepts connections from some addresses alone, and waits for none of them."""

    def __init__(self, *args: Any, addresses: set[str], network_s: float, **named: Any) -> None:
        """Listen; `addresses` may connect, and a read takes at most `network_s` seconds."""
        self._addresses = addresses
        self._network_s = network_s
        super().__init__(*args, **named)

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept a connection; the TLS handshake is left to the thread that reads first."""
        listening: Any = self.socket
        connection, address = listening.accept()
        if plain(address[0]) not in self._addresses:
            log.warning("connection from %s refused: no peer has this address", address[0])
            connection.close()
            raise OSError("not a peer")
        connection.settimeout(self._network_s)
        if isinstance(self.ssl_context, ssl.SSLContext):
            connection = self.ssl_context.wrap_socket(
                connection, server_side=True, do_handshake_on_connect=False
            )
        return connection, address

    def handle_error(self, *_: Any) -> None:
        """Say that a connection failed, without what it sent."""
        log.error("a connection ended in an error")


def allowed(peers: Iterable[Peer]) -> frozenset[tuple[str, str]]:
    """AE titles with addresses of those who may connect.

    Raises:
        ConfigError: A name cannot be looked up.
    """
    found = set()
    for peer in peers:
        if peer.allow:
            try:
                rows = socket.getaddrinfo(peer.host, None, type=socket.SOCK_STREAM)
            except OSError as error:
                raise ConfigError(
                    f"The host '{peer.host}' of peer '{peer.aet}' cannot be looked up: "
                    f"{error.strerror}. Give its address."
                ) from error
            found |= {(peer.aet, plain(str(row[4][0]))) for row in rows}
    return frozenset(found)


def plain(address: str) -> str:
    """An address in one spelling; IPv4 inside IPv6 as IPv4."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    mapped = getattr(parsed, "ipv4_mapped", None)
    return str(mapped or parsed)
