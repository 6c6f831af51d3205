"""How long anybody waits for an engine or a client: every wait there is, side by side, and none without an end."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Seconds. What takes longer ends with an error (503, or an event inside a stream); `hung_s` ends the engine, and
    what a client owes its connection: work for it ends as if it had left.

    An engine that says nothing at all for `hung_s`, although it was asked something, is hung: it is ended and another
    one is started. One that says anything, to whomever, is only busy. `still_s` is shorter because what it goes by is
    certain; what an accelerator does the kernel cannot say, and who has one is given `hung_s` unless it is stopped.
    """

    connect_s: int = 5  # until the engine takes a connection
    first_s: int = 120  # until the engine begins to answer, however short the prompts
    first_s_per_kib: int = 5  # and besides, for each KiB of the prompts that the engine has, the request's own too
    silence_s: int = 120  # between two words of an answer
    answer_s: int = 3600  # for a whole answer
    next_s: int = 30  # until another engine is up, for a request that was let in before the one before was lost
    drain_s: int = 600  # until a replica is ended that was drained to be started again, and still works on something
    let_go_s: int = 30  # until the engine has let go of work that nobody waits for
    probe_s: int = 5  # after so long without a word of the engine, it is asked something
    hung_s: int = 60  # how long the engine may then say nothing at all
    still_s: int = 10  # the same where the kernel says that it is stopped, or owes a word and computes nothing
    head_s: int = 30  # until a client has sent the head of a request
    body_s: int = 60  # until a client has sent the body of a request
    keep_alive_s: int = 75  # that a connection is kept between two requests
    reader_s: int = 30  # until a client that is behind has read what is kept for it: nobody else has its slot meanwhile
    reader_s_per_mib: int = 16  # and besides, for each MiB: a whole answer may be large, and its line slow

    def first_word_s(self, num_bytes: int) -> float:
        """How long an engine that has so many bytes of prompts may say nothing."""
        return self.first_s + self.first_s_per_kib * num_bytes / 1024

    def reading_s(self, num_bytes: int) -> float:
        """How long a client may take to read so many bytes."""
        return self.reader_s + self.reader_s_per_mib * num_bytes / (1 << 20)
