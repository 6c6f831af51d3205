"""Trust: the logs, witnesses and quorum that a verifier believes, in the C2SP tlog-policy format."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from allod.core.errors import Invalid
from allod.prove.formats.notes import ED25519, ED25519_COSIGNATURE, MLDSA44_COSIGNATURE, VerifierKey

MAX_TEXT = 1024 * 1024
MAX_LINES_OF_A_KIND = 256
_FORBIDDEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class Group:
    """Witnesses a tree head when `needed` of its members do."""

    needed: int
    members: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Trust:
    """What a verifier believes. `quorum` names a witness or a group, or is None where no witness is required."""

    logs: tuple[VerifierKey, ...]
    witnesses: Mapping[str, VerifierKey] = field(default_factory=dict)
    groups: Mapping[str, Group] = field(default_factory=dict)
    quorum: str | None = None

    def is_met_by(self, cosigned: Callable[[str], bool]) -> bool:
        """Whether the witnesses for which `cosigned(name)` holds make the quorum."""
        if self.quorum is None:
            return True
        met = {name: cosigned(name) for name in self.witnesses}
        for name, group in self.groups.items():  # members come before their group, so one pass is enough
            met[name] = sum(met[member] for member in group.members) >= group.needed
        return met[self.quorum]

    @classmethod
    def parse(cls, text: str) -> Trust:
        """Read a policy file. Raises Invalid with the number of the line that is wrong."""
        if len(text) > MAX_TEXT or _FORBIDDEN.search(text):
            raise Invalid("the trust file is too long or has control characters", code="bad_trust")
        return _TrustReader().read(text)


class _TrustReader:
    def __init__(self) -> None:
        self.logs: dict[bytes, VerifierKey] = {}
        self.witnesses: dict[str, VerifierKey] = {}
        self.groups: dict[str, Group] = {}
        self.members: set[str] = set()
        self.quorums: list[str] = []

    def read(self, text: str) -> Trust:
        lines = {"log": self._log, "witness": self._witness, "group": self._group, "quorum": self._quorum}
        for number, line in enumerate(text.split("\n"), start=1):
            words = re.findall(r"[^ \t]+", line)
            if not words or words[0].startswith("#"):
                continue
            try:
                if words[0] not in lines:
                    raise Invalid(f"unknown word {words[0]!r}")
                lines[words[0]](words[1:])
            except Invalid as error:
                raise Invalid(f"trust file, line {number}: {error.message}", code="bad_trust") from error
        if len(self.quorums) != 1:
            raise Invalid("a trust file has exactly one quorum line", code="bad_trust", hint="write `quorum none`")
        if max(len(self.logs), len(self.witnesses), len(self.groups)) > MAX_LINES_OF_A_KIND:
            raise Invalid("the trust file names too many", code="bad_trust")
        quorum = None if self.quorums[0] == "none" else self.quorums[0]
        return Trust(tuple(self.logs.values()), self.witnesses, self.groups, quorum)

    def _log(self, words: Sequence[str]) -> None:
        key = self._key(words, ED25519)
        if key.public in self.logs:
            raise Invalid("this log's key is there already")
        self.logs[key.public] = key

    def _witness(self, words: Sequence[str]) -> None:
        name = self._new_name(words)
        key = self._key(words[1:], ED25519_COSIGNATURE, MLDSA44_COSIGNATURE)
        if any(key.public == other.public for other in self.witnesses.values()):
            raise Invalid("this witness's key is there already")
        self.witnesses[name] = key

    def _group(self, words: Sequence[str]) -> None:
        name, members = self._new_name(words), tuple(words[2:])
        if not members:
            raise Invalid("a group has a threshold and at least one member")
        for member in members:
            if member in self.members or not self._is_known(member):
                raise Invalid(f"{member!r} is not known above, or is a member already")
            self.members.add(member)
        needed = {"all": str(len(members)), "any": "1"}.get(words[1], words[1])
        if not re.fullmatch("[1-9][0-9]{0,3}", needed) or int(needed) > len(members):
            raise Invalid("a threshold is `all`, `any` or a number up to that of the members")
        self.groups[name] = Group(int(needed), members)

    def _quorum(self, words: Sequence[str]) -> None:
        if len(words) != 1 or not (words[0] == "none" or self._is_known(words[0])):
            raise Invalid("a quorum is one name known above, or `none`")
        self.quorums.append(words[0])

    def _key(self, words: Sequence[str], *kinds: int) -> VerifierKey:
        if not 1 <= len(words) <= 2:
            raise Invalid("a verifier key, then at most an address")
        key = VerifierKey.parse(words[0])
        if key.kind not in kinds:
            raise Invalid(f"{key.name}: a key of the wrong kind")
        return key

    def _new_name(self, words: Sequence[str]) -> str:
        if not words or words[0] == "none" or self._is_known(words[0]):
            raise Invalid("a name of its own is needed")
        return words[0]

    def _is_known(self, name: str) -> bool:
        return name in self.witnesses or name in self.groups


def trust_text(*logs: VerifierKey) -> str:
    """The trust file of a realm that has no witnesses yet."""
    return "".join(f"log {key}\n" for key in logs) + "quorum none\n"
