"""What an answer costs its tenant: whole millionths of a currency, so that sums are exact. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from allod.core.statements.shapes import MAX_AMOUNT


@dataclass(frozen=True, slots=True)
class ModelPrices:
    """What tenants are charged for a model's answers, in millionths of the realm's currency; 0 is free of charge."""

    micros_per_1k_prompt_tokens: int = 0  # for a thousand tokens of prompts
    micros_per_1k_completion_tokens: int = 0  # for a thousand tokens of answers
    micros_per_engine_second: int = 0  # for a second at the engine, from a request's turn to its end

    @property
    def is_free(self) -> bool:
        """Whether no answer costs anything, however long."""
        return not self.micros_of(prompt_tokens=1000, completion_tokens=1000, engine_ms=1000)

    def micros_of(self, *, prompt_tokens: int, completion_tokens: int, engine_ms: int) -> int:
        """The charge, rounded down once for the whole; at most what a receipt can say."""
        thousandths = (
            prompt_tokens * self.micros_per_1k_prompt_tokens
            + completion_tokens * self.micros_per_1k_completion_tokens
            + engine_ms * self.micros_per_engine_second
        )
        return min(thousandths // 1000, MAX_AMOUNT)


@dataclass(frozen=True, slots=True)
class Prices(ModelPrices):
    """A realm's: those of every model that has none of its own, and those of the others by name."""

    currency: str = "GBP"  # a code of ISO 4217, in which the ledger counts
    models: Mapping[str, ModelPrices] = field(default_factory=dict)  # `[prices.models."NAME"]`: what differs for it

    def prices_of(self, model: str, base: str) -> ModelPrices:
        """A model's own; an adapter's own, else its base's; else those of every model."""
        return self.models.get(model) or self.models.get(base or model, self)
