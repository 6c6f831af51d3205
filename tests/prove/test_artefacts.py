"""The artefacts log's policies: what is in force is what the log's key says last, and versions follow one another."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from allod.core.canonical import canonical_json, digest_of
from allod.core.errors import Invalid, VerificationError
from allod.core.labels import Tier
from allod.core.nations.nation import Nation
from allod.core.statements.policy import PolicyVersion, check_policy_statement, nation_digest, policy_statement
from allod.core.statements.receipt import check_statement
from allod.prove.formats.signing_key import SigningKey
from allod.prove.policy_history import LoggedVersion, PolicyHistory, append_version, read_history
from allod.prove.receipts.bundle import parse_bundle
from allod.prove.receipts.from_log import bundle_for
from allod.prove.tlog.log import Entry, open_log
from allod.prove.tlog.reader import read_log
from allod.prove.trust import Trust
from allod.prove.verify import verify

VECTORS = json.loads((Path(__file__).parents[2] / "spec" / "vectors" / "policies.json").read_text())
KEY = SigningKey("realm.example/artefacts", bytes([5]) * 32)
FIRST = PolicyVersion(
    id="policy_1",
    version=1,
    at_ms=1_000,
    digest="sha256:" + "1" * 64,
    previous=None,
    nation="gb",
    nation_digest="sha256:" + "e" * 64,
    schema="sha256:" + "f" * 64,
    who="cli:officer",
)


def following(before: PolicyVersion, **changed: Any) -> PolicyVersion:
    number = before.version + 1
    given = {
        "id": f"policy_{number}",
        "version": number,
        "at_ms": before.at_ms + 1_000,
        "digest": "sha256:" + f"{number:064x}",
        "previous": before.digest,
        **changed,
    }
    return replace(before, **given)


def append(directory: Path, version: PolicyVersion, key: SigningKey = KEY) -> bytes:
    with closing(open_log(directory, key)) as log:
        append_version(log, read_history(partial(read_log, directory, key.verifier)), version)
        return bundle_for(log, version.id)


def read(directory: Path) -> PolicyHistory:
    return read_history(partial(read_log, directory, KEY.verifier))


def append_raw(directory: Path, entry: bytes) -> None:
    log = open_log(directory, KEY)
    log.append([Entry(entry, "x")])
    log.close()


def history_of(*times_ms: int) -> list[PolicyVersion]:
    versions = [replace(FIRST, at_ms=times_ms[0])]
    for at_ms in times_ms[1:]:
        versions.append(following(versions[-1], at_ms=at_ms))
    return versions


def test_a_statement_says_what_was_put_in_it() -> None:
    """Written and read again it is the same; anybody's checker finds it well formed."""
    version = replace(following(FIRST), note="after the review of November")
    data = policy_statement(version)
    assert check_policy_statement(data) == version
    assert check_statement(data).kind == "urn:allod:policy:v1"
    assert json.loads(data)["subject"] == [{"name": "policy", "digest": {"sha256": version.digest[7:]}}]


@pytest.mark.parametrize("vector", VECTORS["bad"], ids=lambda vector: vector["why"])
def test_a_malformed_statement_is_refused(vector: dict[str, str]) -> None:
    """Each field has one form, and there is none beside them."""
    with pytest.raises(Invalid):
        check_policy_statement(vector["statement"].encode())


def test_the_vectors_are_what_the_specification_says() -> None:
    """The digest is of text and schema together, and the statement's subject."""
    policy, (good,) = VECTORS["policy"], VECTORS["good"]
    assert digest_of({"schema": policy["schema"], "text": policy["text"]}) == policy["digest"] == good["digest"]
    version = check_policy_statement(good["statement"].encode())
    assert (version.version, version.digest) == (good["version"], good["digest"])
    assert policy_statement(version).decode() == good["statement"]


def test_a_subject_beside_the_policy_is_refused() -> None:
    """One statement, one policy."""
    statement = json.loads(policy_statement(FIRST))
    statement["subject"] *= 2
    with pytest.raises(Invalid):
        check_policy_statement(canonical_json(statement))


