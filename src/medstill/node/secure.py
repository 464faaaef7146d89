"""TLS contexts: certificates are demanded from both sides, versions below 1.2 are refused."""

from __future__ import annotations

import ssl

from medstill.errors import ConfigError
from medstill.node.config import Tls


def server_context(tls: Tls) -> ssl.SSLContext:
    """For connections that come in."""
    context = _loaded(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), tls)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(tls: Tls) -> ssl.SSLContext:
    """For connections to receivers, whose certificate must name their host."""
    return _loaded(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), tls)


def _loaded(context: ssl.SSLContext, tls: Tls) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(tls.cert, tls.key)
        context.load_verify_locations(tls.ca)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"The certificates of tls cannot be used ({error}). cert, key and ca are PEM files, "
            "and the key belongs to the certificate and has no passphrase."
        ) from error
    return context
