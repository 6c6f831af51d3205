"""How many tokens a text will have, told by its bytes: before an engine counts them."""

from __future__ import annotations

import string

BYTES_PER_TOKEN = 3  # of UTF-8 text, rather few: what is reserved should be enough
_OFTEN_SINGLE = string.digits.encode() + string.punctuation.encode()  # these are often tokens by themselves


def estimated_tokens(data: bytes) -> int:
    """Rather too many than too few."""
    num_single = len(data) - len(data.translate(None, _OFTEN_SINGLE))
    return (len(data) - num_single) // BYTES_PER_TOKEN + num_single
