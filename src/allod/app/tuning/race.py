"""Successive halving: which configurations are measured in which round, and when one is clearly the best.

Pure: all that is known are ratios, a configuration's score by the reference's score in the same round, so that what
disturbs a round disturbs both. The reference, what is set today, is in every round and is never beaten by noise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from allod.app.tuning.configuration import Configuration

LEAST_ROUNDS = 3  # before anybody is called better: two agree by chance
MOST_ROUNDS = 5
WORTH = 1.05  # a smaller gain is no reason to change: a busy machine differs from itself by that
LEAST_AGREEMENT = 0.90  # with the reference's greedy tokens, or it is never recommended

Ratios = Mapping[Configuration, Sequence[float]]


@dataclass(frozen=True, slots=True)
class Lap:
    """Whom to measure in a round, the first being 0, besides the reference. Nobody: the race is over."""

    number: int
    runners: tuple[Configuration, ...]


def next_lap(to_try: Sequence[Configuration], ratios: Ratios, *, refused: frozenset[Configuration]) -> Lap:
    """Who has to run next, after what has been measured. `to_try` begins with the reference; `refused` are out."""
    _, *others = to_try
    running = [each for each in others if each not in refused]
    for number in range(MOST_ROUNDS):
        missing = tuple(each for each in running if len(ratios.get(each, ())) <= number)
        if missing:
            return Lap(number, missing)
        running = _keep_better(running, ratios, num_rounds=number + 1)
        if not running or _is_over(running, ratios, num_rounds=number + 1):
            return Lap(number + 1, ())
    return Lap(MOST_ROUNDS, ())


def find_best(to_try: Sequence[Configuration], ratios: Ratios, *, refused: frozenset[Configuration]) -> Configuration:
    """The leader where it is clearly better than the reference; else the reference: what is set stays."""
    reference, *others = to_try
    tried = [each for each in others if each not in refused and len(ratios.get(each, ())) >= LEAST_ROUNDS]
    leader = max(tried, key=lambda each: median(ratios[each]), default=reference)
    return leader if leader is not reference and is_clearly_better(ratios[leader]) else reference


def is_clearly_better(ratios: Sequence[float]) -> bool:
    """Whether it was better in every round, in enough of them, and by more than is worth a change in the median."""
    return len(ratios) >= LEAST_ROUNDS and min(ratios) > 1 and median(ratios) >= WORTH


def most_laps_left(num_running: int, first: int) -> int:
    """How many measurements there can still be from round `first` on, the reference's with them."""
    total = 0
    for _ in range(first, MOST_ROUNDS):
        total += num_running + 1
        num_running = _half(num_running)
    return total


def _keep_better(running: Sequence[Configuration], ratios: Ratios, *, num_rounds: int) -> list[Configuration]:
    """The better half, by the median; of these, once there are enough rounds, only whom the leader does not outrun."""
    ordered = sorted(running, key=lambda each: median(ratios[each][:num_rounds]), reverse=True)
    kept = [each for each in ordered[: _half(len(ordered))] if median(ratios[each][:num_rounds]) > 0]
    if num_rounds < LEAST_ROUNDS or not kept:
        return kept
    least = min(ratios[kept[0]][:num_rounds])
    return [kept[0], *(each for each in kept[1:] if max(ratios[each][:num_rounds]) >= least)]


def _is_over(running: Sequence[Configuration], ratios: Ratios, *, num_rounds: int) -> bool:
    """Whether one is left of whom it is clear that it is better than the reference, or that it is not."""
    if len(running) > 1 or num_rounds < LEAST_ROUNDS:
        return False
    last = ratios[running[0]][:num_rounds]
    return is_clearly_better(last) or max(last) < WORTH


def _half(number: int) -> int:
    return (number + 1) // 2 if number > 2 else number