def test_history_is_every_version_in_order(tmp_path: Path) -> None:
    """With other artefacts between them, each with the number of its entry; the newest is in force."""
    first, second = history_of(1_000, 2_000)
    append(tmp_path, first)
    other = {**json.loads(policy_statement(first)), "predicateType": "urn:allod:artefact:v1"}
    append_raw(tmp_path, canonical_json(other))
    append(tmp_path, second)
    history = read(tmp_path)
    assert history.versions == (LoggedVersion(0, first), LoggedVersion(2, second))
    assert history.newest == LoggedVersion(2, second)


def test_what_was_in_force_at_a_time(tmp_path: Path) -> None:
    """Each from its moment up to that of the next; of two at one moment the later entry; before the first, none."""
    for version in history_of(1_000, 2_000, 2_000):
        append(tmp_path, version)
    history = read(tmp_path)
    numbers = [(found.version.version if (found := history.at(time)) else None) for time in (999, 1_000, 1_999, 2_000)]
    assert numbers == [None, 1, 1, 3]
    spans = [(0, 999), (0, 1_000), (1_500, 1_999), (1_500, 2_000), (2_000, 9_000)]
    assert [[found.version.version for found in history.versions_during(*span)] for span in spans] == [
        [],
        [1],
        [1],
        [1, 2, 3],
        [3],
    ]


@pytest.mark.parametrize(
    "changed",
    [{"version": 3}, {"version": 1}, {"previous": None}, {"previous": "sha256:" + "9" * 64}, {"at_ms": 999}],
    ids=str,
)
def test_versions_follow_one_another(tmp_path: Path, changed: dict[str, Any]) -> None:
    """A gap, a repetition, another past, a step back in time: not written, and not read where somebody wrote it."""
    append(tmp_path, FIRST)
    astray = following(FIRST, **changed)
    with pytest.raises(Invalid, match="does not follow"):
        append(tmp_path, astray)
    assert len(read(tmp_path).versions) == 1
    append_raw(tmp_path, policy_statement(astray))
    with pytest.raises(Invalid) as refused:
        read(tmp_path)
    assert refused.value.code == "bad_history"


def test_an_entry_that_is_no_statement_is_not_passed_over(tmp_path: Path) -> None:
    """What nobody can read might be a policy."""
    append(tmp_path, FIRST)
    append_raw(tmp_path, b'{"predicate":{}}')
    with pytest.raises(Invalid):
        read(tmp_path)


def test_a_bundle_shows_its_version_to_anybody_with_the_key(tmp_path: Path) -> None:
    """And to nobody with another realm's key; a changed statement is not the one that was logged."""
    bundle = append(tmp_path, FIRST)
    report = verify(bundle, Trust((KEY.verifier,)))
    version = check_policy_statement(parse_bundle(bundle).statement)
    assert (version, report.level, report.head.size) == (FIRST, "logged", 1)
    for name, seed in ((KEY.name, 6), ("other.example/artefacts", 5)):
        with pytest.raises(VerificationError) as failed:
            verify(bundle, Trust((SigningKey(name, bytes([seed]) * 32).verifier,)))
        assert failed.value.name == "log"
    with pytest.raises(VerificationError) as failed:
        verify(bundle.replace(b"cli:officer", b"cli:another"), Trust((KEY.verifier,)))
    assert failed.value.name == "inclusion"


def test_a_profile_has_one_digest_whatever_the_order_of_its_sets() -> None:
    """And another one for every change of it."""
    tiers = (Tier("OPEN", 0, "xx"), Tier("SECRET", 1, "xx"))
    nation = Nation("xx", "Examplia", "invented", tiers, places=frozenset({"GB", "FR"}), purposes={"a": "1", "b": "2"})
    same = replace(nation, places=frozenset({"FR", "GB"}), purposes={"b": "2", "a": "1"})
    assert nation_digest(nation) == nation_digest(same)
    others = [
        replace(nation, places=frozenset({"GB"})),
        replace(nation, tiers=tiers[:1]),
        replace(nation, purposes={"a": "1", "b": "3"}),
        replace(nation, aliases={"X": ("SECRET", frozenset({"Y"}))}),
    ]
    assert len({nation_digest(nation), *map(nation_digest, others)}) == 5
