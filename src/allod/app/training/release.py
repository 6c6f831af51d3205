"""The end of a run: everything is checked once more, then signed, put into the store, and logged.

    1 check    every manifest, file and link of the chain; the evaluation is of the weights that are exported
    2 render   passport, bill of materials and public summary, from the manifests alone
    3 sign     the folder as a whole, and read it back as a stranger would
    4 store    by one rename: the whole release, or nothing
    5 log      the release's statement; its stages' manifests are leaves already, or it is refused: with that, and not
               before, it has a name

Killed anywhere, the next try completes it: what is in the store already is not made again but verified.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

from allod.app.artefacts.log import ArtefactsLog
from allod.app.artefacts.release_log import ReleaseLog
from allod.app.gateway.model_choice import AUTO, ECHO, is_file_name
from allod.app.home import Home, nation_of
from allod.core.canonical import JsonValue, check_canonical
from allod.core.digests import digest_of_bytes, digest_of_hex, hex_of
from allod.core.errors import Invalid
from allod.core.files.plain import read_plain_file
from allod.core.files.whole import write_whole
from allod.core.labels import Label
from allod.core.stages import (
    ADAPTER_STAGES,
    DOCUMENTS_FILE,
    EVALUATION_FILE,
    MODEL_STAGES,
    REPORT_FILE,
    ROWS,
    SOURCE,
    SOURCES_FILE,
)
from allod.core.statements.training import (
    FILES,
    LINEAGE,
    MANIFEST,
    WEIGHTS_FILES,
    TrainingStatement,
    artefact_statement,
    check_artefact_statement,
)
from allod.model.gguf.header import GgufHeader, read_header
from allod.model.releases.bom import BOM_FILE, bom
from allod.model.releases.facts import ReleaseFacts, SourceUse
from allod.model.releases.passport import PASSPORT_FILE, passport_of, read_passport
from allod.model.releases.records import SourceRecord, read_dropped, read_json, read_records, read_sources
from allod.model.releases.released import (
    MODEL_SET,
    check_model_set,
    check_template,
    copy_in,
    install_release,
    is_of_model_set,
    write_in,
)
from allod.model.releases.summary import SUMMARY_FILE, SUMMARY_TEXT_FILE, summary, summary_text
from allod.model.store import Progress, Store
from allod.prove.releases.lineage import Chain, ChainStage, chain_of, rows_of
from allod.prove.releases.model_keys import ModelKey, ModelPublicKey, create_model_key, load_model_key
from allod.prove.releases.model_signing import MAX_SIGNATURE_BYTES, SIGNATURE_FILE, sign_folder
from allod.prove.releases.release import (
    DOCUMENT_FILES,
    LoggedRelease,
    check_release,
    read_chain,
    read_stage_folder,
)
from allod.settings.files import load_catalogue
from allod.settings.tree import Settings
from allod.train.outputs import check_files
from allod.train.recipe import Source
from allod.train.sources.licences import check_licence


@dataclass(frozen=True, slots=True)
class NewRelease:
    """A release: `digest` is of the file that is served, `entry` the number of its statement in the log."""

    name: str
    kind: str
    digest: str
    root: str
    folder: Path
    statement: str
    entry: int


def release(settings: Settings, run_folder: Path, *, now_ms: int, report: Progress, last_stage: str = "") -> NewRelease:
    """Release what the run in `run_folder` made. Doing it again changes nothing. `last_stage` says which of two
    exports is meant where a folder has both.

    Raises Invalid (`bad_lineage`, `stage_changed`, `stage_unlogged`, `not_evaluated`, `licence_refused`, `model_name`)
    for a run that must not be released, VerificationError where a release in the store is not what was signed, and
    Unavailable (`log_locked`, `store_unusable`) for what may work later.
    """
    report("checking the run", 0, 0)
    run = _FinishedRun(run_folder, last_stage)
    _check_name(run.name)
    log = ReleaseLog(ArtefactsLog(settings))
    log.check_leaves(stage.statement for stage in run.chain.stages)
    target = Home(settings.home).store / hex_of(run.digest)
    key = models_key(settings)
    if not target.exists():
        report("signing the release", 0, 0)
        _make(settings, run, target, key, now_ms=now_ms)
    report("verifying the release", 0, 0)
    kept = _Kept(settings, target, now_ms=now_ms)
    if (kept.name, kept.chain.root) != (run.name, run.chain.root):
        raise Invalid(
            f"the same file is released as {kept.name} already", code="model_name", hint="give the recipe that name"
        )
    kept.check(key.public)
    logged = log.append(run.digest, kept.stages(), kept.statement_beside)
    artefact = logged.artefact
    return NewRelease(
        artefact.name, artefact.kind, artefact.artefact_digest, artefact.derivation, target, artefact.id, logged.entry
    )


def models_key(settings: Settings) -> ModelKey:
    """The realm's key for models, made on first use; its public half lies beside it as `models.pub`."""
    home = Home(settings.home)
    if not home.models_key.exists():
        create_model_key(home.models_key)
    key = load_model_key(home.models_key)
    if not home.models_pub.exists() or home.models_pub.read_bytes() != key.public.pem:
        write_whole(home.models_pub, key.public.pem.decode())
    return key


