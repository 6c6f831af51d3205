"""The stage `clean`: documents normalised, those not worth learning from dropped, personal data redacted.

Every drop is listed with its rule in `report.json`. A document keeps its id and the digest of its text as it came, so
that lineage leads back to the source.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace

from allod.core.canonical import JsonValue, canonical_json
from allod.core.errors import Invalid
from allod.train.corpus.documents import Document, DocumentWriter, read_documents
from allod.train.corpus.language import LANGUAGES, language_of, words_of
from allod.train.corpus.normalising import normalise
from allod.train.corpus.quality import fault_of
from allod.train.corpus.redaction import Redactor
from allod.train.recipe import Clean
from allod.train.stage_task import StageFacts, StageTask
from allod.train.stopping import stop_if_asked

_REPORT_EVERY = 100  # documents


@dataclass(slots=True)
class _Tally:
    """What happened to the documents."""

    num_documents: Counter[str] = field(default_factory=Counter)  # by source: that came, and that stayed
    num_kept: Counter[str] = field(default_factory=Counter)
    num_bytes: int = 0
    num_bytes_kept: int = 0
    num_normalised: int = 0
    dropped: list[tuple[str, str]] = field(default_factory=list)  # id, rule


def run(task: StageTask) -> StageFacts:
    """Clean the documents of the stage `source`.

    Raises Invalid (`language_unknown`, `nothing_left`) and Unavailable (`interrupted`).
    """
    options = task.recipe.clean
    _check_languages(options.languages)
    redactor = Redactor(options.identifiers)
    tally = _Tally()
    with DocumentWriter(task.output) as writer:
        for number, document in enumerate(read_documents(task.inputs["source"])):
            if number % _REPORT_EVERY == 0:
                task.report("cleaning documents", number, 0)
                stop_if_asked(task)
            if cleaned := _clean(document, options, tally):
                if options.redact:
                    cleaned = replace(cleaned, text=redactor.redact(cleaned.text))
                writer.write(cleaned)
                tally.num_kept[document.source] += 1
                tally.num_bytes_kept += len(cleaned.text.encode("utf-8"))
    if not tally.num_kept:
        raise Invalid(
            "cleaning left no document",
            code="nothing_left",
            hint=f"dropped by {_by_rule(tally)}; look at clean.min_bytes and clean.languages of the recipe",
        )
    (task.output / "report.json").write_bytes(canonical_json(_report(tally, redactor)))
    return _facts(tally, redactor)


def _check_languages(languages: tuple[str, ...]) -> None:
    if unknown := sorted(set(languages) - LANGUAGES):
        raise Invalid(
            f"the language {unknown[0]!r} cannot be told from others",
            code="language_unknown",
            param="clean.languages",
            hint=f"known: {', '.join(sorted(LANGUAGES))}",
        )


def _clean(document: Document, options: Clean, tally: _Tally) -> Document | None:
    """The document with its text normalised, or None if a rule drops it."""
    tally.num_documents[document.source] += 1
    tally.num_bytes += len(document.text.encode("utf-8"))
    text = normalise(document.text)
    tally.num_normalised += text != document.text
    words = words_of(text)
    rule = fault_of(text, words, min_bytes=options.min_bytes)
    if rule is None and language_of(words) not in options.languages:
        rule = f"language_{language_of(words) or 'unknown'}"
    if rule is not None:
        tally.dropped.append((document.id, rule))
        return None
    return replace(document, text=text)


def _by_rule(tally: _Tally) -> str:
    counts = Counter(rule for _, rule in tally.dropped)
    return ", ".join(f"{rule}: {count}" for rule, count in sorted(counts.items())) or "no rule"


def _report(tally: _Tally, redactor: Redactor) -> JsonValue:
    return {
        "num_documents": tally.num_documents.total(),
        "num_kept": tally.num_kept.total(),
        "num_bytes": tally.num_bytes,
        "num_bytes_kept": tally.num_bytes_kept,
        "num_normalised": tally.num_normalised,
        "by_source": {
            source: {"num_documents": count, "num_kept": tally.num_kept[source]}
            for source, count in tally.num_documents.items()
        },
        "by_rule": dict(Counter(rule for _, rule in tally.dropped)),
        "redacted": dict(redactor.counts),
        "dropped": [{"id": identifier, "rule": rule} for identifier, rule in tally.dropped],
    }


def _facts(tally: _Tally, redactor: Redactor) -> StageFacts:
    return {
        "num_documents": tally.num_documents.total(),
        "num_kept": tally.num_kept.total(),
        "num_bytes": tally.num_bytes,
        "num_bytes_kept": tally.num_bytes_kept,
        "num_redacted": redactor.counts.total(),
        **{f"num_{rule}": count for rule, count in sorted(Counter(rule for _, rule in tally.dropped).items())},
    }
