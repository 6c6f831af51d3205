"""Claims: each sentence means what it says, what cannot be excluded counts, and what cannot be decided is refused."""

from __future__ import annotations

import time
from typing import Any

import pytest

from allod.core.errors import Invalid
from allod.core.labels import Tier
from allod.core.nations.nation import Marking, Nation
from allod.core.statements.receipt import ANSWER, REFUSAL
from allod.core.times import moment_text, span_ms
from allod.govern.policy.claims import Verdict, parse_claim

NATION = Nation(
    code="xx",
    name="Examplia",
    source="invented",
    tiers=tuple(Tier(name, rank, "xx") for rank, name in enumerate(("OPEN", "SECRET", "TOP SECRET"))),
    aliases={"OPEN-SENSITIVE": ("OPEN", frozenset({"SENSITIVE"}))},
    markings={name: Marking(name, "") for name in ("SENSITIVE", "OUR EYES ONLY")},
    places=frozenset({"GB", "DE", "FR"}),
)
DIGEST, OTHER = "sha256:" + "a" * 64, "sha256:" + "b" * 64
DAY_MS = 86_400_000
NOON_MS, _ = span_ms("2026-11-10T12:00Z")


def receipt(**changed: Any) -> dict[str, Any]:
    """What claims read of a predicate: an unmarked SECRET answer, sealed, in GB, at noon of 10 November 2026."""
    given: dict[str, Any] = {
        "tier": "SECRET",
        "markings": [],
        "purposes": ["advice"],
        "place": "GB",
        "seal": {"kind": "sealed", "proof": None},
        "digest": DIGEST,
        "start_ms": NOON_MS,
        "end_ms": NOON_MS + 500,
        **changed,
    }
    label = {"tier": given["tier"], "markings": given["markings"], "jurisdictions": None, "purposes": given["purposes"]}
    return {
        "at": {"start_ms": given["start_ms"], "end_ms": given["end_ms"]},
        "policy": {"digest": given["digest"], "label": label, "decision": "permit", "rules": []},
        "seal": given["seal"],
        "site": {"id": "a", "jurisdiction": given["place"]},
    }


def verdict(claim: str, kind: str = ANSWER, **changed: Any) -> Verdict:
    return parse_claim(claim, NATION).judge(receipt(**changed), kind)


OUTSIDE = "no SECRET request reached a site outside GB"


@pytest.mark.parametrize(
    ("claim", "changed", "expected"),
    [
        (OUTSIDE, {}, "holds"),
        (OUTSIDE, {"place": "FR"}, "breaks"),
        (OUTSIDE, {"place": "GB-WLS"}, "holds"),
        (OUTSIDE, {"place": "GBR"}, "breaks"),
        (OUTSIDE, {"place": "ZZ"}, "breaks"),
        (f"{OUTSIDE} or FR", {"place": "FR"}, "holds"),
        (f"{OUTSIDE}-WLS", {"place": "GB"}, "breaks"),
        (OUTSIDE, {"place": "FR", "tier": "OPEN"}, "not concerned"),
        (OUTSIDE, {"place": "FR", "tier": "TOP SECRET"}, "not concerned"),
        ("no SECRET or above request reached a site outside GB", {"place": "FR", "tier": "TOP SECRET"}, "breaks"),
        ("no TOP SECRET request reached a site outside GB", {"place": "FR", "tier": "TOP SECRET"}, "breaks"),
        ("no request reached a site outside GB", {"place": "FR", "tier": "OPEN"}, "breaks"),
        ("no request was answered unsealed", {}, "holds"),
        ("no request was answered unsealed", {"seal": None}, "breaks"),
        ("no request was answered unsealed", {"seal": {"kind": "none", "proof": None}}, "breaks"),
        ("no request was answered unsealed", {"seal": {"kind": "partial:no-landlock", "proof": None}}, "breaks"),
        ("no request was answered unsealed", {"seal": {"kind": "island", "proof": None}}, "holds"),
        ("no request was answered unsealed", {"seal": {"kind": "island-gpu", "proof": None}}, "breaks"),
        ("no request was answered without a purpose", {}, "holds"),
        ("no request was answered without a purpose", {"purposes": None}, "breaks"),
        (f"every request was decided by policy {DIGEST}", {}, "holds"),
        (f"every request was decided by policy {OTHER}", {}, "breaks"),
        (f"every request was decided by policy {OTHER} or {DIGEST}", {}, "holds"),
    ],
)
def test_a_claim_means_what_it_says(claim: str, changed: dict[str, Any], expected: Verdict) -> None:
    """Each form, on receipts just inside and just outside of it."""
    assert verdict(claim, **changed) == expected


def test_only_what_carries_all_markings_is_concerned() -> None:
    """A claim about marked requests says nothing of those that carry only some of the markings."""
    claim = "no request marked SENSITIVE, OUR EYES ONLY reached a site outside GB"
    assert verdict(claim, place="FR", markings=["SENSITIVE"]) == "not concerned"
    assert verdict(claim, place="FR", markings=["OUR EYES ONLY", "SENSITIVE"]) == "breaks"


def test_an_alias_is_its_tier_with_its_markings() -> None:
    """And above it lies every higher tier, marked or not."""
    claim = "no OPEN-SENSITIVE{} request reached a site outside GB"
    assert verdict(claim.format(""), place="FR", tier="OPEN") == "not concerned"
    assert verdict(claim.format(""), place="FR", tier="OPEN", markings=["SENSITIVE"]) == "breaks"
    assert verdict(claim.format(""), place="FR", tier="SECRET") == "not concerned"
    assert verdict(claim.format(" or above"), place="FR", tier="SECRET") == "breaks"


