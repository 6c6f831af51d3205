"""Cloze questions out of held-out text: which of four words ends the sentence?

The three wrong words end other sentences of the same document, drawn at random; a draw in which a word comes twice is
no question. So right and wrong words are drawn alike, and whoever ignores the sentence and prefers frequent words is
right one time in four.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterable, Iterator, Sequence

from allod.core.digests import sha256_hex
from allod.train.corpus.documents import Document
from allod.train.evaluation.questions import ChoiceQuestion
from allod.train.tuning.sentences import is_prose, paragraphs, sentences

NUM_CHOICES = 4

_LAST_WORD = re.compile(r"^(.*[^\W\d_]) ([A-Za-z][a-z]{2,})([.!?][\"'”’)]*)$")
_Ends = Sequence[
    tuple[str, str, str]
]  # of each sentence: what comes before its last word, that word, the mark after it


def cloze_questions(documents: Iterable[Document], *, count: int) -> list[ChoiceQuestion]:
    """At most `count` questions, those whose hash comes first, so that they are spread over the documents.

    The prompt is a sentence (40 to 300 bytes) without its last word, each choice a space, a word and the mark after it.
    """
    found: list[tuple[str, ChoiceQuestion]] = []
    for document in documents:
        found = heapq.nsmallest(count, [*found, *_of_document(document)], key=lambda pair: pair[0])
    return [question for _, question in found]


def _of_document(document: Document) -> Iterator[tuple[str, ChoiceQuestion]]:
    ends: _Ends = [
        (match[1], match[2], match[3])
        for paragraph in paragraphs(document.text)
        for sentence in sentences(paragraph)
        if is_prose(sentence, min_bytes=40, max_bytes=300) and (match := _LAST_WORD.match(sentence))
    ]
    for number, (prompt, word, mark) in enumerate(ends):
        rank = sha256_hex(f"{document.id}\n{number}\n{prompt}".encode())
        words = {word, *(ends[index][1] for index in _draws(rank, len(ends)))}
        if len(words) == NUM_CHOICES:
            order = sorted(words, key=lambda choice: sha256_hex(f"{rank}{choice}".encode()))
            choices = tuple(f" {choice}{mark}" for choice in order)
            yield rank, ChoiceQuestion(f"{document.id}#{number}", prompt, choices, order.index(word))


def _draws(rank: str, total: int) -> Iterator[int]:
    """Which sentences the wrong words end, as the digits of `rank` say."""
    for turn in range(NUM_CHOICES - 1):
        yield int(rank[16 * turn : 16 * turn + 16], 16) % total
