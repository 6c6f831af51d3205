"""One dial: what a size is, and which size suits the minutes."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="torch comes with the train extra")

from tests.train.tiny import source

from allod.core.errors import Invalid
from allod.train.learning.probe import TOKENS_PER_PARAMETER, LearningPace, choose, measure, resolve
from allod.train.learning.schedule import Schedule
from allod.train.learning.sizes import LADDER, batch_rows, parse_size, shape_of
from allod.train.recipe import Pretrain, Recipe, TokenizerOptions

PACES = {
    "1m": LearningPace(1_000_000, 1_024, 8_000.0),
    "2m": LearningPace(2_000_000, 2_048, 4_000.0),
    "5m": LearningPace(5_000_000, 4_096, 1_500.0),
}


@pytest.mark.parametrize("size", LADDER)
@pytest.mark.parametrize("vocab", [2_048, 32_000])
def test_a_size_is_about_so_many_parameters(size: str, vocab: int) -> None:
    """Within a fifth of what was asked for, wherever the table of words leaves room for it."""
    shape = shape_of(size, vocab=vocab, context=256)
    if vocab * shape.width < parse_size(size) / 2:
        assert shape.num_parameters == pytest.approx(parse_size(size), rel=0.2)


@pytest.mark.parametrize("size", [*LADDER, "3m", "9m", "700m", "7b"])
def test_shapes_are_what_engines_take(size: str) -> None:
    """Heads divide the width and are 64 wide; from 15 million on every width is one that K-quants work with."""
    shape = shape_of(size, vocab=2_048, context=256)
    assert shape.heads * 64 == shape.width
    step = 256 if parse_size(size) >= 15_000_000 else 64
    assert shape.width % step == shape.hidden % step == 0


@pytest.mark.parametrize("size", ["", "auto", "1", "m", "-1m", "0m", "1e3m", "99999b", "20b", "1 m", "1M"])
def test_impossible_sizes_are_refused(size: str) -> None:
    """What is no size is said to be none."""
    with pytest.raises(Invalid) as refused:
        parse_size(size)
    assert refused.value.code == "size_invalid"


@pytest.mark.parametrize("size", LADDER)
def test_steps_can_be_shared(size: str) -> None:
    """The rows of a step are a power of two, so that two, four or eight ranks can share them."""
    rows = batch_rows(shape_of(size, vocab=2_048, context=256))
    assert rows >= 2
    assert rows & (rows - 1) == 0


def test_more_minutes_never_choose_a_smaller_size() -> None:
    """The size follows the budget, from the smallest up."""
    sizes = [choose(minutes, PACES)[0] for minutes in (0.1, 2, 10, 30, 60, 300, 2_000)]
    assert sizes == sorted(sizes, key=list(PACES).index)
    assert (sizes[0], sizes[1], sizes[-1]) == ("1m", "1m", "5m")


def test_steps_fill_the_minutes() -> None:
    """As many as the measured pace makes of them."""
    size, steps = choose(10, PACES)
    pace = PACES[size]
    assert steps * pace.tokens_per_step / pace.tokens_per_second == pytest.approx(600, rel=0.01)


def test_a_larger_size_sees_enough_tokens() -> None:
    """Just enough minutes for a size choose it; a tenth less does not."""
    enough = TOKENS_PER_PARAMETER * 2_000_000 / 4_000 / 60
    assert choose(enough * 1.001, PACES)[0] == "2m"
    assert choose(enough * 0.9, PACES)[0] == "1m"


def test_a_recipe_is_resolved_by_real_steps() -> None:
    """A second of measuring gives numbers that stay: no minutes are left in the recipe."""
    recipe = Recipe(
        "tiny",
        (source("words"),),
        size="1m",
        minutes=2,
        tokenizer=TokenizerOptions(vocab=300),
        pretrain=Pretrain(context=64),
    )
    resolved, facts = resolve(recipe)
    assert (resolved.size, resolved.minutes, resolved.steps) == ("1m", 0, facts["steps"])
    assert resolved.steps >= 20
    assert list(measure(2, recipe).paces) == ["1m"]


def test_a_run_ends_annealed() -> None:
    """The rate rises, stays, and falls to nearly nothing; it is never nothing."""
    shares = [Schedule(500).share(step) for step in range(500)]
    assert max(shares) == 1.0
    assert 0 < shares[0] < 0.2
    assert 0 < shares[-1] < 0.01
    assert shares[250:] == sorted(shares[250:], reverse=True)
