"""The built-in policy: OFFICIAL work is permitted, and whatever no rule permits is forbidden."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allod.core.canonical import digest_of
from allod.core.labels import TIERS, Label
from allod.govern.policy import POLICY_DIGEST, RULE, decide

names = st.frozensets(st.sampled_from(["GB", "US", "care"]))
labels = st.builds(
    Label, tier=st.sampled_from(TIERS), markings=names, jurisdictions=st.none() | names, purposes=st.none() | names
)


@pytest.mark.parametrize("markings", [(), ("SENSITIVE",), ("SENSITIVE", "UK EYES ONLY")])
def test_official_work_is_permitted_by_name(markings: tuple[str, ...]) -> None:
    """OFFICIAL, SENSITIVE or not, is permitted, and the rule that said so is named."""
    decision = decide(Label(markings=frozenset(markings)))
    assert decision.permitted
    assert decision.rules == ("permit-official",)


@pytest.mark.parametrize("tier", ["SECRET", "TOP SECRET"])
def test_what_no_rule_permits_is_forbidden(tier: str) -> None:
    """Higher tiers are forbidden by nothing but the absence of a permission, and the reason names the tier."""
    decision = decide(Label(tier=tier))
    assert not decision.permitted
    assert decision.rules == ()
    assert tier in decision.reason


@pytest.mark.parametrize("part", ["jurisdictions", "purposes"])
def test_an_impossible_combination_forbids(part: str) -> None:
    """Labels that leave no place, or no purpose, leave no permission; one place is enough."""
    assert not decide(replace(Label(), **{part: frozenset()})).permitted
    assert decide(replace(Label(), **{part: frozenset({"GB"})})).permitted


@given(labels, labels)
def test_more_care_never_permits_more(label: Label, other: Label) -> None:
    """If the join of two labels is permitted, each of them is: nothing is gained by mixing in a stricter source."""
    if decide(label.join(other)).permitted:
        assert decide(label).permitted
        assert decide(other).permitted


@given(labels)
def test_the_decision_is_a_function_of_the_label(label: Label) -> None:
    """Asked twice, the same."""
    assert decide(label) == decide(replace(label))


def test_receipts_can_name_the_policy() -> None:
    """The digest is of the rule's own words: changing the rule changes it."""
    assert digest_of(RULE) == POLICY_DIGEST
