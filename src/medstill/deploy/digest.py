"""A checksum of the network inside an exported file, so that a byte that rots cannot predict."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Final

from medstill.deploy.wire import Span, WireError

GRAPH_KEY: Final = "medstill.graph"
"""Among the metadata. Files that have none are taken without."""


def digest_of(graph: bytes | memoryview) -> str:
    """SHA-256 of the bytes of a graph, weights included."""
    return hashlib.sha256(graph).hexdigest()


def check_graph(content: bytes, graph: Span, metadata: Mapping[str, str]) -> None:
    """Demand that a graph is the one that was written.

    It finds damage, and no forgery: whoever changes a file can change the checksum as well.

    Args:
        content: Of the file.
        graph: Where the graph stands in it.
        metadata: Of the file.

    Raises:
        WireError: It is another one.
    """
    stored = metadata.get(GRAPH_KEY)
    if stored is not None and stored != digest_of(memoryview(content)[graph.start : graph.end]):
        raise WireError("a network that is damaged, since its checksum is another")
