"""Examples for instruction tuning: found in the documents by rule, traced to them, in an order of their own."""

from __future__ import annotations

import pytest

from allod.core.errors import Invalid
from allod.train.corpus.documents import Document, new_document
from allod.train.tuning.examples import Example, choose_examples, count_kinds, examples_of

GLOSSES = (
    'oak, oak tree (noun): a deciduous tree; "the oak by the gate"\nrun (verb): move fast on foot\nno gloss here\n'
)
PAGE = (
    "# Inserting Rows\n\n| a | table |\n\nChoose Sheet, then Insert Rows above.\n\nThe rows below move down by one.\n"
)
NOVEL = (
    "CHAPTER I\n\nEmma Woodhouse had lived nearly twenty-one years in the world. She had very little to vex her.\n"
    "Mr. Knightley was a sensible man. He was an old friend of the family.\n\nNo."
)


def of(text: str) -> list[Example]:
    return list(examples_of(new_document("source", "name", text)))


def glossary(name: str, words: list[str]) -> Document:
    return new_document("dictionary", name, "".join(f"{word} (noun): the meaning of {word}\n" for word in words))


def test_a_gloss_is_asked_for_by_its_word() -> None:
    """The usage examples after the gloss are left out."""
    assert of(GLOSSES) == [
        Example("source/name", "definition", "What does the noun “oak” mean?", "A deciduous tree."),
        Example("source/name", "definition", "What does the verb “run” mean?", "Move fast on foot."),
    ]


def test_a_page_is_asked_for_by_its_title() -> None:
    """A title that says what is done is asked as a task; another as a thing. Tables are no answer."""
    answer = "Choose Sheet, then Insert Rows above. The rows below move down by one."
    assert of(PAGE) == [Example("source/name", "page", "How do I go about inserting Rows?", answer)]
    assert of(PAGE.replace("Inserting", "Hidden"))[0].question == "What is “Hidden Rows”?"


def test_prose_is_continued_by_its_next_sentence() -> None:
    """Across a title (Mr.), inside a paragraph, and never from a heading or a fragment."""
    assert [(one.question, one.answer) for one in of(NOVEL)] == [
        (
            "Continue: Emma Woodhouse had lived nearly twenty-one years in the world.",
            "She had very little to vex her.",
        ),
        ("Continue: She had very little to vex her.", "Mr. Knightley was a sensible man."),
        ("Continue: Mr. Knightley was a sensible man.", "He was an old friend of the family."),
    ]


def test_every_answer_stands_in_the_document_that_it_names() -> None:
    """Nothing is written by hand: the words of an answer are the document's words."""
    for text in (GLOSSES, PAGE, NOVEL):
        for example in of(text):
            assert example.document == "source/name"
            assert example.answer.rstrip(".")[1:] in " ".join(text.replace("| a | table |", "").split())


def test_the_order_depends_on_the_seed_and_not_on_the_documents_order() -> None:
    """Another order of files must not make another model."""
    one, other = glossary("a", [f"a{n}" for n in range(50)]), glossary("b", [f"b{n}" for n in range(50)])
    chosen = choose_examples([one, other], count=40, seed=1)
    assert chosen == choose_examples([other, one], count=40, seed=1)
    assert chosen != choose_examples([one, other], count=40, seed=2)
    assert len({example.document for example in chosen}) == 2


def test_what_one_kind_cannot_fill_goes_to_the_others() -> None:
    """Few pages do not make a small mixture."""
    documents = [glossary("a", [f"word{n}" for n in range(100)]), new_document("help", "rows", PAGE)]
    assert count_kinds(choose_examples(documents, count=60, seed=1)) == {
        "continuation": 0,
        "definition": 59,
        "page": 1,
    }


def test_one_question_is_asked_once() -> None:
    """A word with two glosses has two answers, and a model cannot learn both: the first is kept."""
    twice = new_document("dictionary", "a", "bank (noun): sloping land\nbank (noun): a place for money\n")
    assert [example.answer for example in choose_examples([twice], count=9, seed=1)] == ["Sloping land."]


def test_choosing_from_many_is_choosing_from_all() -> None:
    """Candidates that are dropped on the way would not have been chosen."""
    words = [f"word{n}" for n in range(500)]
    few = choose_examples([glossary("a", words)], count=10, seed=1)
    assert few == choose_examples([glossary("a", words)], count=400, seed=1)[:10]


def test_documents_without_an_example_are_refused() -> None:
    """With what to do about it."""
    with pytest.raises(Invalid) as refused:
        choose_examples([new_document("source", "digits", "1 2 3")], count=10, seed=1)
    assert refused.value.code == "no_examples"
