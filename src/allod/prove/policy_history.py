"""The artefacts log's policies: which was in force when, read from the log and believed for its key alone.

The newest policy statement says what is in force. So a change is one append: before it the old policy is in force,
after it the new one, and there is nothing between.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from allod.core.errors import Invalid
from allod.core.statements.policy import POLICY, PolicyVersion, check_policy_statement, policy_statement
from allod.core.statements.receipt import check_statement
from allod.prove.tlog.log import Entry, Log
from allod.prove.tlog.reader import LogRead, Read


@dataclass(frozen=True, slots=True)
class LoggedVersion:
    """A policy's version and the number of its entry in the log."""

    entry: int
    version: PolicyVersion


@dataclass(frozen=True, slots=True)
class PolicyHistory:
    """Every version, oldest first, and the tree that they were read from."""

    versions: tuple[LoggedVersion, ...]
    read: LogRead

    @property
    def newest(self) -> LoggedVersion | None:
        """What is in force now."""
        return self.versions[-1] if self.versions else None

    def at(self, time_ms: int) -> LoggedVersion | None:
        """What was in force then, by the clock of the machine that logged it."""
        begun = [logged for logged in self.versions if logged.version.at_ms <= time_ms]
        return begun[-1] if begun else None

    def versions_during(self, since_ms: int, until_ms: int) -> list[LoggedVersion]:
        """Everything that was in force at some moment of that time, oldest first."""
        first = self.at(since_ms)
        later = [logged for logged in self.versions if since_ms < logged.version.at_ms <= until_ms]
        return [first, *later] if first else later


def read_history(read: Read) -> PolicyHistory:
    """The policies of the log that `read` reads.

    Raises what `read` raises, and Invalid (`bad_history`) where versions do not follow from one another.
    """
    versions: list[LoggedVersion] = []

    def see(number: int, entry: bytes) -> None:
        if check_statement(entry).kind == POLICY:
            version = check_policy_statement(entry)
            _check_follows(versions, version)
            versions.append(LoggedVersion(number, version))

    log_read = read(see)
    return PolicyHistory(tuple(versions), log_read)


def append_version(log: Log, history: PolicyHistory, version: PolicyVersion) -> LoggedVersion:
    """Append the version that follows `history`, which was read since `log` was opened. Raises Invalid
    (`bad_history`)."""
    _check_follows(history.versions, version)
    appended = log.append([Entry(policy_statement(version), version.id)])
    return LoggedVersion(appended.leaf, version)


def _check_follows(before: Sequence[LoggedVersion], version: PolicyVersion) -> None:
    last = before[-1].version if before else None
    number, digest, at_ms = (last.version, last.digest, last.at_ms) if last else (0, None, 0)
    if version.version != number + 1 or version.previous != digest or version.at_ms < at_ms:
        raise Invalid(f"policy version {version.version} does not follow version {number}", code="bad_history")
