"""What of `[model]` is tuned, and which configurations are worth trying on a machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

NUM_SLOTS = (2, 4, 8)
MOST_REPLICAS = 4  # on one machine they share its cores: more are for staying up, not for speed


@dataclass(frozen=True, slots=True, order=True)
class Configuration:
    """One way to run a model. `file` is the weights' path; `threads` are of a replica, never 0."""

    file: Path
    threads: int
    slots: int
    replicas: int
    context_tokens: int

    def __str__(self) -> str:
        """What a person is told of it beside the file."""
        return f"threads {self.threads}, slots {self.slots}, replicas {self.replicas}, context {self.context_tokens}"


def configurations_to_try(reference: Configuration, *, num_cores: int, files: Sequence[Path]) -> list[Configuration]:
    """The reference first; then threads, slots and replicas that the cores can carry; then the other files with the
    reference's settings. No configuration has more threads at work than there are cores, but the reference may."""
    grid = [
        replace(reference, threads=threads, slots=slots, replicas=replicas)
        for replicas in _halvings_up_to(min(MOST_REPLICAS, num_cores))
        for threads in _threads_for(num_cores // replicas)
        for slots in sorted({*NUM_SLOTS, reference.slots})
    ]
    others = [replace(reference, file=file) for file in files if file != reference.file]
    return list(dict.fromkeys([reference, *grid, *others]))


def larger_contexts(best: Configuration, most_tokens: int) -> list[Configuration]:
    """The same with a context twice as long, and so on, up to what the model was made for."""
    found, tokens = [], best.context_tokens
    while tokens < most_tokens:
        tokens = min(2 * tokens, most_tokens)
        found.append(replace(best, context_tokens=tokens))
    return found


def _threads_for(num_cores: int) -> list[int]:
    """All, all but one for the gateway, and less by halves: threads that wait for each other cost more than they do."""
    return sorted({num_cores, max(1, num_cores - 1), *(max(1, num_cores // part) for part in (2, 4))}, reverse=True)


def _halvings_up_to(most: int) -> list[int]:
    return [number for number in (1, 2, 4) if number <= most]
