"""From a receipt to training documents: the steps that go on where `verify` ends.

     8 artefact     what the receipt names was released: a statement in the artefacts log, under the same trust
     9 … 13         what `releases.check_release` checks of it: signature, weights, stages, records, sources

Each adapter that took part is followed first, then the model in the same way. `VerificationError` names the step that
failed; its code is `lineage_unknown` for a model that was not made here: there is nothing to follow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from allod.core.digests import hex_of
from allod.core.errors import AllodError, Invalid, VerificationError
from allod.core.files.plain import read_plain_file
from allod.prove.formats.notes import VerifierKey
from allod.prove.receipts.from_log import bundles_of
from allod.prove.releases.model_keys import MAX_PEM_BYTES, ModelPublicKey
from allod.prove.releases.release import CheckedRelease, LoggedRelease, Releases, check_release, read_releases
from allod.prove.tlog.reader import LogRead, Visit, is_signed_by
from allod.prove.trust import Trust
from allod.prove.verify import STEPS, Report, Step, verify

UNKNOWN = "lineage_unknown"
ARTEFACT = "artefact"


@dataclass(frozen=True, slots=True)
class RealmPaths:
    """Where a realm keeps what is followed: the artefacts log, the store of models, the public models key.

    `read` reads that log whole, believed by the key that it is given, as `read_log` does with what else is known of it.
    """

    log: Path
    store: Path
    public_key: Path
    read: Callable[[VerifierKey, Visit], LogRead]


@dataclass(frozen=True, slots=True)
class FollowedModel:
    """One model or adapter of the answer, followed to its sources."""

    release: CheckedRelease
    steps: tuple[Step, ...]


def follow_answer(report: Report, trust: Trust, paths: RealmPaths) -> Iterator[FollowedModel]:
    """Follow each adapter that took part in a verified receipt's answer, then the model.

    Raises VerificationError with the step, whose code is `lineage_unknown` where the model was not released here.
    """
    number = len(STEPS) + 1
    with_model = report.statement.predicate.get("model")
    if with_model is None:
        raise _failure("no model took part", number)
    digests = (*with_model["adapters"], with_model["digest"])
    try:
        key = _artefacts_key(report, trust, paths.log)
        releases = read_releases(partial(paths.read, key))
    except Invalid as error:
        if error.code == "no_log":
            raise _not_released(digests[0], number) from error
        raise _failure(error.message, number) from error
    for digest in digests:
        followed = _follow(digest, releases, key=key, trust=trust, paths=paths, number=number)
        number += len(followed.steps)
        yield followed


def _follow(
    digest: str, releases: Releases, *, key: VerifierKey, trust: Trust, paths: RealmPaths, number: int
) -> FollowedModel:
    logged = releases.of(digest)
    if logged is None:
        raise _not_released(digest, number)
    step = Step(number, ARTEFACT, _check_included(logged, releases, key=key, trust=trust, paths=paths, number=number))
    release = check_release(
        paths.store / hex_of(digest),
        logged.artefact,
        _models_key(paths, number),
        trainings=releases.trainings,
        first_step=number + 1,
    )
    return FollowedModel(release, (step, *release.steps))


def _models_key(paths: RealmPaths, number: int) -> ModelPublicKey:
    """Read only where a release is checked against it: a realm that released nothing has none."""
    try:
        return ModelPublicKey.parse(read_plain_file(paths.public_key, limit_bytes=MAX_PEM_BYTES))
    except Invalid as error:
        raise _failure(error.message, number) from error


def _check_included(
    logged: LoggedRelease, releases: Releases, *, key: VerifierKey, trust: Trust, paths: RealmPaths, number: int
) -> str:
    """The release's own bundle, verified as a stranger's would be: its log, its witnesses, its entry in the tree."""
    try:
        (bundle,) = bundles_of(paths.log, key, releases.read, [logged.entry])
        report = verify(bundle, trust)
    except AllodError as error:
        raise _failure(error.message, number) from error
    return f"{logged.artefact.id}, entry {report.index} of {report.head.size} in {report.head.origin}"


def _artefacts_key(report: Report, trust: Trust, log: Path) -> VerifierKey:
    """The key of the artefacts log of the realm whose receipt it is, among those that are trusted.

    Each gateway of a realm has such a log, all of one name: it is the key that signed this one.
    """
    origin = f"{report.head.origin.partition('/')[0]}/artefacts"
    keys = [key for key in trust.logs if key.name == origin]
    if not keys:
        raise Invalid(f"the trust file has no key of the log {origin}", code="no_trusted_key")
    return next((key for key in keys if is_signed_by(log, key)), keys[0])


def _not_released(digest: str, number: int) -> VerificationError:
    message = f"{digest} was not released here: its training is not known"
    return VerificationError(message, step=number, name=ARTEFACT, code=UNKNOWN)


def _failure(message: str, number: int) -> VerificationError:
    return VerificationError(message, step=number, name=ARTEFACT)