class _FinishedRun:
    """A finished run, read and checked: nothing below believes more of it than this."""

    def __init__(self, folder: Path, last_stage: str) -> None:
        self.folder = folder
        self.chain = chain_of(_stages_behind(folder, last_stage or _last_stage(folder)))
        for stage in self.chain.stages:
            check_files(folder / stage.name, stage.statement.files)
        export = self.chain.export
        self.name = str(export.statement.predicate["parameters"].get("name"))
        self.served = folder / export.name / _file_to_serve(self.chain)
        if self.served.name not in export.files:
            raise Invalid(f"the stage {export.name} made no {self.served.name}", code="bad_lineage")
        self.digest = digest_of_hex(export.files[self.served.name].sha256)
        self.header = _header(self.served, self.chain)
        if self.chain.kind == "model":
            check_model_set(self.served.parent, filter(is_of_model_set, export.files))
        self.sources = _check_licences(folder)
        self.evaluation = _evaluation(folder, self.chain)

    def used(self) -> dict[str, SourceUse]:
        """What of each source was learnt from."""
        used: dict[str, SourceUse] = {}
        (packed,) = self.chain.stages_that_keep(DOCUMENTS_FILE)
        for document in read_records(self.folder / packed / DOCUMENTS_FILE):
            used.setdefault(document.source, SourceUse()).count(document)
        return used

    def count_dropped(self) -> dict[str, int]:
        """How many documents each rule dropped."""
        reports = [
            read_dropped(self.folder / stage / REPORT_FILE) for stage in self.chain.stages_that_keep(REPORT_FILE)
        ]
        return dict(Counter(item.rule for report in reports for item in report.values()))


def _last_stage(folder: Path) -> str:
    lasts = [rows[-1].name for rows in (MODEL_STAGES, ADAPTER_STAGES)]
    found = [name for name in lasts if (folder / name).is_dir()]
    if len(found) != 1:
        raise Invalid(
            "the run is not finished" if not found else "the run has exported a model and an adapter",
            code="run_unfinished",
            hint="run `allod train` with its recipe again",
        )
    return found[0]


def _stages_behind(folder: Path, last: str) -> list[ChainStage]:
    """The last stage and every stage that went into it; what else an earlier recipe left in the folder stays out."""
    found: dict[str, ChainStage] = {}
    wanted = [last]
    while wanted:
        name = wanted.pop()
        if name not in found:
            if name not in ROWS:
                raise Invalid(f"a stage was made from {name!r}, which is none", code="bad_lineage")
            found[name] = read_stage_folder(folder / name)
            wanted += [str(item["name"]) for item in found[name].statement.inputs if "derivation" in item]
    return list(found.values())


def _file_to_serve(chain: Chain) -> str:
    """The last of the quantised files, or f16 where there is none; an adapter's is its only one."""
    if chain.kind == "adapter":
        return WEIGHTS_FILES["adapter"]
    parameters = chain.export.statement.predicate["parameters"]
    kinds = parameters.get("quantise") or ["f16"]
    return f"{parameters.get('name')}-{kinds[-1]}.gguf"


def _header(path: Path, chain: Chain) -> GgufHeader:
    header = read_header(path, is_adapter=chain.kind == "adapter")
    check_template(header)
    if header.derivation != chain.root:
        raise Invalid(f"{path.name} carries the digest of another history", code="bad_lineage")
    return header


def _check_licences(folder: Path) -> tuple[SourceRecord, ...]:
    """The sources, each under terms that permit training."""
    sources = read_sources(folder / SOURCE.name / SOURCES_FILE)
    for source in sources:
        check_licence(Source(source.name, source.kind, source.licence, source.jurisdiction, source.origin, source.date))
    return sources


def _evaluation(folder: Path, chain: Chain) -> Mapping[str, Any]:
    """The evaluation, if it is of the weights that are exported. Raises Invalid (`not_evaluated`)."""
    (stage,) = chain.stages_that_keep(EVALUATION_FILE)
    evaluation = read_json(folder / stage / EVALUATION_FILE)
    learnt = chain.learnt.files.get(chain.learnt.row.weights)
    if not isinstance(evaluation, dict) or learnt is None or evaluation.get("weights") != digest_of_hex(learnt.sha256):
        raise Invalid(
            "the evaluation is not of the weights that were exported: without one nothing is released",
            code="not_evaluated",
        )
    check_canonical(evaluation)
    return evaluation


