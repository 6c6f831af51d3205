"""How fast a replica has answered of late."""

from __future__ import annotations

from collections import deque
from math import ceil

from allod.core.requests import Usage
from allod.engine.engine import ReplicaPace

NUM_KEPT = 128  # answers, for what is said of the last ones
WINDOW_S = 60  # to the second: what ended in the second that it begins in is left out


class Stopwatch:
    """Told of each answer of one replica; it keeps a few hundred numbers, however many there are.

    What is None in it was not measured: no answer ended within the window, none was streamed, none had a prompt.
    """

    def __init__(self) -> None:
        self._first_ms: deque[float] = deque(maxlen=NUM_KEPT)
        self._prompts: deque[tuple[int, int]] = deque(maxlen=NUM_KEPT)  # tokens of each, and how many were cached
        self._written: deque[tuple[int, int]] = deque()  # (second, tokens of the answers that ended in it), ascending

    def note_first(self, wait_s: float) -> None:
        """The first piece of a stream came, that long after it was sent to the replica."""
        self._first_ms.append(wait_s * 1000)

    def note_answer(self, usage: Usage, now_s: float) -> None:
        """A whole answer; `now_s` never goes back."""
        self._prompts.append((usage.prompt_tokens, usage.cached_tokens))
        second, tokens = int(now_s), usage.completion_tokens
        if self._written and self._written[-1][0] == second:
            tokens += self._written.pop()[1]
        self._written.append((second, tokens))
        self._forget(now_s)

    def read(self, now_s: float) -> ReplicaPace:
        """As of now."""
        self._forget(now_s)
        num_prompt = sum(prompt for prompt, _ in self._prompts)
        num_cached = sum(cached for _, cached in self._prompts)
        return ReplicaPace(
            tokens_per_s=sum(tokens for _, tokens in self._written) / WINDOW_S if self._written else None,
            first_token_ms_p50=self._quantile(0.5),
            first_token_ms_p90=self._quantile(0.9),
            cached_share=num_cached / num_prompt if num_prompt else None,
        )

    def _forget(self, now_s: float) -> None:
        while self._written and self._written[0][0] <= now_s - WINDOW_S:
            self._written.popleft()

    def _quantile(self, part: float) -> float | None:
        """The least of the kept ones that at least that part of them does not exceed."""
        if not self._first_ms:
            return None
        ordered = sorted(self._first_ms)
        return ordered[ceil(part * len(ordered)) - 1]
