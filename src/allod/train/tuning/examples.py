"""Questions with answers for instruction tuning, made by rule out of the run's own documents.

Nothing is written by hand and nothing comes from elsewhere: every answer stands in a document of the corpus, whose
`id` the example keeps. Three kinds, each known by the shape of the text and not by where it came from:

- *definition*    a line `word, other (noun): gloss`   "What does the noun “word” mean?" → the gloss
- *page*          a short document under `# Title`     "How do I go about inserting rows?" → its first paragraphs
- *continuation*  two sentences in a row of prose      "Continue: *sentence*" → the next one
"""

from __future__ import annotations

import heapq
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

from allod.core.digests import sha256_hex
from allod.core.errors import Invalid
from allod.train.corpus.documents import Document
from allod.train.tuning.sentences import is_prose, paragraphs, sentences

SHARES = {"definition": 2, "page": 1, "continuation": 2}  # of the mixture, where there is enough of each kind
MAX_ANSWER_BYTES = 400
MAX_PAGE_BYTES = 16_384  # a longer document is a chapter, and its first line is not what it answers

_DEFINITION = re.compile(r"^([^\W_][^()\n]{0,200}) \((noun|verb|adjective|adverb)\): (.+)$", re.MULTILINE)
_GERUND = re.compile(r"^[A-Z][a-z]+ing\b")


@dataclass(frozen=True, slots=True)
class Example:
    """One exchange. `document` is the id of the document that the answer stands in."""

    document: str
    kind: str
    question: str
    answer: str

    @property
    def messages(self) -> list[dict[str, str]]:
        """As a chat template takes it."""
        return [{"role": "user", "content": self.question}, {"role": "assistant", "content": self.answer}]


def choose_examples(documents: Iterable[Document], *, count: int, seed: int) -> list[Example]:
    """At most `count` examples, by `SHARES`, in an order that depends on `seed` and the examples alone.

    Kinds of which there are too few leave their places to the others. Of two examples with one question the first in
    that order is kept. Raises Invalid where the documents yield no example at all.
    """
    ranked: dict[str, dict[str, Example]] = {kind: {} for kind in SHARES}
    for document in documents:
        for example in examples_of(document):
            ranked[example.kind].setdefault(_rank(example, seed), example)
        for kind, found in ranked.items():
            if len(found) > 4 * count:  # who is not among the first `count` now never will be
                ranked[kind] = _first(found, count)
    taken: dict[str, Example] = {}
    for kind, number in _share_out({kind: len(found) for kind, found in ranked.items()}, count).items():
        taken |= _first(ranked[kind], number)
    if not taken:
        raise Invalid(
            "no example can be made of these documents",
            code="no_examples",
            hint="leave instruction tuning out (tune.steps = 0), or add text with sentences or definitions",
        )
    return [taken[rank] for rank in sorted(taken)]


def examples_of(document: Document) -> Iterator[Example]:
    """Every example that one document yields, in its order."""
    definitions = list(_definitions(document))
    if definitions:
        yield from definitions
        return
    page = _page(document)
    if page is not None:
        yield page
        return
    yield from _continuations(document)


def count_kinds(examples: Iterable[Example]) -> Mapping[str, int]:
    """How many examples there are of each kind, zeros included."""
    counted = Counter(example.kind for example in examples)
    return {kind: counted[kind] for kind in sorted(SHARES)}


def _definitions(document: Document) -> Iterator[Example]:
    for words, kind, gloss in _DEFINITION.findall(document.text):
        word = words.split(", ")[0]
        meaning = gloss.split('; "')[0].strip().rstrip(";")
        if 8 <= len(meaning.encode()) <= MAX_ANSWER_BYTES:
            yield Example(document.id, "definition", f"What does the {kind} “{word}” mean?", _sentence(meaning))


def _page(document: Document) -> Example | None:
    heading, _, rest = document.text.strip().partition("\n")
    title = heading.removeprefix("# ").strip()
    if title == heading or not 4 <= len(title) <= 80 or len(document.text) > MAX_PAGE_BYTES:
        return None
    answer = ""
    for paragraph in paragraphs(rest):
        if paragraph[0] in "#|":  # a heading or a table
            continue
        if len(f"{answer} {paragraph}".encode()) > MAX_ANSWER_BYTES:
            break
        answer = f"{answer} {paragraph}".strip()
    if len(answer) < 40:
        return None
    question = f"How do I go about {title[0].lower()}{title[1:]}?" if _GERUND.match(title) else f"What is “{title}”?"
    return Example(document.id, "page", question, answer)


def _continuations(document: Document) -> Iterator[Example]:
    for paragraph in paragraphs(document.text):
        for one, following in pairwise(sentences(paragraph)):
            if all(is_prose(sentence, min_bytes=20, max_bytes=200) for sentence in (one, following)):
                yield Example(document.id, "continuation", f"Continue: {one}", following)


def _sentence(gloss: str) -> str:
    return gloss[0].upper() + gloss[1:] + ("" if gloss[-1] in ".!?" else ".")


def _rank(example: Example, seed: int) -> str:
    """Where it comes in the order. Examples with one question have one rank."""
    return sha256_hex(f"{seed}\n{example.kind}\n{example.question}".encode())


def _first(ranked: Mapping[str, Example], count: int) -> dict[str, Example]:
    return {rank: ranked[rank] for rank in heapq.nsmallest(count, ranked)}


def _share_out(available: Mapping[str, int], count: int) -> dict[str, int]:
    """How many of each kind: in proportion to its share, and what one kind cannot fill goes to the rest."""
    counts = dict.fromkeys(available, 0)
    open_kinds = {kind for kind, number in available.items() if number}
    left = count
    while left and open_kinds:
        total = sum(SHARES[kind] for kind in open_kinds)
        granted = 0
        for kind in sorted(open_kinds):
            more = min(available[kind] - counts[kind], max(1, left * SHARES[kind] // total), left - granted)
            counts[kind] += more
            granted += more
        left -= granted
        open_kinds = {kind for kind in open_kinds if counts[kind] < available[kind]}
    return counts
