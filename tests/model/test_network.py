"""The network is LlamaForCausalLM's, bit for bit."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("torch", reason="torch comes with the train extra")
transformers = pytest.importorskip("transformers", reason="transformers comes with the train extra")

import torch  # noqa: E402

from allod.model.network.llama import Network, Shape  # noqa: E402
from allod.model.network.weights import config  # noqa: E402

PLAIN = Shape(vocab=512, width=64, layers=2, heads=2, kv_heads=2, hidden=192, context=64)
GROUPED = Shape(vocab=512, width=128, layers=2, heads=4, kv_heads=2, hidden=320, context=64)
UNTIED = Shape(vocab=300, width=64, layers=3, heads=2, kv_heads=1, hidden=128, context=96, rope_theta=5e5, tied=False)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def llama(network: Network) -> Any:
    """transformers' own network with the same weights."""
    other = transformers.LlamaForCausalLM(transformers.LlamaConfig(**config(network.shape)))
    other.load_state_dict(network.state_dict(), strict=True)
    return other.eval()


@pytest.mark.parametrize("shape", [PLAIN, GROUPED, UNTIED], ids=["plain", "grouped heads", "untied"])
@pytest.mark.parametrize(("batch", "time"), [(1, 1), (2, 17), (3, 64)])
def test_logits_are_the_same_bits(shape: Shape, batch: int, time: int) -> None:
    """In float32 the largest difference from transformers is 0.0."""
    network = Network(shape)
    network.initialise(1)
    tokens = torch.randint(0, shape.vocab, (batch, time), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        assert (network(tokens) - llama(network)(tokens).logits).abs().max().item() == 0.0


@pytest.mark.parametrize("shape", [PLAIN, GROUPED, UNTIED], ids=["plain", "grouped heads", "untied"])
def test_gradients_are_those_of_transformers(shape: Shape) -> None:
    """What is learned from a batch is what transformers would learn, but for rounding."""
    network = Network(shape)
    network.initialise(1)
    other = llama(network)
    tokens = torch.randint(0, shape.vocab, (2, 33), generator=torch.Generator().manual_seed(2))
    for logits in (network(tokens), other(tokens).logits):
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens.flatten()).backward()  # type: ignore[no-untyped-call]
    theirs = dict(other.named_parameters())
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(parameter.grad, theirs[name].grad, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("shape", [PLAIN, GROUPED, UNTIED], ids=["plain", "grouped heads", "untied"])
def test_parameters_are_counted(shape: Shape) -> None:
    """The shape knows its number of parameters without making one."""
    assert shape.num_parameters == sum(parameter.numel() for parameter in Network(shape).parameters())


def test_a_seed_is_a_network() -> None:
    """The same seed gives the same weights; another seed gives others."""
    first, again, other = Network(PLAIN), Network(PLAIN), Network(PLAIN)
    for network, seed in ((first, 7), (again, 7), (other, 8)):
        network.initialise(seed)
    name = "model.layers.1.mlp.down_proj.weight"
    assert torch.equal(first.state_dict()[name], again.state_dict()[name])
    assert not torch.equal(first.state_dict()[name], other.state_dict()[name])


def test_no_token_sees_what_comes_after_it() -> None:
    """Changing a later token changes nothing before it."""
    network = Network(GROUPED)
    network.initialise(1)
    tokens = torch.randint(0, 500, (1, 32), generator=torch.Generator().manual_seed(3))
    changed = tokens.clone()
    changed[0, 20] += 1
    with torch.no_grad():
        before, after = network(tokens), network(changed)
    assert torch.equal(before[0, :20], after[0, :20])
    assert not torch.equal(before[0, 20], after[0, 20])
