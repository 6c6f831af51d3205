"""The realm's policies: their texts in a store, and the artefacts log that says which of them is in force.

ALLOD_HOME/policies/<hex>.cedar        a policy's text        <hex>.cedarschema   the words it was checked against
ALLOD_HOME/policies/<hex>.json         its statement with a proof, for whoever asks; made after it came into force
ALLOD_HOME/logs/artefacts              the log; its newest policy statement says what is in force
ALLOD_HOME/keys/artefacts.key          the log's key
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path

from allod.app.artefacts.known_heads import check_log_may_begin, has_history, heads_of_bundles
from allod.core.canonical import digest_of, sha256_hex
from allod.core.errors import AllodError, Denied, Invalid, Unavailable
from allod.core.files.secret import make_private_directory
from allod.core.files.whole import sync, write_whole
from allod.core.nations.nation import Nation
from allod.core.statements.policy import PolicyVersion, nation_digest
from allod.govern.policy.check import Report, check_policy
from allod.govern.policy.decision import Policy, default_text, load_policy
from allod.prove.formats.notes import VerifierKey
from allod.prove.formats.signing_key import SigningKey, load_or_create_signing_key
from allod.prove.formats.tree_head import TreeHead
from allod.prove.policy_history import History, LoggedVersion, append_version, read_history
from allod.prove.tlog.begun import is_begun
from allod.settings.files import load_nation
from allod.settings.tree import Settings

MAX_FILE_BYTES = 1 << 20
Stamp = tuple[int, int, int] | None


@dataclass(frozen=True, slots=True)
class StoredPolicy:
    """A policy of the store, whose digest has been checked."""

    text: str
    schema: str


class Policies:
    """The policies of the realm in `home` whose name is `realm`, read with the words of `nation`.

    For one thread at a time. Keeps the last tree head that it saw: a log that is put back under a running gateway is
    noticed for that alone.
    """

    def __init__(self, home: Path, nation: Nation, *, realm: str) -> None:
        self._home = home
        self._nation = nation
        self._origin = f"{realm}/artefacts"
        self._log = home / "logs" / "artefacts"
        self._key = home / "keys" / "artefacts.key"
        self._store = home / "policies"
        self._seen: TreeHead | None = None
        self._stamp: Stamp = None

    def key(self) -> SigningKey:
        """The artefacts log's key, made on first use. Raises Invalid if it is another log's, or gone."""
        key = load_or_create_signing_key(self._key, self._origin, is_first=not has_history(self._home))
        if key.name != self._origin:
            raise Invalid(
                f"the artefacts log's key is for {key.name}, and the settings say {self._origin}", code="log_origin"
            )
        return key

    def current(self) -> Policy:
        """The policy in force, if every link from the log's key to its text holds.

        Raises Unavailable (`policy_unavailable`) with the reason: without a policy nothing is permitted.
        """
        stamp = self._stamp_now()
        try:
            policy = self._load(self._newest().version)
        except (AllodError, OSError) as error:
            reason = error.message if isinstance(error, AllodError) else str(error)
            raise Unavailable(
                f"no policy can be relied on: {reason}",
                code="policy_unavailable",
                hint=(error.hint if isinstance(error, AllodError) else None) or "allod policy history",
            ) from error
        self._stamp = stamp
        return policy

    def at_start(self) -> Policy | None:
        """What is in force; None in a realm that never had a policy. Writes nothing.

        Raises Unavailable: (`log_gone`), (`policy_unavailable`); Invalid for a log that does not verify.
        """
        check_log_may_begin(self._home)
        if not is_begun(self._log) or not self.history().versions:
            return None
        return self.current()

    def has_changed(self) -> bool:
        """Whether `current` may say something else than it last did. Costs one look at a file's status."""
        stamp = self._stamp_now()
        return stamp is None or stamp != self._stamp

    def history(self) -> History:
        """Every version, oldest first.

        Raises Invalid (`no_policy`) in a realm that never had one, (`log_damaged`) and (`bad_bundle`) for a log that
        does not verify, or was put back, (`key_gone`) where its key is.
        """
        if not has_history(self._home):
            raise Invalid("this realm has no policy yet", code="no_policy", hint="`allod up` makes one")
        verifier = self.key().verifier
        history = read_history(self._log, verifier, self._known_heads(verifier))
        self._seen = history.read.head
        return history

    def stored(self, digest: str) -> StoredPolicy:
        """The policy with this digest. Raises Invalid (`no_such_policy`), (`policy_changed`) if it has another now."""
        try:
            found = StoredPolicy(_read(self._path(digest, "cedar")), _read(self._path(digest, "cedarschema")))
        except FileNotFoundError as error:
            raise Invalid(f"the store has no policy {digest}", code="no_such_policy") from error
        if digest_of({"schema": found.schema, "text": found.text}) != digest:
            raise Invalid(f"the text or the schema of policy {digest} was changed on disk", code="policy_changed")
        return found

    def set(
        self, text: str, *, who: str, now_ms: int, note: str | None = None, even_so: bool = False
    ) -> LoggedVersion | None:
        """Bring a policy into force; None if it is in force already.

        First its text is in the store, then its statement in the log: with that, and not before, it is in force. Its
        bundle is written last. Raises Denied (`policy_refused`) for one that `check_policy` finds errors in, or, not
        `even_so`, warnings; Invalid for what is no policy; Unavailable (`log_locked`) while another is being set.
        """
        check_findings(check_policy(text, self._nation), even_so=even_so)
        return self._set(load_policy(text, self._nation), who=who, note=note, now_ms=now_ms, only_first=False)

    def set_default(self, *, now_ms: int) -> LoggedVersion | None:
        """Bring the built-in policy into force in a realm that never had one; None if it had."""
        policy = load_policy(default_text(), self._nation)
        return self._set(policy, who="allod:first start", note="the built-in policy", now_ms=now_ms, only_first=True)

    def _set(
        self, policy: Policy, *, who: str, note: str | None, now_ms: int, only_first: bool
    ) -> LoggedVersion | None:
        check_log_may_begin(self._home)
        key = self.key()
        self._keep(policy)

        def make(history: History) -> PolicyVersion | None:
            before = history.newest.version if history.newest else None
            profile = nation_digest(self._nation)
            if before and (only_first or (before.digest, before.nation_digest) == (policy.digest, profile)):
                return None
            return PolicyVersion(
                id=f"policy_{secrets.token_hex(16)}",
                version=before.version + 1 if before else 1,
                at_ms=max(now_ms, before.at_ms) if before else now_ms,
                digest=policy.digest,
                previous=before.digest if before else None,
                nation=self._nation.code,
                nation_digest=profile,
                schema=f"sha256:{sha256_hex(policy.schema.encode())}",
                who=who,
                note=note,
            )

        return append_version(self._log, key, self._known_heads(key.verifier), make, self._keep_bundle)

    def _newest(self) -> LoggedVersion:
        newest = self.history().newest
        if newest is None:
            raise Invalid("the artefacts log holds no policy", code="no_policy", hint="allod policy set FILE")
        return newest

    def _load(self, version: PolicyVersion) -> Policy:
        if (version.nation, version.nation_digest) != (self._nation.code, nation_digest(self._nation)):
            raise Invalid(
                f"the nation's profile is not the one that policy version {version.version} was set with",
                code="nation_changed",
                hint="read the policy again with the new words in mind, then `allod policy set` it",
            )
        policy = load_policy(self.stored(version.digest).text, self._nation)
        if policy.digest != version.digest:
            raise Invalid(
                f"policy version {version.version} was checked against another schema",
                code="schema_changed",
                hint="check the policy with `allod policy check`, then `allod policy set` it",
            )
        return policy

    def _keep(self, policy: Policy) -> None:
        make_private_directory(self._store)
        write_whole(self._path(policy.digest, "cedarschema"), policy.schema)
        write_whole(self._path(policy.digest, "cedar"), policy.text)
        sync(self._store)

    def _keep_bundle(self, version: PolicyVersion, bundle: bytes) -> None:
        write_whole(self._path(version.digest, "json"), bundle.decode())

    def _known_heads(self, key: VerifierKey) -> list[TreeHead]:
        """Tree heads that the log has had: that of each bundle, and the last one seen. Raises for a false bundle."""
        heads = [] if self._seen is None else [self._seen]
        return [*heads, *heads_of_bundles(self._home, key)]

    def _path(self, digest: str, kind: str) -> Path:
        return self._store / f"{digest.removeprefix('sha256:')}.{kind}"

    def _stamp_now(self) -> Stamp:
        try:
            status = (self._log / "segment").stat()
        except OSError:
            return None
        return status.st_ino, status.st_size, status.st_mtime_ns


def open_policies(settings: Settings) -> Policies:
    """The policies of the realm that the settings name. Raises Invalid where there is no such nation."""
    return Policies(settings.home, nation_of(settings), realm=settings.realm.name)


def nation_of(settings: Settings) -> Nation:
    """The profile that the realm's labels and policies are written in. Raises Invalid where there is none."""
    return load_nation(settings.realm.nation, home=settings.home)


def check_findings(report: Report, *, even_so: bool) -> None:
    """Raise Denied (`policy_refused`) for what stands against setting the policy: errors always, warnings unless
    `even_so`."""
    against = [finding for finding in report.findings if finding.severity == "error" or not even_so]
    if against:
        hint = "change it; `allod policy check` shows examples"
        if report.is_sound:
            hint = f"{hint}; if it is meant, set it with --even-so"
        raise Denied(
            "the policy is not set: " + "; ".join(f"{finding.severity}: {finding.message}" for finding in against),
            code="policy_refused",
            hint=hint,
        )


def _read(path: Path) -> str:
    with path.open("rb") as file:
        data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise Invalid(f"{path.name} is longer than {MAX_FILE_BYTES} bytes", code="too_large")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise Invalid(f"{path.name} is not text", code="not_text") from error
