"""Values of source images that break the standard and would spoil what is made of them.

Scanners, archives and anonymisers write dates as they like, sexes that do not exist and texts that
are too long or hold control characters. Such a value is left out of the copy, and an attribute that
must be there stays empty.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from pydicom import DataElement, Dataset
from pydicom.config import RAISE
from pydicom.datadict import dictionary_VM
from pydicom.multival import MultiValue
from pydicom.valuerep import validate_value

_GROUPS: Final = (0x0008, 0x0010, 0x0012)
"""Study, patient, clinical trial: what is copied."""
_OTHERS: Final = ("StudyID", "SeriesNumber", "SliceThickness")
_ENUMERATED: Final = {"PatientSex": ("M", "F", "O"), "PregnancyStatus": ("1", "2", "3", "4")}

_LINES: Final = re.compile(r"[\x00-\x1a\x1c-\x1f\x7f]")
_TEXTS: Final = re.compile(r"[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f\x7f]")
_FORBIDDEN: Final = {
    **dict.fromkeys(("PN", "LO", "SH", "UC"), _LINES),
    **dict.fromkeys(("LT", "ST", "UT"), _TEXTS),
}
"""Control characters. ESC switches the character set, and texts of many lines may also have TAB,
LF, FF and CR (PS3.5, 6.1.3 and 6.2)."""


def drop_unsound(dataset: Dataset) -> tuple[str, ...]:
    """Remove attributes whose values the standard does not allow.

    Returns:
        Their keywords.
    """
    found = tuple(element.keyword for element in _copied(dataset) if not _is_sound(element))
    for keyword in found:
        delattr(dataset, keyword)
    return found


def _copied(dataset: Dataset) -> Iterator[DataElement]:
    for element in dataset:
        copied = element.tag.group in _GROUPS or element.keyword in _OTHERS
        if copied and element.keyword and element.VR != "UI":
            yield element


def _is_sound(element: DataElement) -> bool:
    if element.VR == "SQ":
        return not any(_has_controls(one) for item in element.value for one in item.iterall())
    if _has_controls(element):
        return False
    value = element.value
    values = list(value) if isinstance(value, MultiValue) else [value]
    if len(values) > 1 and dictionary_VM(element.tag) == "1":
        return False
    texts = ["" if one is None else str(one) for one in values]
    allowed = _ENUMERATED.get(element.keyword)
    if allowed is not None and any(text and text not in allowed for text in texts):
        return False
    try:
        for text in texts:
            validate_value("LO" if element.VR == "US" else element.VR, text, RAISE)
    except ValueError:
        return False
    return True


def _has_controls(element: DataElement) -> bool:
    forbidden = _FORBIDDEN.get(element.VR)
    if forbidden is None:
        return False
    values = element.value if isinstance(element.value, MultiValue) else [element.value]
    return any(forbidden.search(str(one)) for one in values if one is not None)
