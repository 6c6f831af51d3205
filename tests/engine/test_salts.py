"""Cache salts: one for each tenant and label, foreseen by nobody outside."""

from __future__ import annotations

from dataclasses import replace

from allod.core.labels import Label, Tier
from allod.engine.salts import cache_salt

LABEL = Label(Tier("OFFICIAL", 0, "gb"))


def test_equal_tenants_and_labels_share_and_nobody_else_does() -> None:
    """A difference in any part of the label, the tenant or the realm's secret is another salt."""
    salts = [
        cache_salt(b"secret", "proj_a", LABEL),
        cache_salt(b"secret", "proj_b", LABEL),
        cache_salt(b"another", "proj_a", LABEL),
        cache_salt(b"secret", "proj_a", Label(Tier("SECRET", 1, "gb"))),
        cache_salt(b"secret", "proj_a", replace(LABEL, markings=frozenset({"PERSONAL"}))),
        cache_salt(b"secret", "proj_a", replace(LABEL, jurisdictions=frozenset({"GB"}))),
        cache_salt(b"secret", "proj_a", replace(LABEL, jurisdictions=frozenset())),
        cache_salt(b"secret", "proj_a", replace(LABEL, purposes=frozenset({"GB"}))),
    ]
    assert len(set(salts)) == len(salts)
    assert all(len(salt) == 64 and set(salt) <= set("0123456789abcdef") for salt in salts)


def test_the_order_of_a_labels_words_is_nothing() -> None:
    """Sets are sets: two requests that say the same are the same."""
    one, other = (
        replace(LABEL, markings=frozenset(words), purposes=frozenset(words)) for words in (("x", "y"), ("y", "x"))
    )
    assert cache_salt(b"s", "t", one) == cache_salt(b"s", "t", other)
