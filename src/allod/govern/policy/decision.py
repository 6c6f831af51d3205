"""The decision on a request, by rules written in Cedar and checked against a nation's words.

What no rule permits is forbidden, a rule that forbids outweighs all that permit, and whatever cannot be evaluated
without an error is forbidden too. Pure: the same question has the same answer, so answers are remembered.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from importlib import resources

import cedarpy

from allod.core.canonical import digest_of
from allod.core.errors import Invalid
from allod.core.nations.nation import Nation
from allod.govern.policy.request import PolicyRequest, request_of
from allod.govern.policy.rules import Rule, rules_in
from allod.govern.policy.schema import Vocabulary, vocabulary_of

NUM_REMEMBERED = 8_192  # decisions


@dataclass(frozen=True, slots=True)
class Decision:
    """`rules` are the names of those that decided, sorted; none of them: nothing permitted it, or `fault` says why the
    policy could not be evaluated. `reason` is for the person who asked, `fault` for the operator."""

    permitted: bool
    rules: tuple[str, ...]
    reason: str
    fault: str | None = None
    policy: str = ""  # the digest of the policy that decided


@dataclass(frozen=True, eq=False)
class Policy:
    """A policy that holds together. `digest` names its text and the words that it was checked against."""

    text: str
    nation: Nation
    schema: str
    digest: str
    rules: Mapping[str, Rule]  # by name, in the order of the text
    _tenants: _Named = field(repr=False)
    _keys: _Named = field(repr=False)
    _decided: Callable[[PolicyRequest], Decision] = field(repr=False)

    def decide(self, asked: PolicyRequest) -> Decision:
        """Permit or forbid. Never raises: what cannot be evaluated is forbidden, and is not remembered."""
        try:
            tenant_id, key_id = self._tenants.one_for(asked.tenant_id), self._keys.one_for(asked.key_id)
            return self._decided(replace(asked, tenant_id=tenant_id, key_id=key_id))
        except Exception as error:  # noqa: BLE001 - whatever goes wrong in here, nobody gets in by it
            return Decision(False, (), "the policy could not be evaluated, so it forbids", f"{error}", self.digest)


@dataclass(frozen=True, slots=True)
class _Named:
    """The ids of one kind that the rules name. One id stands for all others, which no rule can tell apart: so ten
    thousand tenants share what is remembered."""

    ids: frozenset[str]
    other: str  # longer than each of them, so none of them

    def one_for(self, id: str) -> str:
        return id if id in self.ids else self.other


def _collect_named(kind: str, rules: Mapping[str, Rule]) -> _Named:
    ids = frozenset(id for rule in rules.values() for named, id in rule.mentions if named == kind)
    return _Named(ids, "-" + max(ids, key=len, default=""))


def default_text() -> str:
    """The policy of a realm that has written none."""
    return (resources.files("allod.govern.policy") / "default.cedar").read_text(encoding="utf-8")


def load_policy(text: str, nation: Nation) -> Policy:
    """The policy in `text`, for a realm that uses this nation's words.

    Raises Invalid: `policy_syntax` it does not parse, `policy_schema` it names what there is not, or compares what
    cannot be compared, `policy_template`, `policy_empty`, `policy_no_id`, `policy_duplicate_id`, `policy_no_reason`,
    `policy_annotation`, `policy_too_long`, `policy_too_deep`, `policy_characters`.
    """
    vocabulary = vocabulary_of(nation)
    rules = {rule.name: rule for rule in rules_in(text)}
    _check_words(text, vocabulary)
    digest = digest_of({"schema": vocabulary.schema, "text": text})
    return Policy(
        text=text,
        nation=nation,
        schema=vocabulary.schema,
        digest=digest,
        rules=rules,
        _tenants=_collect_named("Tenant", rules),
        _keys=_collect_named("Key", rules),
        _decided=lru_cache(NUM_REMEMBERED)(_evaluator(text, digest, vocabulary, rules)),
    )


def _check_words(text: str, vocabulary: Vocabulary) -> None:
    found = cedarpy.validate_policies(text, vocabulary.schema)
    if not found.validation_passed:
        first = found.errors[0]
        name = found.id_annotations_by_policy_id.get(first.policy_id, first.policy_id)
        said = re.sub(r"^for policy `\w+`[,:] ", "", first.error)
        raise Invalid(f"{name}: {said}", code="policy_schema", hint=f"the words of this realm:\n{vocabulary.schema}")


def _evaluator(
    text: str, digest: str, vocabulary: Vocabulary, rules: Mapping[str, Rule]
) -> Callable[[PolicyRequest], Decision]:
    policies, schema = cedarpy.PolicySet.from_str(text), cedarpy.Schema.from_str(vocabulary.schema)

    def evaluate(asked: PolicyRequest) -> Decision:
        request, entities = request_of(asked, vocabulary)
        result = cedarpy.is_authorized(request, policies, entities, schema)
        found = result.diagnostics
        if found.errors or result.decision not in (cedarpy.Decision.Allow, cedarpy.Decision.Deny):
            raise ValueError("; ".join(found.errors) or result.decision.value)
        names = tuple(sorted(found.id_annotations_by_reason[policy] for policy in found.reasons))
        reason = " ".join(rules[name].reason for name in names) or "no rule permits this"
        return Decision(result.allowed, names, reason, policy=digest)

    return evaluate
