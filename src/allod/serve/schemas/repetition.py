"""How much a regular expression asks for once its repetitions are written out."""

from __future__ import annotations

import re

_TOKEN = re.compile(
    r"""\\. | \[\^?\]?(?:\\.|[^\]\\])*\] | \{(?P<least>\d+)(?:,(?P<most>\d*))?\} | [^\[\\]""", re.DOTALL | re.VERBOSE
)
_NOTHING = "*+?|^$"  # what stands for no character of its own
_LIMIT = 1 << 53


def expanded_size(pattern: str) -> int:
    """Characters and classes that `pattern` has with every {m,n} written out, 2^53 at most.

    A reading that all dialects agree with; where it is no expression at all, whoever compiles it says so.
    """
    sums, last, at = [0], 0, 0
    while token := _TOKEN.match(pattern, at):  # none: a class without an end
        at, text = token.end(), token.group()
        if text == "(":
            sums.append(0)
            last = 0
        elif text == ")" and len(sums) > 1:
            last = sums.pop()
            sums[-1] += last
        elif token["least"]:
            times = int((token["most"] or token["least"])[:16])
            sums[-1] += last * max(0, times - 1)
            last *= times
        elif text not in _NOTHING:
            last = 1
            sums[-1] += 1
        last, sums[-1] = min(last, _LIMIT), min(sums[-1], _LIMIT)
    return min(sum(sums), _LIMIT)
