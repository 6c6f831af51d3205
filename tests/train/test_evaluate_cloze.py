"""Cloze questions: made from the held-out text alone, the same every time, and not to be guessed by frequency."""

from __future__ import annotations

import random
from collections import Counter

from allod.train.corpus.documents import Document, new_document
from allod.train.evaluation.cloze import NUM_CHOICES, cloze_questions

STEMS = ("the master of the house would never again speak of the", "her sister had always wished to see the")
COMMON = ("letter", "garden", "journey")
RARE = tuple(f"{first}{second}ing" for first in "bdfglmnprst" for second in ("all", "end", "ick", "op", "ust"))


def novel(name: str, *, num_sentences: int = 400, seed: int = 1) -> Document:
    """Sentences whose last words are as unequal in frequency as real ones."""
    draw = random.Random(seed)
    lines = [
        f"{'He' if draw.random() < 0.5 else 'She'} knew that {draw.choice(STEMS)} "
        f"{draw.choice(COMMON if draw.random() < 0.5 else RARE)}."
        for _ in range(num_sentences)
    ]
    return new_document("novels", name, "\n\n".join(" ".join(lines[at : at + 4]) for at in range(0, len(lines), 4)))


def test_the_right_choice_ends_the_sentence_as_it_stands() -> None:
    """Prompt and answer together are a sentence of the document, and the other choices have the same mark."""
    document = novel("a")
    questions = cloze_questions([document], count=50)
    assert len(questions) == 50
    for question in questions:
        assert question.prompt + question.choices[question.answer] in " ".join(document.text.split())
        assert len(set(question.choices)) == NUM_CHOICES
        assert {choice[0] + choice[-1] for choice in question.choices} == {" ."}


def test_the_same_text_gives_the_same_questions() -> None:
    """Also when other documents come before it, as far as the count reaches."""
    assert cloze_questions([novel("a"), novel("b", seed=2)], count=30) == cloze_questions(
        [novel("a"), novel("b", seed=2)], count=30
    )
    both = cloze_questions([novel("b", seed=2), novel("a")], count=30)
    assert both == cloze_questions([novel("a"), novel("b", seed=2)], count=30)


def test_whoever_prefers_frequent_words_is_right_one_time_in_four() -> None:
    """Wrong words are drawn as right ones are: frequency and position alone say nothing."""
    document = novel("a", num_sentences=12_000)
    questions = cloze_questions([document], count=10_000)
    frequency = Counter(document.text.split())
    right = sum(
        max(range(NUM_CHOICES), key=lambda place: frequency[question.choices[place].strip()]) == question.answer
        for question in questions
    )
    first = sum(question.answer == 0 for question in questions)
    assert len(questions) > 1_500
    for hits in (right, first):
        assert abs(hits / len(questions) - 1 / NUM_CHOICES) < 4 * (0.1875 / len(questions)) ** 0.5


def test_a_text_without_enough_words_gives_no_question() -> None:
    """Three different words cannot make four choices; neither can a table or an empty text."""
    poor = new_document("novels", "poor", "She said that it was, after all, a good day. " * 30)
    assert cloze_questions([poor, new_document("novels", "none", "1 2 3\n\n4 5 6")], count=10) == []
