"""Protocol buffers, read with limits and without trust: nothing is computed, only looked at.

The encoding is that of https://protobuf.dev/programming-guides/encoding. Unlike the usual readers,
this one refuses what a message has no place for and what should stand once and stands twice, so
that no two readers can see different things in one file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, NamedTuple

MOST_FIELDS: Final = 2_000_000
"""Fields of one file, over all its messages: a bound on the time that reading takes."""
MOST_TEXT_BYTES: Final = 4_096

_VARINT, _EIGHT_BYTES, _LENGTH, _FOUR_BYTES = 0, 1, 2, 5
_MOST_VARINT_BYTES: Final = 10
_FIXED_BYTES: Final = {_EIGHT_BYTES: 8, _FOUR_BYTES: 4}


class WireError(ValueError):
    """What is wrong with the bytes; the caller knows the file."""


class Span(NamedTuple):
    """A part of the content: a message, packed numbers or raw bytes."""

    start: int
    end: int

    @property
    def size(self) -> int:
        """In bytes."""
        return self.end - self.start


class Kind(Enum):
    """What a field holds."""

    INT = "integer"
    INTS = "integers"
    FLOAT = "floats"
    TEXT = "text"
    SPAN = "bytes"


@dataclass(frozen=True)
class Slot:
    """A field that a message may have.

    Attributes:
        name: What it is called.
        kind: What it holds.
        many: Whether it may stand more than once.
        refused: Why it is never accepted; empty if it is.
    """

    name: str
    kind: Kind = Kind.SPAN
    many: bool = False
    refused: str = ""


Layout = Mapping[int, Slot]
"""Field number -> what stands there."""


@dataclass
class Message:
    """The fields of one message by name; `texts`, `ints` and `spans` hold each in its order."""

    texts: dict[str, list[str]] = field(default_factory=dict)
    ints: dict[str, list[int]] = field(default_factory=dict)
    spans: dict[str, list[Span]] = field(default_factory=dict)

    def text(self, name: str) -> str:
        """A text that stands once; empty where it is missing."""
        return self.texts.get(name, [""])[0]

    def int(self, name: str) -> int:
        """A number that stands once; 0 where it is missing."""
        return self.ints.get(name, [0])[0]


class Reader:
    """Reads messages from the content of a file; counts what it has read over all of them."""

    def __init__(self, content: bytes, *, most_fields: int = MOST_FIELDS) -> None:
        """Nothing is read yet."""
        self.content = content
        self._most_fields = most_fields
        self._left = most_fields

    @property
    def whole(self) -> Span:
        """All of the content."""
        return Span(0, len(self.content))

    def message(
        self, span: Span, layout: Layout, what: str, *, most_text: int = MOST_TEXT_BYTES
    ) -> Message:
        """One message.

        Args:
            span: Where it stands.
            layout: The fields that it may have.
            what: What it is, for messages.
            most_text: Most bytes of one of its texts.

        Raises:
            WireError: It is cut, damaged, too long, or has what it must not have.
        """
        found = Message()
        seen: set[int] = set()
        for number, wire, value, part in self._fields(span, what):
            slot = layout.get(number)
            if slot is None:
                raise WireError(f"unknown content in {what} (field {number})")
            if slot.refused:
                raise WireError(slot.refused)
            if number in seen and not slot.many:
                raise WireError(f"two values of {slot.name} in {what}")
            seen.add(number)
            self._put(found, slot, wire, value, part, most_text)
        return found

    def _put(
        self, found: Message, slot: Slot, wire: int, value: int, part: Span, most_text: int
    ) -> None:
        if slot.kind in (Kind.INT, Kind.INTS) and wire == _VARINT:
            found.ints.setdefault(slot.name, []).append(value)
        elif slot.kind is Kind.INTS and wire == _LENGTH:
            found.ints.setdefault(slot.name, []).extend(self._packed(part))
        elif slot.kind is Kind.FLOAT and wire in (_FOUR_BYTES, _LENGTH):
            found.spans.setdefault(slot.name, []).append(part)
        elif slot.kind is Kind.TEXT and wire == _LENGTH:
            found.texts.setdefault(slot.name, []).append(self._text(part, slot.name, most_text))
        elif slot.kind is Kind.SPAN and wire == _LENGTH:
            found.spans.setdefault(slot.name, []).append(part)
        else:
            raise WireError(f"{slot.kind.value} expected in {slot.name}, found wire type {wire}")

    def _fields(self, span: Span, what: str) -> Iterator[tuple[int, int, int, Span]]:
        position, end = span
        while position < end:
            self._count()
            key, position = self._varint(position, end)
            number, wire = key >> 3, key & 7
            if number == 0:
                raise WireError(f"no field number at byte {position} of {what}")
            value = 0
            if wire == _VARINT:
                value, position = self._varint(position, end)
                yield number, wire, value, Span(position, position)
                continue
            if wire == _LENGTH:
                size, position = self._varint(position, end)
            elif wire in _FIXED_BYTES:
                size = _FIXED_BYTES[wire]
            else:
                raise WireError(f"unknown wire type {wire} at byte {position} of {what}")
            if size > end - position:
                raise WireError(
                    f"a length of {size} bytes at byte {position} where {what} has {end - position}"
                    " more"
                )
            yield number, wire, value, Span(position, position + size)
            position += size

    def _varint(self, position: int, end: int) -> tuple[int, int]:
        value = shift = 0
        for index in range(position, min(end, position + _MOST_VARINT_BYTES)):
            byte = self.content[index]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if value >= 1 << 64:
                    break
                return value, index + 1
            shift += 7
        raise WireError(f"no number at byte {position}")

    def _packed(self, part: Span) -> list[int]:
        found, position = [], part.start
        while position < part.end:
            self._count()
            value, position = self._varint(position, part.end)
            found.append(value)
        return found

    def _text(self, part: Span, name: str, most_text: int) -> str:
        if part.size > most_text:
            raise WireError(f"a {name} of {part.size} bytes, at most {most_text} are allowed")
        try:
            return self.content[part.start : part.end].decode()
        except UnicodeDecodeError as error:
            raise WireError(f"a {name} that is no UTF-8 text") from error

    def _count(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise WireError(f"more than {self._most_fields} fields")
