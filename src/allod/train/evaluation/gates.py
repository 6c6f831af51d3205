"""Gates: what an evaluation must reach before a model is released."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from allod.core.errors import Denied
from allod.train.evaluation.questions import Score
from allod.train.evaluation.recall import Recall
from allod.train.recipe import Evaluate


@dataclass(frozen=True, slots=True)
class Gate:
    """One figure and its limit, both in the figure's unit. `is_ceiling`: more than `limit` does not pass."""

    name: str
    measured: float
    limit: float
    is_ceiling: bool

    @property
    def passed(self) -> bool:
        return self.measured <= self.limit if self.is_ceiling else self.measured >= self.limit


def gates_of(
    options: Evaluate, *, bits_per_byte: float, cloze: Score, choices: Sequence[Score], recalls: Sequence[Recall]
) -> list[Gate]:
    """The gates that the recipe sets; zero sets none. Of several question files the worst one counts."""
    planted = [recall for recall in recalls if recall.repeats]
    recalled = sum(recall.num_recalled for recall in planted) / max(1, sum(recall.num_canaries for recall in planted))
    asked = (
        ("bits per byte", bits_per_byte, options.max_bits_per_byte_milli / 1000, True),
        ("cloze, per cent right", 100 * cloze.share, options.min_cloze_percent, False),
        ("choices, per cent right", 100 * min(score.share for score in choices), options.min_choice_percent, False),
        ("canaries recalled, per cent", 100 * recalled, options.max_recall_percent, True),
    )
    return [Gate(*gate) for gate in asked if gate[2]]


def check_gates(gates: Sequence[Gate]) -> None:
    """Raise Denied (`evaluation_below_gate`), naming every figure that does not reach its gate."""
    if missed := [gate for gate in gates if not gate.passed]:
        figures = "; ".join(
            f"{gate.name} {gate.measured:.3f}, to be {'at most' if gate.is_ceiling else 'at least'} {gate.limit:g}"
            for gate in missed
        )
        raise Denied(
            f"the model does not pass its evaluation: {figures}",
            code="evaluation_below_gate",
            hint="train for longer or on more text; the gates are the recipe's, under [evaluate]",
        )
