"""Claims: sentences about what has happened, each of which one pass over the receipts' log can decide.

    claim    = about breach | about rule                          and then, if wanted: between TIME and TIME
    about    = ("no" | "every") [TIER ["or above"]] "request" ["marked" MARKING {"," MARKING}]
    breach   = "reached a site outside" PLACE {"or" PLACE}        with "no"
             | "was answered unsealed"                            with "no"
             | "was answered without a purpose"                   with "no"
    rule     = "was decided by policy" DIGEST {"or" DIGEST}       with "every"

TIER and MARKING are the nation's words, PLACE an ISO 3166 code that it knows or a part of one, DIGEST `sha256:<hex>`.
TIME is a UTC day (`2026-11-01`) or a moment with its zone (`2026-11-01T09:30Z`, `...+01:00`); both ends count, a day
from its first to its last millisecond. A request counts as of the whole time from its start to its end.

What cannot be excluded counts: a tier that the nation does not know is taken for any tier that was asked about, and a
site whose place is not known is outside of everything. Only answers reach a site or are answered; refusals do not.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from allod.core.digests import is_digest
from allod.core.errors import Invalid
from allod.core.labels import is_within
from allod.core.nations.nation import Nation
from allod.core.places import fault_of_place
from allod.core.statements.receipt import ANSWER, REFUSAL
from allod.core.times import span_ms
from allod.govern.policy.schema import WHOLE_SEALS

MAX_CHARACTERS = 1000
Verdict = Literal["holds", "breaks", "not concerned"]

GRAMMAR = """\
no    [TIER [or above]] request [marked MARKING, ...] reached a site outside PLACE [or PLACE ...]
no    [TIER [or above]] request [marked MARKING, ...] was answered unsealed
no    [TIER [or above]] request [marked MARKING, ...] was answered without a purpose
every [TIER [or above]] request [marked MARKING, ...] was decided by policy DIGEST [or DIGEST ...]
each with, at the end: [between TIME and TIME], a TIME as 2026-11-01 or 2026-11-01T09:30Z"""

_CLAIM = re.compile(
    r"(?P<word>no|every) (?:(?P<tier>.+?)(?P<above> or above)? )??request(?: marked (?P<markings>.+?))? "
    r"(?P<said>reached a site outside|was answered unsealed|was answered without a purpose|was decided by policy)"
    r"(?: (?P<names>[^ ]+(?: or [^ ]+)*?))?(?: between (?P<since>[^ ]+) and (?P<until>[^ ]+))?"
)


@dataclass(frozen=True, slots=True)
class ReceiptFacts:
    """What claims read of a receipt."""

    is_answer: bool
    tier: str
    markings: frozenset[str]
    has_purpose: bool
    jurisdiction: str
    policy: str
    seal: str
    start_ms: int
    end_ms: int


Test = Callable[[ReceiptFacts], bool]


@dataclass(frozen=True, slots=True)
class Claim:
    """`concerns` picks the requests that `text` speaks of, `is_kept` says whether one of them is as it says."""

    text: str
    concerns: Test
    is_kept: Test

    def judge(self, predicate: Mapping[str, Any], kind: str) -> Verdict:
        """What one statement of the receipts' log says of the claim. Raises Invalid for one that cannot be read."""
        if kind not in (ANSWER, REFUSAL):
            return "not concerned"
        facts = facts_of(predicate, kind)
        if not self.concerns(facts):
            return "not concerned"
        return "holds" if self.is_kept(facts) else "breaks"


def parse_claim(text: str, nation: Nation) -> Claim:
    """The claim in `text`, in this nation's words. Raises Invalid (`bad_claim`) with the grammar as its hint."""
    sentence = " ".join(text.split())
    found = _CLAIM.fullmatch(sentence) if len(sentence) <= MAX_CHARACTERS else None
    if found is None:
        raise _refusal("it is none of the sentences that can be decided")
    every = found["said"] == "was decided by policy"
    if every != (found["word"] == "every"):
        raise _refusal(f"`{found['said']}` goes with `{'every' if every else 'no'}`")
    is_kept = _KEPT[found["said"]](found["names"].split(" or ") if found["names"] else [], nation)
    tests = (
        _of_tier(found["tier"], nation, or_above=found["above"] is not None),
        _test_markings(found["markings"], nation),
        _between(found["since"], found["until"]),
        (lambda facts: True) if every else (lambda facts: facts.is_answer),
    )
    return Claim(sentence, lambda facts: all(test(facts) for test in tests), is_kept)


