"""The realm's policies: their texts in a store, and the artefacts log that says which of them is in force.

ALLOD_HOME/policies/<hex>.cedar        a policy's text        <hex>.cedarschema   the words it was checked against
ALLOD_HOME/policies/<hex>.json         its statement with a proof, for whoever asks; made after it came into force

The newest policy statement in the artefacts log says what is in force.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path

from allod.app.artefacts.log import ArtefactsLog, Stamp
from allod.app.home import nation_of
from allod.core.canonical import digest_of
from allod.core.digests import digest_of_bytes, hex_of
from allod.core.errors import AllodError, Denied, Invalid, Unavailable
from allod.core.files.secret import make_private_directory
from allod.core.files.whole import sync, write_whole
from allod.core.nations.nation import Nation
from allod.core.statements.policy import PolicyVersion, nation_digest
from allod.govern.policy.check import PolicyReport, check_policy
from allod.govern.policy.decision import Policy, default_text, load_policy
from allod.prove.policy_history import LoggedVersion, PolicyHistory, append_version, read_history
from allod.prove.receipts.from_log import bundle_for
from allod.settings.tree import Settings

MAX_POLICY_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class StoredPolicy:
    """A policy of the store, whose digest has been checked."""

    text: str
    schema: str


class Policies:
    """The policies in a realm's artefacts log, read with the words of `nation`. For one thread at a time."""

    def __init__(self, log: ArtefactsLog, nation: Nation) -> None:
        self._log = log
        self._nation = nation
        self._store = log.home / "policies"
        self._stamp: Stamp = None

    def current(self) -> Policy:
        """The policy in force, if every link from the log's key to its text holds.

        Raises Unavailable (`policy_unavailable`) with the reason: without a policy nothing is permitted.
        """
        stamp = self._log.stamp()
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
        self._log.check_may_begin()
        if not self._log.is_begun or not self.history().versions:
            return None
        return self.current()

    def has_changed(self) -> bool:
        """Whether `current` may say something else than it last did. Costs one look at a file's status."""
        stamp = self._log.stamp()
        return stamp is None or stamp != self._stamp

    def history(self) -> PolicyHistory:
        """Every version, oldest first.

        Raises Invalid (`no_policy`) in a realm that never had one, and what the log's `read` raises.
        """
        if not self._log.has_history:
            raise Invalid("this realm has no policy yet", code="no_policy", hint="`allod up` makes one")
        return read_history(self._log.read)

    def find_stored(self, digest: str) -> StoredPolicy:
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
        with self._log.open(tries=1) as log:
            self._keep(policy)
            history = read_history(self._log.read)
            before = history.newest.version if history.newest else None
            profile = nation_digest(self._nation)
            if before and (only_first or (before.digest, before.nation_digest) == (policy.digest, profile)):
                return None
            version = PolicyVersion(
                id=f"policy_{secrets.token_hex(16)}",
                version=before.version + 1 if before else 1,
                at_ms=max(now_ms, before.at_ms) if before else now_ms,
                digest=policy.digest,
                previous=before.digest if before else None,
                nation=self._nation.code,
                nation_digest=profile,
                schema=digest_of_bytes(policy.schema.encode()),
                who=who,
                note=note,
            )
            logged = append_version(log, history, version)
            write_whole(self._path(version.digest, "json"), bundle_for(log, version.id).decode())
            return logged

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
        policy = load_policy(self.find_stored(version.digest).text, self._nation)
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

    def _path(self, digest: str, kind: str) -> Path:
        return self._store / f"{hex_of(digest)}.{kind}"


def open_policies(settings: Settings) -> Policies:
    """The policies of the realm that the settings name. Raises Invalid where there is no such nation."""
    return Policies(ArtefactsLog(settings), nation_of(settings))


def check_findings(report: PolicyReport, *, even_so: bool) -> None:
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
        data = file.read(MAX_POLICY_BYTES + 1)
    if len(data) > MAX_POLICY_BYTES:
        raise Invalid(f"{path.name} is longer than {MAX_POLICY_BYTES} bytes", code="too_large")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise Invalid(f"{path.name} is not text", code="not_text") from error
