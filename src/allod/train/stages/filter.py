"""The stage `filter`: of documents that are clean, those that the recipe wants, by length, licence and words.

What one model shall not learn stays in the sources, and their pins and terms with it. Every document that goes is
listed in `report.json` with the rule that dropped it. What is held out stays: what a model is measured with is not
chosen by what it learns from.
"""

from __future__ import annotations

from collections import Counter

from allod.core.canonical import JsonValue, canonical_json
from allod.core.errors import Invalid
from allod.core.stages import REPORT_FILE, Filter
from allod.train.corpus.documents import Document, DocumentWriter, read_documents
from allod.train.corpus.held_out import HeldOut
from allod.train.corpus.language import words_of
from allod.train.stage_task import StageFacts, StageTask
from allod.train.stopping import stop_if_asked

_REPORT_EVERY = 100  # documents


def run(task: StageTask) -> StageFacts:
    """Keep the documents that the recipe wants. Raises Invalid (`nothing_left`) and Unavailable (`interrupted`)."""
    (folder,) = task.inputs.values()
    wanted, held_out = _Wanted(task), HeldOut(task.recipe)
    dropped: list[tuple[str, str]] = []
    num_documents = num_held_out = num_bytes_kept = 0
    with DocumentWriter(task.output) as writer:
        for document in read_documents(folder):
            if num_documents % _REPORT_EVERY == 0:
                task.report("filtering documents", num_documents, 0)
                stop_if_asked(task)
            num_documents += 1
            is_held_out = document in held_out
            num_held_out += is_held_out
            rule = None if is_held_out else wanted.fault_of(document)
            if rule:
                dropped.append((document.id, rule))
            else:
                writer.write(document)
                num_bytes_kept += len(document.text.encode("utf-8"))
    by_rule = dict(sorted(Counter(rule for _, rule in dropped).items()))
    if dropped and len(dropped) + num_held_out == num_documents:
        raise Invalid("the filter left no document to learn from", code="nothing_left", hint=f"dropped by {by_rule}")
    rows: list[JsonValue] = [{"id": id_, "rule": rule} for id_, rule in dropped]
    (task.output / REPORT_FILE).write_bytes(canonical_json({"by_rule": by_rule, "dropped": rows}))
    return {"num_documents": num_documents, "num_bytes": num_bytes_kept, "dropped": len(dropped)}


class _Wanted:
    """What the recipe wants of a document."""

    def __init__(self, task: StageTask) -> None:
        self._options: Filter = task.recipe.tables["filter"]
        self._licences = {source.name: source.licence for source in task.recipe.sources}
        self._words = {word.lower() for word in self._options.words}

    def fault_of(self, document: Document) -> str | None:
        """The rule that drops it (`licence`, `few_words`, `many_words`, `other_words`), or None."""
        options, words = self._options, words_of(document.text)
        if options.licences and self._licences[document.source] not in options.licences:
            return "licence"
        if len(words) < options.min_words:
            return "few_words"
        if options.max_words and len(words) > options.max_words:
            return "many_words"
        return "other_words" if self._words and self._words.isdisjoint(words) else None
