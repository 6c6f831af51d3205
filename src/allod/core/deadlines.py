"""How long anybody waits for an engine: every wait there is, side by side, and none without an end."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Seconds. What takes longer ends with an error (503, or an event inside a stream); `hung_s` ends the engine.

    An engine that says nothing at all for `hung_s`, although it was asked something, is hung: it is ended and another
    one is started. One that says anything, to whomever, is only busy.
    """

    connect_s: int = 5  # until it takes a connection
    first_s: int = 120  # until it begins to answer, and besides
    first_s_per_kib: int = 5  # for each KiB of the prompts that it has, the request's own among them
    silence_s: int = 120  # between two words of an answer
    answer_s: int = 3600  # for a whole answer
    let_go_s: int = 30  # until it has let go of work that nobody waits for
    probe_s: int = 5  # after so long without a word of it, it is asked something
    hung_s: int = 60  # and has so long to say anything

    def first_word_s(self, num_bytes: int) -> float:
        """How long an engine that has so many bytes of prompts may say nothing."""
        return self.first_s + self.first_s_per_kib * num_bytes / 1024
