"""Make `policies.json`: what a policy statement is, and what is none. Run it from the root of the repository."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from allod.core.canonical import canonical_json, digest_of
from allod.core.digests import sha256_hex
from allod.core.statements.policy import PolicyVersion, policy_statement

TEXT = '@id("all")\n@reason("Whoever holds a key may ask.")\npermit (principal, action, resource);\n'
SCHEMA = "entity Tenant;\nentity Key in [Tenant];\n"


def main() -> None:
    digest = digest_of({"schema": SCHEMA, "text": TEXT})
    first = PolicyVersion(
        id="policy_1",
        version=1,
        at_ms=1_795_000_000_000,
        digest=digest,
        previous=None,
        nation="gb",
        nation_digest=digest_of("a profile"),
        schema=f"sha256:{sha256_hex(SCHEMA.encode())}",
        who="cli:officer",
        note="Polisi newydd – after the review",
    )
    good = policy_statement(first)
    vectors = {
        "policy": {"text": TEXT, "schema": SCHEMA, "digest": digest},
        "good": [{"statement": good.decode(), "version": 1, "digest": digest}],
        "bad": [{"why": why, "statement": spoilt(good, path, value)} for why, path, value in SPOILS],
    }
    text = json.dumps(vectors, indent=1, ensure_ascii=False) + "\n"
    Path(__file__).with_name("policies.json").write_text(text, encoding="utf-8")


SPOILS: list[tuple[str, tuple[Any, ...], Any]] = [
    ("another type", ("predicateType",), "urn:allod:drill:v1"),
    ("another subject", ("subject", 0, "name"), "answer"),
    ("version 0", ("predicate", "version"), 0),
    ("a version that is no number", ("predicate", "version"), True),
    ("a digest without its algorithm", ("predicate", "previous"), "1" * 64),
    ("a nation without a digest", ("predicate", "nation"), {"code": "gb"}),
    ("nobody", ("predicate", "who"), ""),
    ("a note of two lines", ("predicate", "note"), "a\nb"),
    ("two moments", ("predicate", "at", "end_ms"), 1_795_000_000_001),
    ("one field more", ("predicate", "more"), 1),
]


def spoilt(good: bytes, path: tuple[Any, ...], value: Any) -> str:
    statement = copy.deepcopy(json.loads(good))
    at = statement
    for step in path[:-1]:
        at = at[step]
    at[path[-1]] = value
    return canonical_json(statement).decode()


main()
