"""The configuration of a node: who may send, who gets the results, limits and waits.

Times are in seconds (`_s`) or hours (`_h`), sizes in bytes times 1024 (`_kb`) or 1024^2 (`_mb`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    Field,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from medstill.config import Record
from medstill.errors import ConfigError
from medstill.studyfile import problems_error, problems_of, read_yaml


def _title(text: str) -> str:
    title = text.strip()
    if not 1 <= len(title) <= 16 or "\\" in title or not (title.isascii() and title.isprintable()):
        raise ValueError(
            "an AE title has 1 to 16 printable ASCII characters, none of them a backslash"
        )
    return title


AeTitle = Annotated[str, AfterValidator(_title)]
Port = Annotated[int, Field(ge=1, le=65535)]
Wait = Annotated[float, Field(ge=0.0)]


class Peer(Record):
    """Another node. It is known by its AE title together with its address."""

    aet: AeTitle
    """Its AE title; capitals matter."""
    host: str = Field(min_length=1)
    """Its address, or a name that is looked up when the node starts."""
    port: Port | None = None
    """Where it listens; only a receiver needs it."""
    allow: bool = True
    """Whether it may connect to this node, from `host` alone, to send and to echo."""
    receives: bool = False
    """Whether the segmentations are sent to it."""
    tls: bool = False
    """Whether it is spoken to over TLS; the certificates are those of `tls`."""

    @model_validator(mode="after")
    def _can_be_reached(self) -> Self:
        if self.receives and self.port is None:
            raise ValueError(f"'{self.aet}' receives, so it needs a port")
        return self


class Tls(Record):
    """TLS with certificates on both sides. Incoming connections without it are then refused."""

    cert: Path
    """This node's certificate, PEM; the chain may follow in the file."""
    key: Path
    """Its private key, PEM, without a passphrase."""
    ca: Path
    """Certificates of those who sign the peers' certificates, PEM."""


class Limits(Record):
    """What a peer may ask of this node."""

    associations: PositiveInt = 8
    """Peers' associations at one time; a further one is refused for the moment."""
    pdu_kb: int = Field(default=64, ge=4, le=4096)
    """Longest PDU, as offered to the peers; each holds a part of an instance."""
    object_mb: PositiveInt = 512
    """Largest instance. One is held in memory, up to three times, until it is on the disk."""
    reserve_mb: Annotated[int, Field(ge=0)] = 1024
    """Free space that stays on the disk; instances beyond it are refused as out of resources."""


class Waits(Record):
    """How long the node waits, and how long it keeps what it has done."""

    quiet_s: Wait = 10.0
    """A series is complete when its associations are released and nothing came for so long."""
    abandon_s: PositiveFloat = 3600.0
    """A series whose sender broke off goes to `failed` when nothing came for so long."""
    resend_s: PositiveFloat = 5.0
    """Wait before the first repeat to a receiver that failed; it doubles each time ..."""
    longest_resend_s: PositiveFloat = 600.0
    """... up to this. There is no last repeat."""
    network_s: PositiveFloat = 60.0
    """A connection on which nothing comes for so long is ended."""
    stop_s: Wait = 30.0
    """How long a node that is told to stop lets senders and the model finish."""
    keep_done_h: Wait = 0.0
    """How long images and segmentation are kept after every receiver has it; 0: not at all."""
    remember_h: Wait = 24.0
    """How long instances that come again are taken for repeats; after that they are segmented."""
    keep_failed_h: PositiveFloat | None = None
    """How long failed series are kept; none: until somebody removes them."""


class NodeConfig(Record):
    """A node, as its YAML file describes it."""

    aet: AeTitle = "MEDSTILL"
    """AE title of this node; a peer that calls another one is refused."""
    host: str = "127.0.0.1"
    """Address to listen at; the default can be reached from this machine alone."""
    port: Port = 11112
    """Port to listen at."""
    folder: Path
    """Where series lie until they are done. It holds patients' images: protect it."""
    peers: tuple[Peer, ...] = Field(min_length=1)
    """Everybody that this node speaks with; all others are refused."""
    threads: PositiveInt | None = None
    """Threads of the model; none: all cores."""
    attempts: PositiveInt = 3
    """How often a series may take the whole process down before it is put aside."""
    limits: Limits = Limits()
    """What a peer may ask of this node."""
    waits: Waits = Waits()
    """How long the node waits, and how long it keeps what it has done."""
    tls: Tls | None = None
    """TLS with certificates on both sides; none: without TLS."""

    @property
    def receivers(self) -> tuple[Peer, ...]:
        """The peers that get the segmentations."""
        return tuple(peer for peer in self.peers if peer.receives)

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if not any(peer.allow for peer in self.peers):
            raise ValueError("no peer may connect: set allow of one of the peers to true")
        if not self.receivers:
            raise ValueError("nobody gets the results: set receives of one of the peers to true")
        titles = [peer.aet for peer in self.receivers]
        if len(set(titles)) < len(titles):
            raise ValueError("two receivers have the same AE title: give each its own")
        if self.tls is None and any(peer.tls for peer in self.peers):
            raise ValueError("a peer has tls: true, but the node has no tls: cert, key and ca")
        return self


def load_config(path: Path, **replaced: Any) -> NodeConfig:
    """Read the YAML file of a node.

    Args:
        path: The file.
        replaced: Keys that replace those of the file; None leaves the file's.

    Raises:
        ConfigError: The file is missing or no YAML, or keys or values are wrong; all are named.
    """
    content = read_yaml(path, kind="configuration", example="the example in docs/how-to/serve.md")
    content |= {key: value for key, value in replaced.items() if value is not None}
    try:
        config = NodeConfig.model_validate(content)
    except ValidationError as error:
        raise problems_error(problems_of(error, NodeConfig), str(path)) from error
    if config.tls is not None:
        _demand_files(config.tls)
    return config


def _demand_files(tls: Tls) -> None:
    for name, path in tls:
        if not path.is_file():
            raise ConfigError(f"tls.{name}: expected a PEM file at '{path}', found none.")
