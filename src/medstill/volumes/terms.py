"""What a class means to other programs: coded terms of anatomy, and a colour.

Codes are SNOMED CT's as DICOM PS3.16 lists them in context groups 7150 (category), 7151 and 7154
(structures) and 244 (sides); the combined code of portal and splenic vein, which PS3.16 lacks, is
that of TotalSegmentator's public list.
"""

from __future__ import annotations

import colorsys
import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Final

from pydantic import Field

from medstill.config import Code, Record, TermConfig
from medstill.errors import unknown_name

__all__ = ["PRIVATE_SCHEME", "TERMS", "Code", "Term", "term_of", "terms_of"]

Byte = Annotated[int, Field(ge=0, le=255)]
Colour = tuple[Byte, Byte, Byte]

PRIVATE_SCHEME: Final = "99MEDSTILL"
"""Designator of codes that are made of a class name; DICOM keeps `99...` for private schemes."""

_LONGEST_MEANING: Final = 64
_GOLDEN_TURN: Final = 0.618033988749895


class Term(Record):
    """One class in the words of a DICOM segment."""

    category: Code
    type: Code
    modifier: Code | None = None
    """Narrows the type, such as its side."""
    colour_rgb: Colour


ANATOMY: Final = Code(value="91723000", meaning="Anatomical Structure")
_ABNORMAL: Final = Code(value="49755003", meaning="Morphologically Abnormal Structure")
_LEFT: Final = Code(value="7771000", meaning="Left")
_RIGHT: Final = Code(value="24028007", meaning="Right")
_BOTH: Final = Code(value="51440002", meaning="Bilateral")
_ANTERIOR: Final = Code(value="255549009", meaning="Anterior")
_POSTERIOR: Final = Code(value="255551008", meaning="Posterior")


def _term(
    value: str,
    meaning: str,
    colour: str,
    modifier: Code | None = None,
    category: Code = ANATOMY,
) -> Term:
    return Term(
        category=category,
        type=Code(value=value, meaning=meaning),
        modifier=modifier,
        colour_rgb=_rgb(colour),
    )


def _rgb(colour: str) -> Colour:
    red, green, blue = bytes.fromhex(colour.removeprefix("#"))
    return red, green, blue


TERMS: Final[Mapping[str, Term]] = {
    "spleen": _term("78961009", "Spleen", "#a05fc4"),
    "kidneys": _term("64033007", "Kidney", "#e0a01e", _BOTH),
    "kidney": _term("64033007", "Kidney", "#e8b04a"),
    "right kidney": _term("64033007", "Kidney", "#f2c230", _RIGHT),
    "left kidney": _term("64033007", "Kidney", "#e07b28", _LEFT),
    "gallbladder": _term("28231008", "Gallbladder", "#4fae4c"),
    "esophagus": _term("32849002", "Esophagus", "#d3ab8f"),
    "liver": _term("10200004", "Liver", "#b5533c"),
    "stomach": _term("69695003", "Stomach", "#e889b1"),
    "aorta": _term("15825003", "Aorta", "#e03131"),
    "inferior vena cava": _term("64131007", "Inferior vena cava", "#3b6fd4"),
    "portal and splenic veins": _term("110765007", "Portal vein and splenic vein", "#35b5d9"),
    "portal vein": _term("32764006", "Portal vein", "#52c3e6"),
    "splenic vein": _term("35819009", "Splenic vein", "#2b8fb0"),
    "pancreas": _term("15776009", "Pancreas", "#f5d98b"),
    "adrenal glands": _term("23451007", "Adrenal gland", "#49b89a", _BOTH),
    "adrenal gland": _term("23451007", "Adrenal gland", "#5cc9ac"),
    "right adrenal gland": _term("23451007", "Adrenal gland", "#2fd39a", _RIGHT),
    "left adrenal gland": _term("23451007", "Adrenal gland", "#12897b", _LEFT),
    "duodenum": _term("38848004", "Duodenum", "#c8a45c"),
    "small intestine": _term("30315005", "Small intestine", "#cd8462"),
    "colon": _term("71854001", "Colon", "#a8744f"),
    "urinary bladder": _term("89837001", "Bladder", "#dede4f"),
    "prostate": _term("41216001", "Prostate", "#7d7fd6"),
    "heart": _term("80891009", "Heart", "#cc4560"),
    "lungs": _term("39607008", "Lung", "#8fc7d9", _BOTH),
    "lung": _term("39607008", "Lung", "#9cd1e2"),
    "right lung": _term("39607008", "Lung", "#7fb8e6", _RIGHT),
    "left lung": _term("39607008", "Lung", "#6fd6c9", _LEFT),
    "brain": _term("12738006", "Brain", "#d9cfa3"),
    "hippocampus": _term("5366008", "Hippocampus", "#f08cc0"),
    "anterior hippocampus": _term("5366008", "Hippocampus", "#f0529c", _ANTERIOR),
    "posterior hippocampus": _term("5366008", "Hippocampus", "#5a8ff0", _POSTERIOR),
    "blood vessels": _term("59820001", "Blood Vessel", "#d12f4e"),
    "tumor": _term("108369006", "Neoplasm", "#90ee3a", category=_ABNORMAL),
    "lesion": _term("52988006", "Lesion", "#a6f25c", category=_ABNORMAL),
}
"""Class name -> its term. Words may stand in any order: `kidney_right` is `right kidney`."""

