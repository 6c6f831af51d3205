"""How weights are changed: Muon for the matrices inside the layers, Adam for the tables and the norms.

Muon (Jordan et al., https://kellerjordan.github.io/posts/muon) steps along the momentum with all its singular values
made about equal, so that directions that are rarely asked for are learnt, too. At equal CPU time it is worth about a
tenth of the loss here (docs/log.md). The state is one tensor for each name and is sharded as its parameter is.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic that drives singular values towards one fastest; in the end they lie about 0.7 to 1.2."""
NUM_ITERATIONS = 3
"""Five are usual. Three leave the smallest singular values small, learn as well here, and take two fifths less time."""


@dataclass(frozen=True, slots=True)
class Rates:
    """Peak learning rates and what momentum remembers."""

    matrices: float = 0.02
    tables: float = 0.02
    norms: float = 0.006
    momentum: float = 0.95
    betas: tuple[float, float] = (0.9, 0.95)


class Optimiser:
    """Changes the parameters of a network from their gradients. `state` is all that it remembers."""

    def __init__(self, parameters: Iterable[tuple[str, nn.Parameter]], rates: Rates) -> None:
        self.rates = rates
        named = dict(parameters)
        self.matrices = {name: tensor for name, tensor in named.items() if tensor.ndim == 2 and ".layers." in name}
        self.others = {name: tensor for name, tensor in named.items() if name not in self.matrices}
        self.momentum = {name: torch.zeros_like(tensor) for name, tensor in self.matrices.items()}
        self.mean = {name: torch.zeros_like(tensor) for name, tensor in self.others.items()}
        self.square = {name: torch.zeros_like(tensor) for name, tensor in self.others.items()}

    @property
    def state(self) -> dict[str, Tensor]:
        """Every tensor that must be kept for the next step to be the same, by name; they are changed in place."""
        kinds = {"momentum": self.momentum, "mean": self.mean, "square": self.square}
        return {f"{kind}.{name}": tensor for kind, some in kinds.items() for name, tensor in some.items()}

    def shorten(self, factor: float) -> None:
        """Multiply all gradients."""
        if factor != 1.0:
            for parameter in (*self.matrices.values(), *self.others.values()):
                assert parameter.grad is not None
                local(parameter.grad).mul_(factor)

    @torch.no_grad()
    def step(self, number: int, share: float) -> None:
        """The change of step `number`, counted from 0, at `share` of the peak rates. Gradients are used up."""
        self._step_matrices(share * self.rates.matrices)
        for name in self.others:
            self._step_adam(name, number, share)
        for parameter in (*self.matrices.values(), *self.others.values()):
            parameter.grad = None

    def _step_matrices(self, rate: float) -> None:
        """Matrices of one size are made orthogonal together: fewer, larger products."""
        sizes: dict[torch.Size, list[str]] = {}
        for name, parameter in self.matrices.items():
            sizes.setdefault(parameter.shape, []).append(name)
        for size, names in sizes.items():
            directions = orthogonalise(torch.stack([whole(self._remember(name)) for name in names]))
            scale = max(1.0, size[0] / size[1]) ** 0.5
            for name, direction in zip(names, directions, strict=True):
                parameter = self.matrices[name]
                local(parameter).sub_(local(share_like(direction, parameter)), alpha=rate * scale)

    def _remember(self, name: str) -> Tensor:
        """Nesterov momentum of one matrix."""
        gradient, momentum = self.matrices[name].grad, self.momentum[name]
        assert gradient is not None
        local(momentum).lerp_(local(gradient), 1 - self.rates.momentum)
        return gradient.lerp(momentum, self.rates.momentum)

    def _step_adam(self, name: str, number: int, share: float) -> None:
        """Adam (arXiv:1412.6980) without weight decay."""
        parameter = self.others[name]
        assert parameter.grad is not None
        gradient, mean, square = local(parameter.grad), local(self.mean[name]), local(self.square[name])
        first, second = self.rates.betas
        mean.lerp_(gradient, 1 - first)
        square.lerp_(gradient.square(), 1 - second)
        spread = (square / (1 - second ** (number + 1))).sqrt_().add_(1e-10)
        peak = self.rates.tables if parameter.ndim == 2 else self.rates.norms
        local(parameter).addcdiv_(mean, spread, value=-share * peak / (1 - first ** (number + 1)))


def orthogonalise(matrices: Tensor) -> Tensor:
    """The nearest orthogonal matrix of each of [n, rows, columns], roughly, by Newton–Schulz iteration."""
    a, b, c = NEWTON_SCHULZ
    found = matrices.bfloat16() if matrices.is_cuda else matrices
    tall = found.shape[-2] > found.shape[-1]
    found = found.mT if tall else found
    found = found / (found.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(NUM_ITERATIONS):
        gram = found @ found.mT
        found = torch.baddbmm(found, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), found, beta=a)
    return (found.mT if tall else found).to(matrices.dtype)


def local(tensor: Tensor) -> Tensor:
    """This rank's part of a tensor, which is all of it where nothing is sharded."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor, gathered from the ranks where it is sharded."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def share_like(tensor: Tensor, sharded: Tensor) -> Tensor:
    """The part of `tensor`, of which every rank has all, that belongs to this rank's part of `sharded`."""
    if not isinstance(sharded, DTensor):
        return tensor
    return distribute_tensor(tensor, sharded.device_mesh, sharded.placements, src_data_rank=None)
