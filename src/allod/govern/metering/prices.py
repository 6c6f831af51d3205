"""What an answer costs its tenant: whole millionths of a currency, so that sums are exact. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Prices:
    """What tenants are charged, in millionths of `currency`; 0 is free of charge."""

    currency: str = "GBP"  # a code of ISO 4217, in which the ledger counts
    micros_per_1k_prompt_tokens: int = 0  # for a thousand tokens of prompts
    micros_per_1k_completion_tokens: int = 0  # for a thousand tokens of answers
    micros_per_engine_second: int = 0  # for a second at the engine, from a request's turn to its end

    def micros_of(self, *, prompt_tokens: int, completion_tokens: int, engine_ms: int) -> int:
        """The charge, rounded down once for the whole."""
        return (
            prompt_tokens * self.micros_per_1k_prompt_tokens
            + completion_tokens * self.micros_per_1k_completion_tokens
            + engine_ms * self.micros_per_engine_second
        ) // 1000