def facts_of(predicate: Mapping[str, Any], kind: str) -> ReceiptFacts:
    """The facts in the predicate of an answer or a refusal. Raises Invalid (`bad_statement`) where one is missing."""
    try:
        label, at, seal = predicate["policy"]["label"], predicate["at"], predicate["seal"]
        purposes = label["purposes"]
        facts = ReceiptFacts(
            is_answer=kind == ANSWER,
            tier=_text(label["tier"]),
            markings=frozenset(map(_text, _list(label["markings"]))),
            has_purpose=purposes is not None and len(_list(purposes)) > 0,
            jurisdiction=_text(predicate["site"]["jurisdiction"]),
            policy=_text(predicate["policy"]["digest"]),
            seal="none" if seal is None else _text(seal["kind"]),
            start_ms=_number(at["start_ms"]),
            end_ms=_number(at["end_ms"]),
        )
    except (LookupError, TypeError) as error:
        raise Invalid(f"a receipt without what the claim asks for: {error}", code="bad_statement") from error
    return facts


# Which requests


def _of_tier(name: str | None, nation: Nation, *, or_above: bool) -> Test:
    if name is None:
        return lambda facts: True
    name, implied = nation.aliases.get(name, (name, frozenset[str]()))
    tier = nation.tier(name)
    ranks = {known.name: known.rank for known in nation.tiers}

    def concerns(facts: ReceiptFacts) -> bool:
        rank = ranks.get(facts.tier)
        if rank is None or (or_above and rank > tier.rank):
            return True
        return rank == tier.rank and implied <= facts.markings

    return concerns


def _test_markings(names: str | None, nation: Nation) -> Test:
    if names is None:
        return lambda facts: True
    wanted = frozenset(name.strip() for name in names.split(","))
    nation.label(markings=wanted)  # refuses a marking that the nation does not know
    return lambda facts: wanted <= facts.markings


def _between(since: str | None, until: str | None) -> Test:
    if since is None or until is None:
        return lambda facts: True
    since_ms, until_ms = span_ms(since)[0], span_ms(until)[1]
    if since_ms > until_ms:
        raise _refusal(f"{since} is after {until}")
    return lambda facts: facts.start_ms <= until_ms and since_ms <= facts.end_ms


# What is said of them


def _inside(places: list[str], nation: Nation) -> Test:
    for place in places or [""]:
        if fault := fault_of_place(place):
            raise _refusal(fault)
        if not any(is_within(place, known) for known in nation.places):
            known = ", ".join(sorted(nation.places))
            raise Invalid(f"not a claim: unknown place {place!r}", code="bad_claim", hint=f"known places: {known}")
    return lambda facts: any(is_within(facts.jurisdiction, place) for place in places)


def _test_policy(digests: list[str], nation: Nation) -> Test:
    for digest in digests or [""]:
        if not is_digest(digest):
            raise _refusal(f"{digest!r} is no digest; `allod policy history` lists them")
    return lambda facts: facts.policy in digests


def _test_seal(names: list[str], nation: Nation) -> Test:
    _check_nothing_follows(names)
    return lambda facts: facts.seal in WHOLE_SEALS


def _for_a_purpose(names: list[str], nation: Nation) -> Test:
    _check_nothing_follows(names)
    return lambda facts: facts.has_purpose


_KEPT: Mapping[str, Callable[[list[str], Nation], Test]] = {
    "reached a site outside": _inside,
    "was answered unsealed": _test_seal,
    "was answered without a purpose": _for_a_purpose,
    "was decided by policy": _test_policy,
}


def _check_nothing_follows(names: list[str]) -> None:
    if names:
        raise _refusal(f"{names[0]!r} is too much")


# Reading strictly


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("a text is expected")
    return value


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError("a list is expected")
    return value


def _number(value: Any) -> int:
    if type(value) is not int:
        raise TypeError("a number is expected")
    return value


def _refusal(message: str) -> Invalid:
    return Invalid(f"not a claim: {message}", code="bad_claim", hint=f"what can be decided:\n{GRAMMAR}")
