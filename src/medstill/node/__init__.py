"""A DICOM node: series come in, a model segments each, the segmentations are sent on.

    receive -> incoming/ -> ready/ -> working/ -> outgoing/ -> done/        and: failed/

A series is a folder, and its state is the name of the folder that it lies in: what has been
acknowledged is on the disk, and a node that was killed goes on from there.
"""

from typing import TYPE_CHECKING

from medstill.lazy import lazy_names

if TYPE_CHECKING:
    from medstill.node.config import Limits, NodeConfig, Peer, Tls, Waits, load_config
    from medstill.node.handling import segmenting
    from medstill.node.send import echo
    from medstill.node.service import Node, keep_libraries_quiet, serve
    from medstill.node.work import Handle

__all__ = [
    "Handle",
    "Limits",
    "Node",
    "NodeConfig",
    "Peer",
    "Tls",
    "Waits",
    "echo",
    "keep_libraries_quiet",
    "load_config",
    "segmenting",
    "serve",
]

_HOMES = {
    "config": ("Limits", "NodeConfig", "Peer", "Tls", "Waits", "load_config"),
    "handling": ("segmenting",),
    "send": ("echo",),
    "service": ("Node", "keep_libraries_quiet", "serve"),
    "work": ("Handle",),
}

__getattr__ = lazy_names(
    __name__,
    {name: f"{__name__}.{module}" for module, names in _HOMES.items() for name in names},
)
