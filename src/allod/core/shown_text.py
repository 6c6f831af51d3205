"""Text that others wrote, as it may be shown: a terminal obeys control characters, and some turn a line round."""

from __future__ import annotations

import re

# C0, DEL and C1 controls; line and paragraph separators; bidirectional embeddings, overrides and isolates; surrogates.
_DECEIVING = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def is_plain(text: str) -> bool:
    """Whether `text` is one line that looks like what it says."""
    return _DECEIVING.search(text) is None


def made_plain(text: str, *, limit: int) -> str:
    """`text` with a question mark for each character that deceives, and cut after `limit` characters."""
    return _DECEIVING.sub("?", text[:limit]) + ("…" if len(text) > limit else "")
