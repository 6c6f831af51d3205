"""What one measurement of one configuration found, and the one number that configurations are compared by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import geometric_mean, median


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Of one round. Rates are tokens a second; `error` says why there are none. `millijoules` is None where this
    machine has no meter that we may read; `agreement` is with the reference's answers, 0 to 1."""

    answer_tokens_s: float = 0.0  # one at a time
    prompt_tokens_s: float = 0.0  # of a long prompt
    together_tokens_s: float = 0.0  # of answers, several at once
    first_token_s: float = 0.0  # of a short chat, alone
    together_first_s: float = 0.0  # median, several at once
    start_s: float = 0.0
    memory_mib: int = 0  # of all replicas, the model's file counted once
    millijoules: int | None = None  # of the whole workload, by all that ran on this machine
    answers: tuple[tuple[str, ...], ...] = ()  # the tokens of each answer to the fixed prompts
    error: str = ""

    @property
    def score(self) -> float:
        """The geometric mean of the three rates: half of one is made good by twice another. 0 where it failed."""
        rates = (self.answer_tokens_s, self.prompt_tokens_s, self.together_tokens_s)
        return geometric_mean(rates) if min(rates) > 0 and not self.error else 0.0


def agreement(answers: Sequence[Sequence[str]], reference: Sequence[Sequence[str]]) -> float:
    """The share of tokens that two greedy runs choose alike, position by position, 0 to 1.

    An answer is compared up to and with its first difference: what follows it answers another text. It tells what a
    configuration changes, not which of two files is the better one.
    """
    num_alike = num_compared = 0
    for one, other in zip(answers, reference, strict=True):
        same = next((at for at, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]), None)
        if same is None:
            same = min(len(one), len(other))
            num_compared += same + (len(one) != len(other))  # one of them chose to end
        else:
            num_compared += same + 1
        num_alike += same
    return num_alike / num_compared if num_compared else 0.0


def spread(values: Sequence[float], digits: int = 2) -> str:
    """`median (least to greatest)`, and of one value that."""
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    return f"{median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"
