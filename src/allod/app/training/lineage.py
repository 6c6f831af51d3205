"""From a released model back to its sources, and from a document forward to the models that learnt from it."""

from __future__ import annotations

from codecs import BOM_UTF8
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from allod.app.artefacts.released_models import ReleasedModel, ReleasedModels
from allod.core.digests import hex_of, is_hex, sha256_hex
from allod.core.errors import AllodError, Invalid
from allod.core.files.plain import read_plain_file
from allod.core.stages import DOCUMENTS_FILE, INDEX_FILE, REPORT_FILE, SOURCE, SOURCES_FILE
from allod.core.statements.training import LINEAGE, ArtefactStatement, TrainingStatement
from allod.model.releases.facts import SourceUse
from allod.model.releases.records import (
    TRAIN,
    VALIDATION,
    DocumentRecord,
    DroppedDocument,
    SourceRecord,
    read_dropped,
    read_records,
    read_sources,
)

LEARNT, HELD_OUT, LEFT_OUT, UNKNOWN = "learnt from", "held out", "left out", "unknown"
MAX_DOCUMENT_BYTES = 32 << 20


@dataclass(frozen=True, slots=True)
class WalkedSource:
    """A source, and what became of its documents: learnt from, held out, and dropped by stage."""

    source: SourceRecord
    use: SourceUse
    dropped: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Walk:
    """Everything behind a released model that was checked."""

    model: ReleasedModel
    stages: tuple[TrainingStatement, ...]
    sources: tuple[WalkedSource, ...]


@dataclass(frozen=True, slots=True)
class Trace:
    """What became of one document on its way to one model. `how` is `learnt from`, `held out`, `left out` or, for
    a model that could not be looked into, `unknown`; `stage` and `rule` say where and why it was left out, `instead`
    which document, much the same, stayed; `reason` why nothing is known, `base` that it came with the model that this
    one adapts."""

    model: str
    digest: str
    how: str
    document: str = ""
    stage: str = ""
    rule: str = ""
    instead: str = ""
    reason: str = ""
    base: str = ""


def walk(model: ReleasedModel) -> Walk:
    """Follow a checked release back through its stages to its sources. Raises Invalid (`bad_record`)."""
    records = _Records(model)
    used: dict[str, SourceUse] = {}
    for document in records.read_packed():
        used.setdefault(document.source, SourceUse()).count(document)
    dropped: dict[str, Counter[str]] = {}
    for stage, ids in records.read_dropped().items():
        for id_ in ids:
            dropped.setdefault(id_.partition("/")[0], Counter())[stage] += 1
    sources = tuple(
        WalkedSource(source, used.get(source.name, SourceUse()), dict(dropped.get(source.name, {})))
        for source in records.sources()
    )
    return Walk(model, tuple(stage.statement for stage in model.checked.chain.stages), sources)


def trace_document(released: ReleasedModels, word: str) -> list[Trace]:
    """What became of a document in every release of the log, superseded ones included.

    `word` is a document's id, the SHA-256 of its text, or a file that holds its text. A model that cannot be looked
    into is listed as unknown: that nothing is found there shows nothing. Raises Invalid for a log that is damaged.
    """
    wanted = _digests_wanted(word)
    traces: dict[str, list[Trace]] = {}
    for artefact in _every(released):
        digest = artefact.artefact_digest
        try:
            own = _Records(released.check(artefact)).trace(word, wanted)
        except AllodError as error:
            own = [Trace(artefact.name, digest, UNKNOWN, reason=error.message)]
        traces[digest] = own
    for artefact in _every(released):
        through = [trace for trace in traces.get(artefact.base or "", []) if trace.how in (LEARNT, UNKNOWN)]
        traces[artefact.artefact_digest] += [
            Trace(artefact.name, artefact.artefact_digest, trace.how, trace.document, base=trace.model)
            for trace in through
        ]
    return [trace for found in traces.values() for trace in found]


def _every(released: ReleasedModels) -> Sequence[ArtefactStatement]:
    """One statement of each released file, the newest, in the order of the log."""
    found = released.releases.releases if released.releases else ()
    return list({item.artefact.artefact_digest: item.artefact for item in found}.values())


def _digests_wanted(word: str) -> frozenset[str]:
    """SHA-256 (hex) of the document that is meant; none where it is meant by its id alone.

    A file counts with and without the byte order mark that some editors put before it, and some readers take away.
    """
    if is_hex(hex_of(word)):
        return frozenset({hex_of(word)})
    path = Path(word)
    if not path.is_file():
        return frozenset()
    data = read_plain_file(path, limit_bytes=MAX_DOCUMENT_BYTES)
    try:
        data.decode()
    except UnicodeDecodeError as error:
        raise Invalid(f"{word} is not text in UTF-8", code="not_text", hint="give the document's id") from error
    return frozenset({sha256_hex(data), sha256_hex(data.removeprefix(BOM_UTF8))})


def _prefer_learnt(before: str | None, now: str) -> str:
    """Of a document that is listed twice: it was held out only if it never was learnt from."""
    return VALIDATION if before in (None, VALIDATION) and now == VALIDATION else TRAIN


class _Records:
    """What a checked release keeps of its stages."""

    def __init__(self, model: ReleasedModel) -> None:
        self._artefact = model.artefact
        self._lineage = model.checked.folder / LINEAGE
        self._chain = model.checked.chain

    def sources(self) -> tuple[SourceRecord, ...]:
        """Where documents came from."""
        return read_sources(self._lineage / SOURCE.name / SOURCES_FILE)

    def read_packed(self) -> Iterator[DocumentRecord]:
        """What was learnt from or held out."""
        (packed,) = self._chain.stages_that_keep(DOCUMENTS_FILE)
        return read_records(self._lineage / packed / DOCUMENTS_FILE)

    def read_dropped(self) -> dict[str, Mapping[str, DroppedDocument]]:
        """By stage, what it dropped, and by which rule; nothing where no report of it was kept."""
        reports = {stage: self._lineage / stage / REPORT_FILE for stage in self._chain.stages_that_keep(REPORT_FILE)}
        return {stage: read_dropped(report) for stage, report in reports.items() if report.exists()}

    def trace(self, word: str, digests: Collection[str]) -> list[Trace]:
        """What became of every document with this id or one of these digests, in whichever record it stands."""
        index = read_records(self._lineage / SOURCE.name / INDEX_FILE)
        wanted = {record.id for record in index if record.id == word or record.sha256 in digests}
        splits: dict[str, str] = {}
        for document in self.read_packed():
            if document.id in wanted or document.id == word or document.sha256 in digests:
                wanted.add(document.id)
                splits[document.id] = _prefer_learnt(splits.get(document.id), document.split)
        rules = self.read_dropped()
        return [self._trace(id_, splits.get(id_), rules) for id_ in sorted(wanted)]

    def _trace(self, id_: str, split: str | None, rules: Mapping[str, Mapping[str, DroppedDocument]]) -> Trace:
        name, digest = self._artefact.name, self._artefact.artefact_digest
        if split is not None:
            return Trace(name, digest, HELD_OUT if split == VALIDATION else LEARNT, id_)
        for stage, dropped in rules.items():
            if id_ in dropped:
                return Trace(name, digest, LEFT_OUT, id_, stage, dropped[id_].rule, dropped[id_].instead)
        return Trace(name, digest, LEFT_OUT, id_, "a stage that keeps no report")