def test_what_cannot_be_excluded_counts() -> None:
    """A tier of some other nation may be any of ours, so it breaks what it might break."""
    assert verdict(OUTSIDE, place="FR", tier="STRENG GEHEIM") == "breaks"
    assert verdict(OUTSIDE, place="GB", tier="STRENG GEHEIM") == "holds"


def test_a_refusal_reached_no_site_but_was_decided() -> None:
    """Refusals count for which policy decided, and for nothing that only an answer can do."""
    assert verdict(OUTSIDE, REFUSAL, place="FR") == "not concerned"
    assert verdict("no request was answered unsealed", REFUSAL, seal=None) == "not concerned"
    assert verdict(f"every request was decided by policy {OTHER}", REFUSAL) == "breaks"
    assert verdict(OUTSIDE, "urn:allod:heartbeat:v1", place="FR") == "not concerned"


@pytest.mark.parametrize(
    ("between", "start_ms", "is_concerned"),
    [
        ("2026-11-10 and 2026-11-10", NOON_MS, True),
        ("2026-11-09 and 2026-11-09", NOON_MS, False),
        ("2026-11-10 and 2026-11-10", NOON_MS - DAY_MS // 2 - 500, True),  # it ends with the day's first millisecond
        ("2026-11-10 and 2026-11-10", NOON_MS - DAY_MS // 2 - 501, False),
        ("2026-11-10 and 2026-11-10", NOON_MS + DAY_MS // 2 - 1, True),
        ("2026-11-10 and 2026-11-10", NOON_MS + DAY_MS // 2, False),
        ("2026-11-10T13:00+01:00 and 2026-11-10T12:00:00.000Z", NOON_MS, True),
        ("2026-11-10T12:00:00.501Z and 2026-11-11", NOON_MS, False),
    ],
)
def test_both_ends_of_a_time_count(between: str, start_ms: int, is_concerned: bool) -> None:
    """Days are UTC's and whole; a request counts from its start to its end, here half a second later."""
    found = verdict(f"{OUTSIDE} between {between}", place="FR", start_ms=start_ms, end_ms=start_ms + 500)
    assert found == ("breaks" if is_concerned else "not concerned")


@pytest.mark.parametrize(
    "claim",
    [
        "",
        "no SECRET request",
        "No SECRET request reached a site outside GB",
        "no secret request reached a site outside GB",
        "no SECRT request reached a site outside GB",
        "every SECRET request reached a site outside GB",
        f"no request was decided by policy {DIGEST}",
        "every request was decided by policy sha256:abc",
        "every request was decided by policy",
        "no request reached a site outside",
        "no request reached a site outside UK",
        "no request reached a site outside GB or",
        "no request reached a site outside GB, FR",
        "no request marked reached a site outside GB",
        "no request marked SENSITVE reached a site outside GB",
        "no request was answered unsealed GB",
        f"{OUTSIDE} between 2026-11-10",
        f"{OUTSIDE} between 2026-11-10 and",
        f"{OUTSIDE} between 2026-11-10 and 2026-11-09",
        f"{OUTSIDE} between 2026-11-31 and 2026-12-01",
        f"{OUTSIDE} between 2026-11-10T12:00 and 2026-11-11",
        f"{OUTSIDE} between 20261110 and 20261111",
        f"{OUTSIDE} between 2026-11-10 and now",
        f"{OUTSIDE} or so",
        "no request" + " marked SENSITIVE" * 1000,
        "no " + "a " * 490 + "request reached a site outside GB",
    ],
)
def test_what_cannot_be_decided_is_refused(claim: str) -> None:
    """At once, with what would help; a misspelt word is never a claim about nothing, which would hold."""
    begun = time.process_time()
    with pytest.raises(Invalid) as refused:
        parse_claim(claim, NATION)
    assert refused.value.hint
    assert time.process_time() - begun < 1


def test_spaces_and_lines_do_not_matter() -> None:
    """A sentence that was wrapped is the same sentence, and is shown as one line."""
    claim = parse_claim(" no SECRET\n  request reached a site\toutside GB ", NATION)
    assert claim.text == OUTSIDE


@pytest.mark.parametrize(
    "spoil",
    [
        {"tier": None},
        {"tier": 1},
        {"markings": "SENSITIVE"},
        {"markings": [1]},
        {"place": None},
        {"seal": {}},
        {"start_ms": "1"},
        {"start_ms": True},
        {"purposes": "advice"},
    ],
    ids=str,
)
def test_a_receipt_that_cannot_be_read_is_not_passed_over(spoil: dict[str, Any]) -> None:
    """It is neither kept nor broken, and not "not concerned" either."""
    with pytest.raises(Invalid):
        verdict("no SECRET request marked SENSITIVE was answered unsealed", **spoil)


def test_a_time_that_was_written_is_read_back() -> None:
    """To the millisecond, whatever the zone it was given in."""
    assert moment_text(NOON_MS) == "2026-11-10T12:00:00.000Z"
    assert span_ms(moment_text(NOON_MS + 1)) == (NOON_MS + 1, NOON_MS + 1)
    assert span_ms("2026-11-10T23:30:00-11:30") == (NOON_MS + DAY_MS - 3_600_000, NOON_MS + DAY_MS - 3_600_000)
