"""Run folders and reports name no patient: a name from a table becomes a pseudonym."""

from __future__ import annotations

from pathlib import Path

from medstill.volumes.records import Case, pseudonym_of


def test_a_case_without_another_patient_keeps_its_id() -> None:
    assert Case("scan_7", "scan_7", (Path("a.nii"),), None).pseudonym == "scan_7"


def test_a_patients_name_becomes_the_same_pseudonym_in_every_case() -> None:
    first = Case("scan_1", "Erika Mustermann", (Path("a.nii"),), None).pseudonym
    second = Case("scan_2", "Erika Mustermann", (Path("b.nii"),), None).pseudonym
    other = Case("scan_3", "Max Mustermann", (Path("c.nii"),), None).pseudonym

    assert first == second == pseudonym_of("Erika Mustermann")
    assert first != other
    assert "Erika" not in first
    assert "Mustermann" not in first
