"""How likely continuations are: exactly what the network says, however they are batched."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="torch comes with the train extra")

import torch

from allod.model.network.llama import Network, Shape
from allod.train.evaluation.likelihoods import Continuation, likelihoods

CONTEXT = 16


@pytest.fixture(scope="module")
def network() -> Network:
    torch.set_num_threads(1)
    made = Network(Shape(vocab=40, width=16, layers=2, heads=2, kv_heads=2, hidden=32, context=CONTEXT))
    made.initialise(1)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(5)  # sure of itself, so that first choices differ
    return made


def directly(network: Network, prompt: list[int], tokens: list[int]) -> float:
    """The chain rule, one token at a time."""
    total = 0.0
    for place, token in enumerate(tokens):
        logits = network(torch.tensor([prompt + tokens[:place]]))[0, -1]
        total += float(torch.log_softmax(logits, -1)[token].detach())
    return total


def test_the_probability_of_a_continuation_is_the_product_of_its_tokens(network: Network) -> None:
    """Worked out again one token at a time."""
    (found,) = likelihoods(network, [Continuation([3, 1], [4, 1, 5])], context=CONTEXT)
    assert found.nats == pytest.approx(directly(network, [3, 1], [4, 1, 5]), abs=1e-4)
    assert found.num_tokens == 3


def test_what_else_is_asked_changes_nothing(network: Network) -> None:
    """Padding to the longest of a batch, and the order, have no effect on the answer."""
    asked = [Continuation([5] * n, [1] * (n % 3 + 1)) for n in range(1, 12)]
    together = likelihoods(network, asked, context=CONTEXT)
    alone = [likelihoods(network, [one], context=CONTEXT)[0] for one in asked]
    assert [one.nats for one in together] == pytest.approx([one.nats for one in alone], abs=1e-4)
    assert [one.num_greedy for one in together] == [one.num_greedy for one in alone]


def test_what_greedy_decoding_says_is_all_first_choices(network: Network) -> None:
    """And a continuation with one other token is not."""
    said: list[int] = []
    for _ in range(5):
        said.append(int(network(torch.tensor([[7, *said]]))[0, -1].argmax()))
    other = [*said[:-1], (said[-1] + 1) % 40]
    right, wrong = likelihoods(network, [Continuation([7], said), Continuation([7], other)], context=CONTEXT)
    assert (right.num_greedy, wrong.num_greedy) == (5, 4)


def test_too_long_a_prompt_loses_its_beginning(network: Network) -> None:
    """What stands nearest to the continuation is kept."""
    long = [1, 2, 3, 4] * 10
    cut, whole = likelihoods(
        network, [Continuation(long, [9, 9]), Continuation(long[-(CONTEXT - 1) :], [9, 9])], context=CONTEXT
    )
    assert cut.nats == pytest.approx(whole.nats, abs=1e-4)


def test_a_continuation_longer_than_the_context_is_scored_by_its_end(network: Network) -> None:
    """Rather than failing on a long choice."""
    (found,) = likelihoods(network, [Continuation([1], [2] * 40)], context=CONTEXT)
    assert found.num_tokens == CONTEXT
