"""The stage `clean`: one way to write a text, every drop with its rule, personal data by what it was."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.train.tiny import source

from allod.core.errors import Invalid, Unavailable
from allod.settings.files import load_nation
from allod.train.corpus.documents import Document, DocumentWriter, new_document, read_documents
from allod.train.corpus.language import language_of, words_of
from allod.train.corpus.normalising import normalise
from allod.train.corpus.quality import fault_of
from allod.train.corpus.redaction import Redactor
from allod.train.recipe import Clean, Recipe
from allod.train.stage_task import StageTask
from allod.train.stages.clean import run

IDENTIFIERS = load_nation("gb").identifiers
ENGLISH = (
    "It was a bright morning when the committee met, and nobody in the room could say why the letter had been sent to "
    "them at all. The clerk read it twice, put it down on the table, and asked whether any of those present would like "
    "to answer it before the end of the week."
)
OTHERS = {
    "cy": "Mae'r pwyllgor yn cyfarfod bob wythnos yn y neuadd, ac mae croeso i bawb ddod i wrando ar yr hyn "
    "sydd gan yr aelodau i'w ddweud am y cynllun newydd.",
    "de": "Der Ausschuss trifft sich jede Woche in der Halle, und alle sind eingeladen, sich anzuhören, was die "
    "Mitglieder über den neuen Plan zu sagen haben.",
    "fr": "Le comité se réunit chaque semaine dans la salle, et tout le monde est invité à écouter ce que les "
    "membres ont à dire sur le nouveau projet.",
    "nl": "De commissie komt elke week bijeen in de zaal, en iedereen is welkom om te luisteren naar wat de "
    "leden over het nieuwe plan te zeggen hebben.",
    "es": "El comité se reúne todas las semanas en la sala, y todos están invitados a escuchar lo que los "
    "miembros tienen que decir sobre el nuevo plan.",
}


def cleaned(
    folder: Path, texts: dict[str, str], options: Clean | None = None
) -> tuple[list[Document], dict[str, object]]:
    """The documents that stay, and the report."""
    before, after = folder / "source", folder / "clean"
    before.mkdir()
    after.mkdir()
    with DocumentWriter(before) as writer:
        for name, text in texts.items():
            writer.write(new_document("notes", name, text))
    recipe = Recipe("test", (source("notes"),), clean=options or Clean(identifiers=IDENTIFIERS))
    run(StageTask(recipe, {"source": before}, after, lambda what, done, total: None, lambda: False))
    return list(read_documents(after)), json.loads((after / "report.json").read_bytes())


def test_a_document_keeps_its_id_and_the_digest_of_its_source(tmp_path: Path) -> None:
    """Lineage leads back to the text as it came, whatever cleaning made of it."""
    text = f"{ENGLISH}\r\n\r\nWrite to jo.bloggs@example.gov.uk."
    (document,), report = cleaned(tmp_path, {"a": text})
    assert (document.id, document.sha256) == ("notes/a", new_document("notes", "a", text).sha256)
    assert document.text == f"{ENGLISH}\n\nWrite to [E-MAIL ADDRESS].\n"
    assert report["redacted"]["e-mail address"] == 1  # type: ignore[index]


def test_every_drop_is_listed_with_its_rule(tmp_path: Path) -> None:
    """What is not trained on is told, one by one and by counts."""
    texts = {
        "empty": "",
        "french": OTHERS["fr"] * 2,
        "good": ENGLISH,
        "greek": "Η επιτροπή συνεδριάζει κάθε εβδομάδα στην αίθουσα και όλοι είναι ευπρόσδεκτοι. " * 3,
        "huge": ENGLISH * 100,
        "numbers": "12.5 | 17.25 | 0.5 | 99\n" * 20,
        "spam": "buy it now and be happy with it\n" * 40,
    }
    (kept,), report = cleaned(tmp_path, texts)
    assert kept.id == "notes/good"
    assert report["dropped"] == [
        {"id": "notes/empty", "rule": "too_short"},
        {"id": "notes/french", "rule": "language_fr"},
        {"id": "notes/greek", "rule": "language_unknown"},
        {"id": "notes/huge", "rule": "huge_line"},
        {"id": "notes/numbers", "rule": "not_text"},
        {"id": "notes/spam", "rule": "repetitive"},
    ]
    assert report["num_documents"] == 7
    assert report["num_kept"] == 1


def test_nothing_left_is_an_error(tmp_path: Path) -> None:
    """An empty corpus would be found out hours later: it is said here, with what dropped it."""
    with pytest.raises(Invalid, match="no document") as caught:
        cleaned(tmp_path, {"a": "short"})
    assert "too_short: 1" in str(caught.value.hint)


def test_a_language_that_cannot_be_told_is_refused(tmp_path: Path) -> None:
    """Asked for a language that it does not know, it would drop all of it."""
    with pytest.raises(Invalid) as caught:
        cleaned(tmp_path, {"a": ENGLISH}, Clean(languages=("xx",)))
    assert caught.value.code == "language_unknown"


def test_another_language_may_be_kept(tmp_path: Path) -> None:
    """The recipe says which languages it wants; Welsh is one of them."""
    documents, _ = cleaned(tmp_path, {"a": OTHERS["cy"] * 2, "b": ENGLISH}, Clean(languages=("cy",)))
    assert [document.id for document in documents] == ["notes/a"]


def test_redaction_may_be_switched_off(tmp_path: Path) -> None:
    """A recipe says so, and then the text stays as it is."""
    text = f"{ENGLISH} Write to jo.bloggs@example.gov.uk."
    (document,), report = cleaned(tmp_path, {"a": text}, Clean(redact=False))
    assert document.text == f"{text}\n"
    assert report["redacted"] == {"e-mail address": 0, "postcode": 0, "telephone number": 0}


def test_it_stops_when_the_machine_is_wanted_back(tmp_path: Path) -> None:
    """A signal ends the stage at the next document, with the error that says so."""
    with DocumentWriter(tmp_path) as writer:
        writer.write(new_document("notes", "a", ENGLISH))
    work = StageTask(
        Recipe("t", (source("notes"),)), {"source": tmp_path}, tmp_path, lambda what, done, total: None, lambda: True
    )
    with pytest.raises(Unavailable) as caught:
        run(work)
    assert caught.value.code == "interrupted"


@pytest.mark.parametrize("language", sorted(OTHERS))
def test_languages_are_told_apart(language: str) -> None:
    """A paragraph is enough."""
    assert language_of(words_of(OTHERS[language])) == language
    assert language_of(words_of(ENGLISH)) == "en"


def test_a_list_of_names_has_no_language() -> None:
    """Where no sentence is, nothing is guessed."""
    assert language_of(words_of("Pemberley Longbourn Netherfield Rosings Lambton Meryton")) is None
    assert language_of([]) is None


@given(st.text())
def test_a_normal_text_is_normal(text: str) -> None:
    """Cleaning what is clean changes nothing, so that a second pass makes no other corpus."""
    once = normalise(text)
    assert normalise(once) == once
    once.encode("utf-8")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\r\nb\rc\u2028d", "a\nb\nc\nd\n"),
        ("cafe\u0301", "caf\u00e9\n"),
        ("\ufeffa\u00adb\u200b\x00c", "abc\n"),
        ("def f():\n    return\u00a01  \n", "def f():\n    return 1\n"),
        ("a\n\n\n\n\n\nb", "a\n\n\nb\n"),
        (" \n\t\n", ""),
        ("\n  indented\n", "  indented\n"),
    ],
)
def test_one_way_to_write_a_text(text: str, expected: str) -> None:
    """Line ends, accents, what cannot be seen, and white space that says nothing."""
    assert normalise(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("NHS 943 476 5919.", "NHS [NHS NUMBER]."),
        ("NHS 943 476 5918.", "NHS 943 476 5918."),  # its check digit is wrong
        ("0.9434765919 of it", "0.9434765919 of it"),
        ("NI QQ 12 34 56 C, AB 12 34 56 C", "NI QQ 12 34 56 C, [NATIONAL INSURANCE NUMBER]"),
        ("card 4111 1111 1111 1111", "card [PAYMENT CARD NUMBER]"),
        ("GB82 WEST 1234 5698 7654 32", "[IBAN OF THE UNITED KINGDOM]"),
        ("mail first.last+tag@mail.example.co.uk, now", "mail [E-MAIL ADDRESS], now"),
        ("ring 020 7946 0958 or (0117) 496 0123", "ring [TELEPHONE NUMBER] or [TELEPHONE NUMBER]"),
        ("ring +44 (0)20 7946 0958, 07700900123", "ring [TELEPHONE NUMBER], [TELEPHONE NUMBER]"),
        ("at 10 Downing Street, SW1A 2AA.", "at 10 Downing Street, [POSTCODE]."),
    ],
)
def test_personal_data_is_replaced_by_what_it_was(text: str, expected: str) -> None:
    """The sentence stays one; what named somebody goes."""
    assert Redactor(IDENTIFIERS).redact(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "In 1811 she sold 750 copies at 15s. each; 01/02/2003 to 03-04-2005.",
        "A1 2BC is no postcode, Q1 1AA neither, and B52 bombers fly at 0.123456789012.",
        "version 0.1.2.3.4.5.6.7.8.9.10, range 0-9, 1 2 3 4 5 6 7 8 9 10 11 12",
        "@example.com, user@localhost, a @ b, E = mc2",
        "00000000000 and 0800 is freephone, 0x1234567890ab",
    ],
)
def test_innocent_text_stays(text: str) -> None:
    """Dates, versions, cells and prices are nobody's."""
    assert Redactor(IDENTIFIERS).redact(text) == text


@pytest.mark.parametrize("piece", ["a.", "0 1", "01", "0(", "a@b.", "SW1A ", "+44 (0)", "AB"])
def test_redaction_takes_time_as_the_text_is_long(piece: str) -> None:
    """A text that was made to be slow is not: no pattern goes back and forth without a bound."""
    began = time.process_time()
    Redactor(IDENTIFIERS).redact(piece * (200_000 // len(piece)))
    assert time.process_time() - began < 5


def test_programs_and_verses_are_text() -> None:
    """The rules drop dumps, not what has short lines or signs in it."""
    program = (
        'Sub Example\n    \' Inserts a quotation mark in a string.\n    MsgBox "A " + Chr$(34) + "short"\nEnd Sub\n' * 2
    )
    assert fault_of(program, words_of(program), min_bytes=10) is None
    verse = "Tomorrow, and tomorrow, and tomorrow,\nCreeps in this petty pace from day to day\n"
    assert fault_of(verse, words_of(verse), min_bytes=10) is None
