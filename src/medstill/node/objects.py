"""What an instance says about itself, read from its bytes without decoding its pixels."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from typing import Final

from medstill.node.files import name_of

CANNOT_UNDERSTAND: Final = 0xC000
DOES_NOT_MATCH: Final = 0xA900
OUT_OF_RESOURCES: Final = 0xA700
SUCCESS: Final = 0x0000

_TAGS: Final = (0x00080016, 0x00080018, 0x0020000D, 0x0020000E, 0x00201209)
_UIDS: Final = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
_LONGEST_UID: Final = 64
_MOST_INSTANCES: Final = 100_000


@dataclass(frozen=True)
class Instance:
    """An instance, without any value of its header.

    Attributes:
        name: Hash of its SOP Instance UID.
        series: Hash of its Series Instance UID.
        expected: Number of instances of the series, where the header says so (0020,1209).
    """

    name: str
    series: str
    expected: int | None = None


class MalformedError(Exception):
    """An instance that cannot be taken in; `status` is what its sender is told.

    The text names no value of the header.
    """

    def __init__(self, status: int, text: str, series: str | None = None) -> None:
        """Hold the DIMSE status, the reason, and the hash of the series where it is known."""
        super().__init__(text)
        self.status = status
        self.series = series


def identify(stream: bytes, sop_class: str, sop_instance: str) -> Instance:
    """Read which instance this is.

    Args:
        stream: A whole DICOM file.
        sop_class: SOP Class UID that the sender announced.
        sop_instance: SOP Instance UID that the sender announced.

    Raises:
        MalformedError: It is no DICOM, lacks a UID, or is not what was announced.
    """
    from pydicom import dcmread

    try:
        found = dcmread(BytesIO(stream), stop_before_pixels=True, specific_tags=list(_TAGS))
        uids = {name: str(found.get(name) or "") for name in _UIDS}
        count = found.get("NumberOfSeriesRelatedInstances")
    except Exception as error:  # pydicom raises whatever the damage leads to
        raise MalformedError(CANNOT_UNDERSTAND, "its header cannot be read") from error
    wrong = [name for name, uid in uids.items() if not 0 < len(uid) <= _LONGEST_UID]
    series = None if "SeriesInstanceUID" in wrong else name_of(uids["SeriesInstanceUID"])
    if wrong:
        raise MalformedError(CANNOT_UNDERSTAND, f"it has no valid {', '.join(wrong)}", series)
    if (uids["SOPClassUID"], uids["SOPInstanceUID"]) != (sop_class, sop_instance):
        raise MalformedError(DOES_NOT_MATCH, "it is not the instance that was announced", series)
    return Instance(name_of(sop_instance), name_of(uids["SeriesInstanceUID"]), _count(count))


def series_of(stream: bytes, sop_class: str, sop_instance: str) -> str | None:
    """Hash of the series of an instance whose beginning alone is there; None: it does not say."""
    try:
        return identify(stream, sop_class, sop_instance).series
    except MalformedError as error:
        return error.series


def _count(value: object) -> int | None:
    try:
        number = int(str(value))
    except ValueError:
        return None
    return number if 1 <= number <= _MOST_INSTANCES else None
