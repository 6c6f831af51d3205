"""Policy statements: that from now on this policy is in force, as a leaf of the artefacts log (`spec/policy.md`)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from allod.core.canonical import MAX_SAFE_INTEGER, JsonValue, canonical_json, digest_of
from allod.core.digests import DIGEST, hex_of
from allod.core.errors import Invalid
from allod.core.nations.nation import Nation
from allod.core.statements.receipt import STATEMENT_TYPE, check_statement

POLICY = "urn:allod:policy:v1"
MAX_NOTE_CHARACTERS = 256

_TEXT = rf"[^\x00-\x1f\x7f\ud800-\udfff]{{1,{MAX_NOTE_CHARACTERS}}}"
_CODE = r"[a-z0-9-]{1,32}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyVersion:
    """One version of a realm's policy, in force from `at_ms` until the next one's. Digests are `sha256:<hex>`.

    `nation` is the code of the profile that its words belong to, `schema` the digest of the schema it was checked
    against, `previous` the digest of the policy it replaced, `who` is `<way>:<name>`.
    """

    id: str
    version: int
    at_ms: int
    digest: str
    previous: str | None
    nation: str
    nation_digest: str
    schema: str
    who: str
    note: str | None = None


def policy_statement(version: PolicyVersion) -> bytes:
    """The canonical statement. Raises Invalid for what `check_policy_statement` would refuse."""
    statement: dict[str, JsonValue] = {
        "_type": STATEMENT_TYPE,
        "predicateType": POLICY,
        "subject": [{"name": "policy", "digest": {"sha256": hex_of(version.digest)}}],
        "predicate": {
            "id": version.id,
            "at": {"start_ms": version.at_ms, "end_ms": version.at_ms},
            "version": version.version,
            "previous": version.previous,
            "nation": {"code": version.nation, "digest": version.nation_digest},
            "schema": version.schema,
            "who": version.who,
            "note": version.note,
        },
    }
    data = canonical_json(statement)
    check_policy_statement(data)
    return data


def check_policy_statement(data: bytes) -> PolicyVersion:
    """The version in `data`, if it is a well-formed statement of this type with exactly its fields. Raises Invalid."""
    statement = check_statement(data)
    if statement.kind != POLICY:
        raise _refusal(f"it is a {statement.kind}")
    held = statement.predicate
    if held.keys() != {"id", "at", "version", "previous", "nation", "schema", "who", "note"}:
        raise _refusal("its fields are not those of a policy statement")
    if statement.start_ms != statement.end_ms:
        raise _refusal("it comes into force at one moment")
    number, nation = held["version"], held["nation"]
    if type(number) is not int or not 1 <= number <= MAX_SAFE_INTEGER:
        raise _refusal("a version is a number from 1 on")
    if not isinstance(nation, dict) or nation.keys() != {"code", "digest"}:
        raise _refusal("a nation is a code and a digest")
    digest = statement.digest_of_subject("policy")
    if digest is None:
        raise _refusal("its subject is not one policy")
    return PolicyVersion(
        id=statement.id,
        version=number,
        at_ms=statement.start_ms,
        digest=digest,
        previous=None if held["previous"] is None else _match(DIGEST, held["previous"], "previous"),
        nation=_match(_CODE, nation["code"], "the nation's code"),
        nation_digest=_match(DIGEST, nation["digest"], "the nation's digest"),
        schema=_match(DIGEST, held["schema"], "schema"),
        who=_match(_TEXT, held["who"], "who"),
        note=None if held["note"] is None else _match(_TEXT, held["note"], "note"),
    )


def nation_digest(nation: Nation) -> str:
    """`sha256:<hex>` of everything a profile says: a policy's words mean what they meant while this is the same."""
    return digest_of(_plain(nation))


def _plain(value: Any) -> Any:
    """Dataclasses as lists of their fields, mappings as sorted pairs, sets sorted."""
    if is_dataclass(value):
        return [[item.name, _plain(getattr(value, item.name))] for item in fields(value)]
    if isinstance(value, Mapping):
        return [[key, _plain(value[key])] for key in sorted(value)]
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _match(pattern: str, value: Any, what: str) -> str:
    if not isinstance(value, str) or re.fullmatch(pattern, value) is None:
        raise _refusal(f"{what} is not what it must be")
    return value


def _refusal(message: str) -> Invalid:
    return Invalid(f"not a policy statement: {message}", code="bad_statement")
