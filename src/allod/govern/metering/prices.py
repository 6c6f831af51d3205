"""What an answer costs its tenant: whole millionths of a currency, so that sums are exact. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Prices:
    """What tenants are charged, in millionths of `currency`; 0 is free of charge."""

    currency: str = "GBP"
    micros_per_1k_prompt_tokens: int = 0
    micros_per_1k_completion_tokens: int = 0
    micros_per_engine_second: int = 0

    def micros_of(self, *, prompt_tokens: int, completion_tokens: int, engine_ms: int) -> int:
        """The charge, rounded down once for the whole."""
        return (
            prompt_tokens * self.micros_per_1k_prompt_tokens
            + completion_tokens * self.micros_per_1k_completion_tokens
            + engine_ms * self.micros_per_engine_second
        ) // 1000
