"""The stage `dedupe`: of documents that say the same, the first stays.

Exact duplicates are those with the same words. Near-duplicates share most runs of five words: their Jaccard similarity
is estimated by MinHash (Broder 1997) and candidates are found by locality-sensitive hashing, so that the work grows as
the corpus does. Documents that are held out come first whatever their place, and one that copies whole passages of them
goes, too: what a model is measured with is not what it learnt. One that is dropped is listed in `report.json` with the
one that stays instead.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from hashlib import sha256
from itertools import chain
from typing import Literal, NamedTuple, get_args

from rensa import RMinHash, RMinHashLSH

from allod.core.canonical import JsonValue, canonical_json
from allod.train.corpus.contamination import Passages
from allod.train.corpus.documents import Document, DocumentWriter, read_documents
from allod.train.corpus.held_out import HeldOut
from allod.train.corpus.language import runs_of, words_of
from allod.train.recipe import Dedupe
from allod.train.stage_task import StageFacts, StageTask
from allod.train.stopping import stop_if_asked

SEED = 1  # of the permutations: always the same, so that the same documents stay
_BAND = 4  # permutations that must agree for two documents to be compared
_REPORT_EVERY = 100  # documents

Rule = Literal["exact", "near", "held_out"]
_RULES: tuple[Rule, ...] = get_args(Rule)


class Duplicate(NamedTuple):
    """A document that goes, why, and the document that stays instead of it."""

    id: str
    rule: Rule
    of: str


def run(task: StageTask) -> StageFacts:
    """Drop the duplicates among the documents of the stage before. Raises Unavailable (`interrupted`)."""
    (folder,) = task.inputs.values()
    held_out = HeldOut(task.recipe)
    seen = DuplicateFinder(task.recipe.dedupe)
    duplicates: dict[str, Duplicate] = {}
    first = (document for document in read_documents(folder) if document in held_out)
    then = (document for document in read_documents(folder) if document not in held_out)
    for document in _report_each(task, chain(first, then)):
        if found := seen.duplicate(document, is_held_out=document in held_out):
            duplicates[document.id] = found
    num_documents = num_bytes = num_bytes_kept = 0
    with DocumentWriter(task.output) as writer:
        for document in read_documents(folder):
            length = len(document.text.encode("utf-8"))
            num_documents += 1
            num_bytes += length
            if document.id not in duplicates:
                num_bytes_kept += length
                writer.write(document)
    counts = Counter(duplicate.rule for duplicate in duplicates.values())
    numbers = {
        "num_documents": num_documents,
        "num_kept": num_documents - len(duplicates),
        "num_bytes": num_bytes,
        "num_bytes_kept": num_bytes_kept,
    }
    dropped: list[JsonValue] = [duplicate._asdict() for duplicate in duplicates.values()]
    report: JsonValue = {**numbers, "by_rule": {rule: counts[rule] for rule in _RULES}, "dropped": dropped}
    (task.output / "report.json").write_bytes(canonical_json(report))
    return {**numbers, **{f"num_{rule}": counts[rule] for rule in _RULES}}


def _report_each(task: StageTask, documents: Iterator[Document]) -> Iterator[Document]:
    for number, document in enumerate(documents):
        if number % _REPORT_EVERY == 0:
            task.report("comparing documents", number, 0)
            stop_if_asked(task)
        yield document


class DuplicateFinder:
    """Documents that stay, and whether another one says the same as one of them."""

    def __init__(self, options: Dedupe) -> None:
        self._least = options.similarity_percent
        self._permutations = options.permutations - options.permutations % _BAND
        bands = self._permutations // _BAND
        self._similar = RMinHashLSH(threshold=self._least / 100, num_perm=self._permutations, num_bands=bands)
        self._exact: dict[bytes, str] = {}
        self._ids: list[str] = []
        self._sketches: list[RMinHash] = []
        self._passages = Passages()

    def duplicate(self, document: Document, *, is_held_out: bool = False) -> Duplicate | None:
        """What `document` duplicates; None if nothing, and then it is one of those that stay."""
        words = words_of(document.text)
        runs = _runs(words) or [document.text]
        digest = sha256("\n".join(words or runs).encode("utf-8")).digest()
        if of := self._exact.get(digest):
            return Duplicate(document.id, "exact", of)
        sketch = RMinHash(num_perm=self._permutations, seed=SEED)
        sketch.update(runs)
        for number in sorted(self._similar.query(sketch)):
            agreeing = round(sketch.jaccard(self._sketches[number]) * self._permutations)
            if 100 * agreeing >= self._least * self._permutations:
                return Duplicate(document.id, "near", self._ids[number])
        if is_held_out:
            self._passages.add(document.id, runs)
        elif of := self._passages.owner_of(runs):
            return Duplicate(document.id, "held_out", of)
        self._exact[digest] = document.id
        self._similar.insert(len(self._ids), sketch)
        self._ids.append(document.id)
        self._sketches.append(sketch)
        return None


def _runs(words: list[str]) -> list[str]:
    """Every run of five words, or the words themselves where there are fewer."""
    return [" ".join(run) for run in runs_of(words)] or words
