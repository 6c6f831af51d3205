"""Released models: read from the artefacts log, and a release's folder checked against what the log says of it.

    1 signature    model.sig is the one that the log names; the realm's key signed exactly the files that are here
    2 weights      the file that is served has the digest that the log names
    3 stages       each stage's manifest is a leaf of the log, and every derivation follows from those before it
    4 records      what is kept of the stages is what they made: sources, documents, evaluation
    5 sources      each source says its licence, jurisdiction and origin

`VerificationError` is the only error that leaves `check_release`.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from allod.core.digests import digest_of_bytes, digest_of_hex, hex_of
from allod.core.errors import Invalid, VerificationError
from allod.core.files.plain import read_plain_file
from allod.core.stages import DOCUMENTS_FILE, EVALUATION_FILE, INDEX_FILE, SOURCE, SOURCES_FILE
from allod.core.statements.receipt import check_statement
from allod.core.statements.training import (
    ARTEFACT,
    FILES,
    LINEAGE,
    MANIFEST,
    TRAININGS,
    WEIGHTS_FILES,
    ArtefactStatement,
    check_artefact_statement,
)
from allod.prove.releases.lineage import MAX_LIST_BYTES, Chain, ChainStage, chain_of, check_artefact, read_stage
from allod.prove.releases.model_keys import ModelPublicKey
from allod.prove.releases.model_signing import MAX_SIGNATURE_BYTES, SIGNATURE_FILE, verify_folder
from allod.prove.tlog.reader import LogRead, Read
from allod.prove.verify import Step

STEPS = ("signature", "weights", "stages", "records", "sources")
DOCUMENT_FILES = {"passport": "passport.json", "bom": "bom.cdx.json", "summary": "summary.json"}


@dataclass(frozen=True, slots=True)
class LoggedRelease:
    """A release's statement and the number of its entry in the log."""

    entry: int
    artefact: ArtefactStatement


@dataclass(frozen=True, slots=True)
class Releases:
    """Every release, oldest first; the digests of all training statements; and the tree that they were read from."""

    releases: tuple[LoggedRelease, ...]
    trainings: frozenset[str]
    read: LogRead

    def newest(self, name: str) -> LoggedRelease | None:
        """What that name stands for now."""
        return next((release for release in reversed(self.releases) if release.artefact.name == name), None)

    def of(self, digest: str) -> LoggedRelease | None:
        """The newest release of the file with this digest (`sha256:<hex>`)."""
        return next(
            (release for release in reversed(self.releases) if release.artefact.artefact_digest == digest), None
        )


@dataclass(frozen=True, slots=True)
class CheckedRelease:
    """A release that holds in every step. `files` are its signed files and their SHA-256 (hex)."""

    folder: Path
    artefact: ArtefactStatement
    chain: Chain
    files: dict[str, str]
    steps: tuple[Step, ...]

    @property
    def weights(self) -> Path:
        """The file that is served."""
        return self.folder / WEIGHTS_FILES[self.artefact.kind]


def read_releases(read: Read) -> Releases:
    """The releases of the log that `read` reads.

    Raises what `read` raises, and Invalid (`bad_statement`) for an entry that nobody can read.
    """
    releases: list[LoggedRelease] = []
    trainings: set[str] = set()

    def see(number: int, entry: bytes) -> None:
        kind = check_statement(entry).kind
        if kind == ARTEFACT:
            releases.append(LoggedRelease(number, check_artefact_statement(entry)))
        elif kind in TRAININGS:
            trainings.add(digest_of_bytes(entry))

    log_read = read(see)
    return Releases(tuple(releases), frozenset(trainings), log_read)


def check_release(
    folder: Path,
    artefact: ArtefactStatement,
    public_key: ModelPublicKey,
    *,
    trainings: Collection[str],
    first_step: int = 1,
) -> CheckedRelease:
    """Check all that `folder` holds against `artefact`, a statement of the log, and `trainings`, the digests of the
    log's training statements. Raises VerificationError; its steps are numbered from `first_step`.
    """
    steps: list[Step] = []

    @contextmanager
    def step() -> Iterator[None]:
        number, name = first_step + len(steps), STEPS[len(steps)]
        try:
            yield
        except (Invalid, VerificationError, OSError) as error:
            message = str(error) if isinstance(error, OSError) else error.message
            raise VerificationError(message, step=number, name=name) from error

    def note(detail: str) -> None:
        steps.append(Step(first_step + len(steps), STEPS[len(steps)], detail))

    with step():
        files = _check_signature(folder, artefact, public_key)
        note(f"{len(files)} files, signed by the models key {public_key.hint[:16]}")
    with step():
        _check_weights(artefact, files)
        note(f"{artefact.name} {artefact.artefact_digest}")
    with step():
        chain = read_chain(folder)
        check_artefact(chain, artefact)
        _check_logged(chain, trainings)
        note(" → ".join(stage.name for stage in chain.stages) + f", {chain.root}")
    with step():
        num_records = _check_records(chain, files)
        _check_evaluation(folder, chain)
        note(f"{num_records} files are what their stages made")
    with step():
        _check_sources(folder, chain)
        note(", ".join(f"{source['name']} ({source['licence']}, {source['jurisdiction']})" for source in chain.sources))
    return CheckedRelease(folder, artefact, chain, files, tuple(steps))


