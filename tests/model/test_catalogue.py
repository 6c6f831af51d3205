"""The catalogue: names that are found, and the best model that answers before a person's patience ends."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allod.core.errors import Invalid
from allod.model.catalogue import PATIENCE_S, CatalogueEntry, MachinePace, best_for, find, first_answer_s

SMALL = CatalogueEntry(
    name="small",
    file="small.gguf",
    sha256="0" * 64,
    size_bytes=1,
    licence="Apache-2.0",
    publisher="Someone",
    country="GB",
    informative=False,
    prefill_cost=1.0,
    decode_cost=1.0,
    packages=("small==1",),
    members=("small/small.gguf",),
)
MIDDLE = replace(SMALL, name="middle", prefill_cost=2.0, decode_cost=3.0)
LARGE = replace(SMALL, name="large", prefill_cost=10.0, decode_cost=20.0)
CATALOGUE = (SMALL, MIDDLE, LARGE)

paces = st.builds(MachinePace, prefill_s=st.floats(1e-6, 1), decode_s=st.floats(1e-6, 1))


def test_a_name_finds_its_entry() -> None:
    """Exactly that name."""
    assert find(CATALOGUE, "middle") is MIDDLE


@pytest.mark.parametrize("name", ["", "Small", "small ", "auto", "huge"])
def test_an_unknown_name_is_invalid_and_the_known_are_told(name: str) -> None:
    """The hint lists what there is."""
    with pytest.raises(Invalid) as caught:
        find(CATALOGUE, name)
    assert caught.value.code == "model_unknown"
    assert "small, middle, large" in (caught.value.hint or "")


@given(paces)
def test_no_better_model_would_have_been_bearable(pace: MachinePace) -> None:
    """The chosen one is the last that answers in time; where none does, the first."""
    chosen = best_for(CATALOGUE, pace)
    bearable = [entry for entry in CATALOGUE if first_answer_s(entry, pace) <= PATIENCE_S]
    assert chosen is (bearable[-1] if bearable else SMALL)


def test_a_fast_machine_gets_the_largest_and_a_slow_one_the_smallest() -> None:
    """Both ends of the scale, in figures: 0.1 ms a token and 10 s a token."""
    assert best_for(CATALOGUE, MachinePace(prefill_s=1e-4, decode_s=1e-4)) is LARGE
    assert best_for(CATALOGUE, MachinePace(prefill_s=10, decode_s=10)) is SMALL


@given(paces)
def test_a_dearer_model_takes_longer(pace: MachinePace) -> None:
    """The prediction grows with both costs and with the machine's slowness."""
    assert first_answer_s(SMALL, pace) < first_answer_s(MIDDLE, pace) < first_answer_s(LARGE, pace)
    slower = MachinePace(prefill_s=2 * pace.prefill_s, decode_s=2 * pace.decode_s)
    assert first_answer_s(SMALL, slower) > first_answer_s(SMALL, pace)
