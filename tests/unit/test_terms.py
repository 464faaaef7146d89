"""Codes and colours of classes: right by the standard's own list, and what a study sets itself."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medstill import pipeline
from medstill.config import Code, DataConfig, Study, TermConfig, study_hash
from medstill.errors import UnknownNameError
from medstill.volumes.phantom_tissues import LABELS
from medstill.volumes.terms import PRIVATE_SCHEME, TERMS, Term, term_of, terms_of

ABDOMEN = (
    *("spleen", "right kidney", "left kidney", "gallbladder", "esophagus", "liver", "stomach"),
    *("aorta", "inferior vena cava", "portal and splenic veins", "pancreas"),
    *("right adrenal gland", "left adrenal gland"),
)
NOT_IN_THE_STANDARD = {"110765007"}


def codes_of(term):
    return [code for code in (term.category, term.type, term.modifier) if code is not None]


@pytest.mark.parametrize("name", TERMS)
def test_every_code_means_what_the_standard_says(name):
    dictionary = pytest.importorskip("pydicom.sr._concepts_dict", reason="needs pydicom")
    meanings = {}
    for concept in dictionary.concepts["SCT"].values():
        for value, (meaning, _) in concept.items():
            meanings.setdefault(value, set()).add(meaning)
    for code in codes_of(TERMS[name]):
        assert code.scheme == "SCT"
        if code.value not in NOT_IN_THE_STANDARD:
            assert code.meaning in meanings[code.value]


def test_categories_and_sides_are_those_of_their_context_groups():
    codedict = pytest.importorskip("pydicom.sr.codedict", reason="needs pydicom")
    groups = codedict.codes.cid7150, codedict.codes.cid244
    assert TERMS["spleen"].category.value == groups[0].AnatomicalStructure.value
    assert TERMS["tumor"].category.value == groups[0].MorphologicallyAbnormalStructure.value
    assert TERMS["right kidney"].modifier.value == groups[1].Right.value
    assert TERMS["left kidney"].modifier.value == groups[1].Left.value


# Verhoeff's check digit, which ends every SNOMED CT identifier, from the dihedral group of order
# ten written out: an independent look at codes that no installed list holds.
def dihedral(a, b):
    if a < 5:
        return (a + b) % 5 if b < 5 else 5 + (a + b - 5) % 5
    return 5 + (a - b - 5) % 5 if b < 5 else (a - b) % 5


def permuted(position, digit):
    for _ in range(position):
        digit = (1, 5, 7, 6, 2, 8, 3, 0, 9, 4)[digit]
    return digit


def checks(value):
    total = 0
    for position, digit in enumerate(reversed(value)):
        total = dihedral(total, permuted(position, int(digit)))
    return total == 0


def test_every_code_has_the_right_check_digit():
    assert not checks("78961008")
    assert all(checks(code.value) for term in TERMS.values() for code in codes_of(term))


@pytest.mark.parametrize("name", [*ABDOMEN, *LABELS[1:], "anterior hippocampus"])
def test_common_organs_are_known(name):
    assert term_of(name, 1) == TERMS[name]


@pytest.mark.parametrize(
    ("name", "same"),
    [
        ("Kidney_Right", "right kidney"),
        ("adrenal_gland_left", "left adrenal gland"),
        ("LIVER", "liver"),
        ("portal_vein_and_splenic_vein", "portal and splenic veins"),
        ("oesophagus", "esophagus"),
    ],
)
def test_names_are_known_in_other_spellings(name, same):
    assert term_of(name, 7) == TERMS[same]


def test_left_and_right_are_told_apart():
    right, left = term_of("kidney_right", 1), term_of("kidney_left", 2)
    assert right.type == left.type
    assert (right.modifier.meaning, left.modifier.meaning) == ("Right", "Left")


def test_an_unknown_name_becomes_the_meaning_of_a_private_code():
    term = term_of("Dr. X's thing", 3)
    assert term.category.meaning == "Anatomical Structure"
    assert (term.type.scheme, term.type.meaning) == (PRIVATE_SCHEME, "Dr. X's thing")
    assert term_of("Dr. X's thing", 4).type == term.type
    assert term_of("another thing", 3).type != term.type


def test_all_colours_are_different():
    colours = [term.colour_rgb for term in TERMS.values()]
    colours += [term_of(f"label-{number}", number).colour_rgb for number in range(1, 255)]
    assert len(set(colours)) == len(TERMS) + 254


@given(name=st.text(max_size=200), number=st.integers(1, 254))
def test_any_name_has_a_valid_term(name, number):
    term = term_of(name, number)
    assert Term.model_validate_json(term.model_dump_json()) == term


SPLEEN = TERMS["spleen"]
OTHER = Code(value="181268008", meaning="Entire spleen")


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ({"colour": "#0102ff"}, SPLEEN.model_copy(update={"colour_rgb": (1, 2, 255)})),
        ({"type": OTHER}, SPLEEN.model_copy(update={"type": OTHER})),
        ({"modifier": OTHER}, SPLEEN.model_copy(update={"modifier": OTHER})),
        ({"category": OTHER}, SPLEEN.model_copy(update={"category": OTHER})),
    ],
)
def test_a_study_sets_what_it_wants_and_keeps_the_rest(chosen, expected):
    found = terms_of(("background", "liver", "spleen"), {"spleen": TermConfig(**chosen)})
    assert found == (TERMS["liver"], expected)


def test_another_type_leaves_the_old_side_behind():
    (found,) = terms_of(("background", "right kidney"), {"right kidney": TermConfig(type=OTHER)})
    assert (found.type, found.modifier) == (OTHER, None)


def test_a_term_of_no_class_is_refused_before_any_work(tiny, tiny_with):
    study = tiny_with(data={"terms": {"liber": {"colour": "#ffffff"}}})
    message = r"No class in data\.terms is called 'liber'\. Did you mean 'liver'\?"
    with pytest.raises(UnknownNameError, match=message):
        pipeline.check(study, tiny.data)


def test_terms_do_not_make_another_study():
    plain = Study(name="plain")
    coloured = Study(name="plain", data=DataConfig(terms={"a": TermConfig(colour="#ffffff")}))
    assert study_hash(coloured) == study_hash(plain)
    assert study_hash(Study(name="plain", data=DataConfig(crop_to_body=True))) != study_hash(plain)