def read_chain(folder: Path) -> Chain:
    """The chain of stages kept in a release's folder. Raises Invalid (`bad_lineage`), (`bad_folder`)."""
    lineage = folder / LINEAGE
    if lineage.is_symlink() or not lineage.is_dir():
        raise Invalid("the release holds no lineage", code="bad_lineage")
    return chain_of(read_stage_folder(path) for path in sorted(lineage.iterdir()))


def read_stage_folder(folder: Path) -> ChainStage:
    """A stage from the manifest and the list of files in its folder, which must have its name. Raises Invalid."""
    manifest = read_plain_file(folder / MANIFEST, limit_bytes=MAX_LIST_BYTES)
    stage = read_stage(manifest, read_plain_file(folder / FILES, limit_bytes=MAX_LIST_BYTES))
    if stage.name != folder.name:
        raise Invalid(f"the folder {folder.name} holds the stage {stage.name}", code="bad_lineage")
    return stage


def _check_signature(folder: Path, artefact: ArtefactStatement, public_key: ModelPublicKey) -> dict[str, str]:
    signature = read_plain_file(folder / SIGNATURE_FILE, limit_bytes=MAX_SIGNATURE_BYTES)
    if digest_of_bytes(signature) != artefact.predicate["signature"]:
        raise Invalid(f"{SIGNATURE_FILE} is not the signature that the log names")
    return dict(verify_folder(folder, signature, public_key))


def _check_weights(artefact: ArtefactStatement, files: dict[str, str]) -> None:
    expected = {WEIGHTS_FILES[artefact.kind]: artefact.artefact_digest}
    expected |= {file: artefact.predicate[what] for what, file in DOCUMENT_FILES.items()}
    for name, digest in expected.items():
        if files.get(name) != hex_of(digest):
            raise Invalid(f"{name} is not the one that the log names")


def _check_logged(chain: Chain, trainings: Collection[str]) -> None:
    for stage in chain.stages:
        if stage.statement.digest not in trainings:
            raise Invalid(f"the manifest of {stage.name} is no leaf of the artefacts log")


def _check_records(chain: Chain, files: dict[str, str]) -> int:
    """Compare every record with its stage's list; the weights and the safetensors set with the export's."""
    num_records = 0
    for name, sha256 in files.items():
        parts = name.split("/")
        if parts[0] == LINEAGE and len(parts) > 2:
            stage, made = chain.stage(parts[1]), "/".join(parts[2:])
            if made in (MANIFEST, FILES):
                continue
        elif parts[0] == "model" and len(parts) > 1:
            stage, made = chain.export, "/".join(parts[1:])
        else:
            continue
        listed = stage.files.get(made)
        if listed is None or listed.sha256 != sha256:
            raise Invalid(f"{name} is not what the stage {stage.name} made")
        num_records += 1
    for record in (SOURCES_FILE, INDEX_FILE, DOCUMENTS_FILE, EVALUATION_FILE):
        for stage_name in chain.stages_that_keep(record):
            if f"{LINEAGE}/{stage_name}/{record}" not in files:
                raise Invalid(f"{stage_name}/{record} is missing")
    return num_records


def _check_evaluation(folder: Path, chain: Chain) -> None:
    """The evaluation that is kept must be of the weights that were learnt last."""
    (stage,) = chain.stages_that_keep(EVALUATION_FILE)
    data = read_plain_file(folder / LINEAGE / stage / EVALUATION_FILE, limit_bytes=MAX_LIST_BYTES)
    try:
        evaluated = json.loads(data)["weights"]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise Invalid("evaluation.json does not say which weights it is of") from error
    learnt = chain.learnt.files.get(chain.learnt.row.weights)
    if learnt is None or evaluated != digest_of_hex(learnt.sha256):
        raise Invalid("the evaluation is of other weights than those that were learnt last")


def _check_sources(folder: Path, chain: Chain) -> None:
    """The manifest and the first stage's own record must say the same of each source, and say it all."""
    data = read_plain_file(folder / LINEAGE / SOURCE.name / SOURCES_FILE, limit_bytes=MAX_LIST_BYTES)
    try:
        recorded = {row["name"]: row for row in json.loads(data)}
        for source in chain.sources:
            row = recorded.pop(source["name"])
            said = [(str(source[field]), str(row[field])) for field in ("licence", "jurisdiction", "origin")]
            same_content = source["sha256"] == digest_of_hex(hex_of(str(row["sha256"])))
            if not same_content:
                raise Invalid(f"sources.json has other content of the source {source['name']}")
            if not all(left and left == right for left, right in said):
                raise Invalid(f"the source {source['name']} does not say its licence, jurisdiction and origin")
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise Invalid("sources.json does not list the sources that went in") from error
    if recorded:
        raise Invalid(f"sources.json lists {min(recorded)}, which the manifest does not")
