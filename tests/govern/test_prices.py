"""Prices: whole millionths, rounded down once, so that charges add up and nobody pays for less than was used."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from allod.core.statements.shapes import MAX_AMOUNT, is_amount
from allod.govern.metering.prices import ModelPrices

amounts = st.integers(0, 10**12)
prices = st.builds(
    ModelPrices,
    micros_per_1k_prompt_tokens=amounts,
    micros_per_1k_completion_tokens=amounts,
    micros_per_engine_second=amounts,
)


def test_what_was_never_priced_is_free() -> None:
    """Without a line in the settings nobody is charged, however much was used."""
    assert ModelPrices().micros_of(prompt_tokens=2**40, completion_tokens=2**40, engine_ms=2**40) == 0


def test_a_thousand_tokens_and_a_second_cost_what_the_settings_say() -> None:
    """Each part at its own price, and none at another's."""
    made = ModelPrices(
        micros_per_1k_prompt_tokens=3, micros_per_1k_completion_tokens=50, micros_per_engine_second=700
    ).micros_of
    assert made(prompt_tokens=1000, completion_tokens=0, engine_ms=0) == 3
    assert made(prompt_tokens=0, completion_tokens=1000, engine_ms=0) == 50
    assert made(prompt_tokens=0, completion_tokens=0, engine_ms=1000) == 700
    assert made(prompt_tokens=2000, completion_tokens=1000, engine_ms=3000) == 2156


def test_the_dearest_answer_can_be_said_in_a_receipt() -> None:
    """At the highest price that can be set, after an hour: what no receipt could say would be charged to nobody."""
    made = ModelPrices(micros_per_engine_second=10**12)
    assert is_amount(made.micros_of(prompt_tokens=0, completion_tokens=0, engine_ms=3_600_000))


def test_it_is_rounded_once_for_the_whole() -> None:
    """Three parts of six tenths are one whole: rounding each of them would charge nothing."""
    made = ModelPrices(micros_per_1k_prompt_tokens=6, micros_per_1k_completion_tokens=6, micros_per_engine_second=6)
    assert made.micros_of(prompt_tokens=100, completion_tokens=100, engine_ms=100) == 1
    assert made.micros_of(prompt_tokens=100, completion_tokens=0, engine_ms=0) == 0


@given(prices, amounts, amounts, amounts)
def test_the_charge_is_exact_but_for_less_than_a_millionth(
    made: ModelPrices, prompt_tokens: int, completion_tokens: int, engine_ms: int
) -> None:
    """By fractions, whatever the size: no float comes near money."""
    exact = (
        Fraction(prompt_tokens * made.micros_per_1k_prompt_tokens, 1000)
        + Fraction(completion_tokens * made.micros_per_1k_completion_tokens, 1000)
        + Fraction(engine_ms * made.micros_per_engine_second, 1000)
    )
    charged = made.micros_of(prompt_tokens=prompt_tokens, completion_tokens=completion_tokens, engine_ms=engine_ms)
    assert type(charged) is int
    assert 0 <= min(exact, Fraction(MAX_AMOUNT)) - charged < 1
