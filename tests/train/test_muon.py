"""How weights are changed."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="torch comes with the train extra")

import torch

from allod.model.network.llama import Network, Shape
from allod.train.learning.muon import Optimiser, Rates, orthogonalise

SHAPE = Shape(vocab=64, width=64, layers=2, heads=2, kv_heads=1, hidden=128, context=16)


def drawn(*sizes: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*sizes, generator=torch.Generator().manual_seed(seed))


def new_network() -> Network:
    network = Network(SHAPE)
    network.initialise(1)
    return network


def fill_gradients(network: Network, seed: int) -> None:
    for number, parameter in enumerate(network.parameters()):
        parameter.grad = drawn(*parameter.shape, seed=seed * 1000 + number)


@pytest.mark.parametrize("size", [(64, 64), (32, 96), (96, 32)], ids=["square", "wide", "tall"])
def test_orthogonalised_matrices_have_about_equal_singular_values(size: tuple[int, int]) -> None:
    """All but the smallest singular values end near one, and the directions stay what they were."""
    matrix = drawn(*size)
    found = orthogonalise(matrix[None])[0]
    values = torch.linalg.svdvals(found)
    assert values.max() < 1.3
    assert values.quantile(0.2) > 0.6
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    assert torch.nn.functional.cosine_similarity(found.flatten(), (left @ right).flatten(), dim=0) > 0.9


def test_matrices_of_one_size_do_not_disturb_each_other() -> None:
    """Made orthogonal together or alone, the result is the same but for rounding."""
    pair = torch.stack((drawn(32, 48), 100 * drawn(32, 48, seed=2)))
    torch.testing.assert_close(orthogonalise(pair)[1], orthogonalise(pair[1:])[0], rtol=1e-3, atol=1e-4)


def test_muon_is_for_the_matrices_of_the_layers() -> None:
    """Tables and norms, which are no maps from values to values, are left to Adam."""
    optimiser = Optimiser(new_network().named_parameters(), Rates())
    assert all(".layers." in name and "norm" not in name for name in optimiser.matrices)
    assert len(optimiser.matrices) == 2 * 7
    assert set(optimiser.others) >= {"model.embed_tokens.weight", "model.norm.weight"}


def test_adam_is_torchs() -> None:
    """Tables and norms end where torch's own Adam would have brought them."""
    network, other = new_network(), new_network()
    rates = Rates(tables=0.01, norms=0.01)
    ours = Optimiser(network.named_parameters(), rates)
    theirs = torch.optim.Adam(other.parameters(), lr=0.01, betas=rates.betas, eps=1e-10)
    for step in range(5):
        fill_gradients(network, step)
        fill_gradients(other, step)
        ours.step(step, 1.0)
        theirs.step()
    for name in ours.others:
        torch.testing.assert_close(network.state_dict()[name], other.state_dict()[name], rtol=1e-5, atol=1e-6)


def test_the_state_is_all_that_is_remembered() -> None:
    """An optimiser with another's state makes the same step, to the bit."""
    network, other = new_network(), new_network()
    optimiser = Optimiser(network.named_parameters(), Rates())
    for step in range(3):
        fill_gradients(network, step)
        optimiser.step(step, 1.0)
    other.load_state_dict(network.state_dict())
    resumed = Optimiser(other.named_parameters(), Rates())
    for name, tensor in resumed.state.items():
        tensor.copy_(optimiser.state[name])
    for one, its in ((network, optimiser), (other, resumed)):
        fill_gradients(one, 9)
        its.step(3, 0.5)
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in network.state_dict().items())


def test_a_share_of_the_rate_is_a_share_of_the_step() -> None:
    """Half the rate moves a matrix half as far."""
    moving, moved = "model.layers.0.mlp.up_proj.weight", []
    for share in (0.5, 1.0):
        network = new_network()
        before = network.get_parameter(moving).detach().clone()
        fill_gradients(network, 1)
        Optimiser(network.named_parameters(), Rates()).step(0, share)
        moved.append(network.get_parameter(moving).detach() - before)
    torch.testing.assert_close(2 * moved[0], moved[1], rtol=1e-3, atol=1e-6)
