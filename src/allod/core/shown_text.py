"""Text that others wrote, as it may be shown: a terminal obeys control characters, and some turn a line round."""

from __future__ import annotations

import re
from unicodedata import normalize

# C0, DEL and C1 controls; line and paragraph separators; bidirectional embeddings, overrides and isolates; surrogates.
_DECEIVING = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

# The bidirectional marks and the byte order mark: others' text may have them, and what was kept of it stays readable.
_MARKS = re.compile("[\u061c\u200e\u200f\ufeff]")

# What Unicode calls Default_Ignorable_Code_Point: a reader sees nothing of it.
_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0"
    "\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)


def fold(name: str) -> str:
    """A name as a reader tells it from others: two that are equal here look the same, or as good as the same.

    NFKC and case folding (Unicode 3.13, toNFKC_Casefold), without what cannot be seen; spaces of any kind are one.
    """
    seen = _INVISIBLE.sub("", normalize("NFKC", _INVISIBLE.sub("", name)))
    return " ".join(normalize("NFKC", seen.casefold()).split())


def is_plain(text: str) -> bool:
    """Whether `text` is one line that looks like what it says."""
    return _DECEIVING.search(text) is None


def is_plain_name(name: str) -> bool:
    """Whether `name` is such a line, and without the marks that a name has no use for."""
    return is_plain(name) and _MARKS.search(name) is None


def make_plain(text: str, *, limit: int) -> str:
    """`text` with a question mark for each character that deceives, and cut after `limit` characters."""
    return _DECEIVING.sub("?", text[:limit]) + ("…" if len(text) > limit else "")


def ends_of(text: str, *, limit: int) -> str:
    """`text`, without its middle where it is longer than `limit` characters."""
    return text if len(text) <= limit else f"{text[: limit // 2]} … {text[-limit // 2 :]}"
