"""The learning rate over time: up, level, and down to nothing, so that a run always ends annealed."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Schedule:
    """Warm-up, stable, decay (arXiv:2404.06395): shares of the run that the first and the last part take."""

    steps: int
    warm_up: float = 0.02
    decay: float = 0.6

    def share(self, step: int) -> float:
        """Share of the peak rate at `step`, counted from 0. Never zero: no step is for nothing."""
        rising = (step + 1) / max(1.0, self.warm_up * self.steps)
        falling = (self.steps - step) / max(1.0, self.decay * self.steps)
        return min(1.0, rising, falling)