_OTHER_NAMES: Final[Mapping[str, str]] = {
    "oesophagus": "esophagus",
    "gall bladder": "gallbladder",
    "bladder": "urinary bladder",
    "postcava": "inferior vena cava",
    "ivc": "inferior vena cava",
    "portal vein and splenic vein": "portal and splenic veins",
    "right adrenal": "right adrenal gland",
    "left adrenal": "left adrenal gland",
    "small bowel": "small intestine",
    "vessels": "blood vessels",
    "vessel": "blood vessels",
    "blood vessel": "blood vessels",
    "retinal vessels": "blood vessels",
    "tumour": "tumor",
    "neoplasm": "tumor",
}


def term_of(name: str, number: int) -> Term:
    """The term of a class.

    Args:
        name: Its name.
        number: Its value from 1 on, which gives a name that `TERMS` lacks its colour.

    Returns:
        The entry of `TERMS`; for another name an anatomical structure with a private code, whose
        meaning is the name.
    """
    known = _BY_WORDS.get(_words(name))
    return known or Term(category=ANATOMY, type=_private(name), colour_rgb=_spread(number))


def terms_of(classes: Sequence[str], chosen: Mapping[str, TermConfig]) -> tuple[Term, ...]:
    """The term of each foreground class, in their order.

    Args:
        classes: Names, background first.
        chosen: What a study sets itself, by class name.

    Raises:
        UnknownNameError: A term is set for what is no foreground class.
    """
    foreground = classes[1:]
    for name in chosen:
        if name not in foreground:
            raise unknown_name("class in data.terms", name, foreground)
    return tuple(
        _changed(term_of(name, number), chosen.get(name))
        for number, name in enumerate(foreground, start=1)
    )


def _changed(term: Term, chosen: TermConfig | None) -> Term:
    if chosen is None:
        return term
    changes: dict[str, object] = {}
    if chosen.type is not None:
        # Another type leaves nothing of what the table said about the old one.
        changes |= {"category": ANATOMY, "type": chosen.type, "modifier": chosen.modifier}
    if chosen.modifier is not None:
        changes["modifier"] = chosen.modifier
    if chosen.category is not None:
        changes["category"] = chosen.category
    if chosen.colour is not None:
        changes["colour_rgb"] = _rgb(chosen.colour)
    return term.model_copy(update=changes)


def _private(name: str) -> Code:
    value = hashlib.sha256(name.encode()).hexdigest()[:12]
    # DICOM allows neither control characters nor backslashes in a text.
    meaning = re.sub(r"[\\\x00-\x1f\x7f-\x9f]", " ", name).strip()[:_LONGEST_MEANING].strip()
    return Code(value=value, scheme=PRIVATE_SCHEME, meaning=meaning or value)


def _spread(number: int) -> Colour:
    """Colours far from each other for neighbouring numbers: hues by the golden section."""
    brightness = (0.97, 0.77, 0.87)[number % 3]
    red, green, blue = colorsys.hsv_to_rgb(number * _GOLDEN_TURN % 1.0, 0.62, brightness)
    return round(255 * red), round(255 * green), round(255 * blue)


def _words(name: str) -> tuple[str, ...]:
    return tuple(sorted(word for word in re.split(r"[\W_]+", name.lower()) if word))


_BY_WORDS: Final = {
    **{_words(name): term for name, term in TERMS.items()},
    **{_words(other): TERMS[name] for other, name in _OTHER_NAMES.items()},
}
