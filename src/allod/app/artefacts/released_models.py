"""The realm's released models by name: what the log names, checked from the signature down to the sources.

Nothing is served because a file lies in the store. It is served because the newest statement of its name in the
artefacts log says so, the realm's key signed its folder, and every stage behind it follows from those before it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from allod.app.artefacts.log import ArtefactsLog
from allod.app.artefacts.release_log import ReleaseLog
from allod.app.home import Home
from allod.core.digests import digest_of_hex, hex_of
from allod.core.errors import AllodError, Invalid, VerificationError
from allod.core.files.plain import read_plain_file
from allod.core.statements.training import ArtefactStatement
from allod.model.gguf.header import GgufHeader, read_header
from allod.model.releases.passport import MAX_PASSPORT_BYTES, PASSPORT_FILE, Passport, read_passport
from allod.prove.releases.model_keys import ModelPublicKey
from allod.prove.releases.release import CheckedRelease, Releases, check_release
from allod.settings.tree import Settings


@dataclass(frozen=True, slots=True)
class ReleasedModel:
    """A release that was checked whole, what it declares, and what its file says of itself."""

    checked: CheckedRelease
    passport: Passport
    header: GgufHeader

    @property
    def artefact(self) -> ArtefactStatement:
        """What the log says of it."""
        return self.checked.artefact


class ReleasedModels:
    """Reads the log once, when it is first needed. For one thread at a time; blocks."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._home = Home(settings.home)

    @cached_property
    def releases(self) -> Releases | None:
        """The log's releases; None in a realm that never had an artefacts log. Raises Invalid for a damaged one."""
        return ReleaseLog(ArtefactsLog(self._settings)).releases()

    def newest(self) -> dict[str, ArtefactStatement]:
        """What each name stands for now, in the order of the names. Nothing of it is checked but the log."""
        found = self.releases.releases if self.releases else ()
        return dict(sorted({item.artefact.name: item.artefact for item in found}.items()))

    def find(self, word: str) -> ArtefactStatement | None:
        """The release of that name, or of that digest (`sha256:<hex>` or hex); None where the log has none."""
        if self.releases is None:
            return None
        digest = digest_of_hex(hex_of(word))
        found = self.releases.newest(word) or self.releases.of(digest)
        return found.artefact if found else None

    def adapters_of(self, digest: str) -> list[ArtefactStatement]:
        """The adapters whose base is the file with this digest, by the names that stand for them now."""
        return [release for release in self.newest().values() if release.base == digest]

    def check(self, artefact: ArtefactStatement) -> ReleasedModel:
        """The release, if all of it holds. Raises VerificationError with the step that does not.

        Raises Invalid (`model_missing`) where the store no longer has it, (`no_models_key`) without the realm's key.
        """
        folder = self._home.store / hex_of(artefact.artefact_digest)
        if not folder.is_dir():
            raise Invalid(
                f"the store does not hold {artefact.name} ({artefact.artefact_digest})",
                code="model_missing",
                hint="run `allod train` with its recipe again",
            )
        trainings = self.releases.trainings if self.releases else frozenset()
        checked = check_release(folder, artefact, self._public_key(), trainings=trainings)
        return ReleasedModel(checked, *_passport_and_header(checked))

    def _public_key(self) -> ModelPublicKey:
        try:
            return ModelPublicKey.parse(self._home.models_pub.read_bytes())
        except OSError as error:
            raise Invalid(f"the realm's models key cannot be read ({error.strerror})", code="no_models_key") from error


def _passport_and_header(checked: CheckedRelease) -> tuple[Passport, GgufHeader]:
    """The passport, if it speaks of this release; and the header, if the file passes the gate that all pass."""
    artefact = checked.artefact
    try:
        header = read_header(checked.weights, is_adapter=artefact.kind == "adapter")
        passport = read_passport(read_plain_file(checked.folder / PASSPORT_FILE, limit_bytes=MAX_PASSPORT_BYTES))
        if (passport.name, passport.digest) != (artefact.name, artefact.artefact_digest):
            raise Invalid("the passport is another model's", code="bad_passport")
    except AllodError as error:
        number = len(checked.steps) + 1
        raise VerificationError(error.message, step=number, name="passport", hint=error.hint) from error
    return passport, header
