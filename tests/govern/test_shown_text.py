"""What deceives a reader in one place deceives in every other: names, others' text and policies agree."""

from __future__ import annotations

import pytest

from allod.core.errors import Invalid
from allod.core.shown_text import is_plain, is_plain_name, make_plain
from allod.govern.policy.rules import rules_in
from allod.govern.tenancy.tenants import check_name

DECEIVING = [0x00, 0x1B, 0x7F, 0x9F, 0x2028, 0x2029, 0x202A, 0x202E, 0x2066, 0x2069]
MARKS = [0x61C, 0x200E, 0x200F, 0xFEFF]


@pytest.mark.parametrize("code", DECEIVING, ids=hex)
def test_what_deceives_is_refused_everywhere(code: int) -> None:
    """In a tenant's or a key's name, in a document's name and others' text, in a policy."""
    text = f"a{chr(code)}b"
    assert not is_plain(text)
    assert not is_plain_name(text)
    assert make_plain(text, limit=9) == "a?b"


@pytest.mark.parametrize("code", DECEIVING + MARKS, ids=hex)
def test_a_name_has_no_use_for_marks(code: int) -> None:
    """Nor a policy, whose rules are compared by their names."""
    with pytest.raises(Invalid, match="can be seen"):
        check_name(f"a{chr(code)}b")
    with pytest.raises(Invalid, match="invisible character"):
        rules_in(f"// a{chr(code)}b")


@pytest.mark.parametrize("code", MARKS, ids=hex)
def test_others_text_may_have_marks(code: int) -> None:
    """A file's name, a source's origin: what was written with them into a release's records is read for ever."""
    assert is_plain(f"a{chr(code)}b")
    assert make_plain(f"a{chr(code)}b", limit=9) == f"a{chr(code)}b"


@pytest.mark.parametrize("text", ["Ministry of Zoë", "وزارت می‌خواهم", "משרד", "省", "a\u0301"])
def test_what_a_script_needs_is_no_deceit(text: str) -> None:
    """Joiners and accents, and letters that are written from right to left."""
    assert is_plain_name(text)
    assert check_name(text) == text