def _check_name(name: str) -> None:
    """A name leads to one model: none of the catalogue's, and nothing that means a file."""
    taken = {AUTO, ECHO, *(entry.name for entry in load_catalogue())}
    if name in taken or is_file_name(name):
        raise Invalid(
            f"{name!r} cannot be the name of a release: it already means something else",
            code="model_name",
            hint="give the recipe another name",
        )


def _make(settings: Settings, run: _FinishedRun, target: Path, key: ModelKey, *, now_ms: int) -> None:
    """Put the release together beside its target, check it as a stranger would, and move it there."""
    store = Store(target.parent)
    store.sweep()
    with store.workspace() as workspace:
        staged = workspace / "staged"
        staged.mkdir(mode=0o700)
        _copy(run, staged)
        _render(settings, run, staged)
        (staged / SIGNATURE_FILE).write_bytes(sign_folder(staged, key, name=run.name))
        _Kept(settings, staged, now_ms=now_ms).check(key.public)
        install_release(staged, target)


def _copy(run: _FinishedRun, staged: Path) -> None:
    copy_in(run.served, staged / WEIGHTS_FILES[run.chain.kind])
    if run.chain.kind == "model":
        for name in filter(is_of_model_set, run.chain.export.files):
            copy_in(run.served.parent / name, staged / MODEL_SET / name)
    for stage in run.chain.stages:
        for name in (MANIFEST, FILES, *(name for name in stage.row.records if name in stage.files)):
            copy_in(run.folder / stage.name / name, staged / LINEAGE / stage.name / name)


def _render(settings: Settings, run: _FinishedRun, staged: Path) -> None:
    facts = ReleaseFacts(
        name=run.name,
        kind=run.chain.kind,
        digest=run.digest,
        root=run.chain.root,
        publisher=settings.realm.name,
        country=settings.realm.jurisdiction,
        stages=[stage.statement for stage in run.chain.stages],
        sources=run.sources,
        used=run.used(),
        dropped=run.count_dropped(),
        evaluation=run.evaluation,
        architecture=run.header.architecture,
        num_parameters=run.header.num_parameters,
        label=_label(settings, run.chain.stages),
        base=run.chain.base,
    )
    write_in(staged / PASSPORT_FILE, passport_of(facts))
    write_in(staged / BOM_FILE, bom(facts))
    write_in(staged / SUMMARY_FILE, summary(facts))
    text = summary_text(read_json(staged / SUMMARY_FILE))
    write_in(staged / SUMMARY_TEXT_FILE, text.encode())


def _label(settings: Settings, stages: Sequence[ChainStage]) -> dict[str, JsonValue]:
    """Never lower than that of any stage."""
    nation = nation_of(settings)
    try:
        labels = [nation.label(**stage.statement.predicate["label"]) for stage in stages]
    except TypeError as error:
        raise Invalid("a stage's label is none", code="bad_lineage") from error
    return reduce(Label.join, labels).as_json()


class _Kept:
    """A release's folder, and what the log is to say of it: all taken from the folder alone."""

    def __init__(self, settings: Settings, folder: Path, *, now_ms: int) -> None:
        self.folder = folder
        self.chain = read_chain(folder)
        passport = read_passport(self._read(PASSPORT_FILE))
        self.name = passport.name
        digests = {
            what: digest_of_bytes(self._read(name))
            for what, name in {**DOCUMENT_FILES, "signature": SIGNATURE_FILE}.items()
        }
        self._statement = artefact_statement(
            {
                "id": f"artefact_{secrets.token_hex(16)}",
                "at": {"start_ms": now_ms, "end_ms": now_ms},
                "kind": self.chain.kind,
                "name": passport.name,
                "digest": passport.digest,
                "base": self.chain.base["sha256"] if self.chain.base else None,
                "derivation": self.chain.root,
                "stages": rows_of(self.chain),
                "label": _label(settings, self.chain.stages),
                **digests,
            }
        )

    def check(self, public_key: ModelPublicKey) -> None:
        """Verify it as a stranger would. Its stages are about to be logged with it. Raises VerificationError."""
        trainings = {stage.statement.digest for stage in self.chain.stages}
        check_release(self.folder, check_artefact_statement(self._statement), public_key, trainings=trainings)

    def stages(self) -> list[TrainingStatement]:
        """The stages' statements, in their order."""
        return [stage.statement for stage in self.chain.stages]

    def statement_beside(self, found: LoggedRelease | None) -> bytes | None:
        """The statement to log; None where `found` is of this very folder."""
        fresh = check_artefact_statement(self._statement).predicate
        same = found is not None and found.artefact.predicate["signature"] == fresh["signature"]
        return None if same else self._statement

    def _read(self, name: str) -> bytes:
        return read_plain_file(self.folder / name, limit_bytes=MAX_SIGNATURE_BYTES)
