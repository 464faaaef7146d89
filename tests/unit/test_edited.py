"""Texts that people complete: their words stay, and what is new lies beside them."""

from __future__ import annotations

import logging

import pytest

from medstill.reporting.edited import write_unless_edited

TEXT = "# Card\n\n* To be filled in by the authors: who.\n"


@pytest.fixture
def card(tmp_path):
    path = tmp_path / "models" / "compact.model-card.md"
    assert write_unless_edited(path, TEXT) == path
    return path


@pytest.fixture
def new(card):
    return card.with_name("compact.model-card.new.md")


def complete(path, find="To be filled in by the authors: who", by="Radiographers"):
    path.write_text(path.read_text().replace(find, by))
    return path.read_text()


def test_generated_text_is_replaced(card, new):
    assert card.read_text().startswith(TEXT)
    assert write_unless_edited(card, TEXT + "* Dice 0.9.\n") == card
    assert "Dice 0.9" in card.read_text()
    assert not new.exists()


def test_changed_text_stays_and_the_new_one_lies_beside_it(card, new, caplog):
    mine = complete(card)
    with caplog.at_level(logging.WARNING):
        assert write_unless_edited(card, TEXT + "* Dice 0.9.\n") == new
    assert "changed by hand and stays" in caplog.text
    assert "compact.model-card.new.md" in caplog.text
    assert card.read_text() == mine
    assert new.read_text().startswith(TEXT + "* Dice 0.9.\n")


def test_nothing_new_is_said_twice(card, new, caplog):
    complete(card)
    assert write_unless_edited(card, TEXT) == card
    assert not new.exists()
    assert not caplog.records


def test_last_line_of_the_new_text_says_that_it_was_taken_over(card, new):
    complete(card)
    text = TEXT + "* Dice 0.9.\n"
    write_unless_edited(card, text)
    old, line = (path.read_text().splitlines()[-1] for path in (card, new))
    complete(card, old, line)
    new.unlink()
    assert write_unless_edited(card, text) == card
    assert not new.exists()


def test_text_of_an_earlier_edition_counts_as_changed_unless_it_says_the_same(card, new):
    card.write_text(TEXT)
    assert write_unless_edited(card, TEXT) == card
    card.write_text(TEXT)
    assert write_unless_edited(card, TEXT + "more\n") == new
    assert card.read_text() == TEXT


def test_file_of_another_encoding_counts_as_changed(card, new):
    card.write_bytes("# Käse\n".encode("latin-1"))
    assert write_unless_edited(card, TEXT) == new
    assert card.read_bytes() == "# Käse\n".encode("latin-1")
