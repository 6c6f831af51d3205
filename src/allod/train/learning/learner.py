"""One network that learns, step by step, on one rank or many: the same numbers either way."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard

from allod.core.errors import Invalid
from allod.model.network.llama import Network, Shape
from allod.train.learning.batches import TokenBatches
from allod.train.learning.losses import next_token_loss, next_token_loss_in_chunks
from allod.train.learning.muon import Optimiser, Rates, whole
from allod.train.learning.ranks import Ranks
from allod.train.learning.schedule import Schedule

LANES = 2
"""Parts that a step's rows are cut into at least. Gradients are added lane by lane in one order, so that two ranks with
a lane each, and one rank with both, add the same numbers: what one began, the other may finish."""
MAX_PIECE_TOKENS = 16_384  # that go through the network at once; memory is bounded by it
MAX_GRADIENT = 1.0  # longer gradients are shortened to this length


@dataclass(frozen=True, slots=True)
class Plan:
    """What is done in every step, fixed before the first."""

    batches: TokenBatches
    schedule: Schedule
    goldfish_k: int = 0


class Learner:
    """A network, its optimiser, and the losses so far. `state` is all that a checkpoint must hold."""

    def __init__(self, shape: Shape, plan: Plan, ranks: Ranks, *, seed: int) -> None:
        self.plan = plan
        self.ranks = ranks
        self.lanes = max(LANES, ranks.count)
        if plan.batches.rows % self.lanes or self.lanes % ranks.count:
            raise Invalid(
                f"{plan.batches.rows} windows in a step cannot be shared by {ranks.count} ranks",
                code="ranks_impossible",
                hint="start a number of ranks that divides the windows in a step: a power of two",
            )
        self.network = Network(shape)
        self.network.initialise(seed)
        self.network.to(ranks.device)
        if ranks.count > 1:
            shard(self.network)
        self._parameters = list(self.network.parameters())
        self.optimiser = Optimiser(self.network.named_parameters(), Rates())
        self.losses = torch.zeros(plan.schedule.steps, dtype=torch.float64)
        # on a CPU compiling takes longer than it saves in a run of minutes
        self._compiled = torch.compile(self.network) if ranks.device.type == "cuda" else None

    @property
    def state(self) -> dict[str, Tensor]:
        """Tensors by name, to be saved, or read into."""
        weights = {f"weights.{name}": tensor.detach() for name, tensor in self.network.named_parameters()}
        return {**weights, **self.optimiser.state, "losses": self.losses}

    def learn(self, step: int) -> float:
        """Make step `step`, counted from 0. Returns its loss in nats a token. Raises Invalid (`loss_not_finite`)."""
        every = self.ranks.gather(self._backward(step))
        loss = sum(every) / len(every)
        length = gradient_length(self.network)
        if not math.isfinite(loss) or not math.isfinite(length):
            raise Invalid(
                f"the loss of step {step + 1} is not a finite number",
                code="loss_not_finite",
                hint="try another seed or size; what was saved before this step is still there",
            )
        self.optimiser.shorten(min(1.0, MAX_GRADIENT / (length + 1e-6)))
        self.optimiser.step(step, self.plan.schedule.share(step))
        self.losses[step] = loss
        return loss

    def _backward(self, step: int) -> list[float]:
        """Gradients of this rank's lanes, each summed by itself and then added in order. Returns the lanes' losses.

        Ranks take the mean of their gradients, so each takes the mean of its lanes.
        """
        lanes = self.lanes // self.ranks.count
        losses: list[float] = []
        sums: list[Tensor] = []
        for lane in range(self.ranks.number * lanes, (self.ranks.number + 1) * lanes):
            losses.append(self._backward_lane(step, lane, share=1 / lanes))
            gradients = self._take_gradients()
            sums = [one + other for one, other in zip(sums, gradients, strict=True)] if sums else gradients
        for parameter, gradient in zip(self._parameters, sums, strict=True):
            parameter.grad = gradient
        return losses

    def _take_gradients(self) -> list[Tensor]:
        gradients = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        for parameter in self._parameters:
            parameter.grad = None
        return gradients

    def _backward_lane(self, step: int, lane: int, *, share: float) -> float:
        """Add up the gradient of one lane, piece by piece; ranks hear of it with the last. Returns the lane's loss."""
        rows = self.plan.batches.batch(step, part=lane, parts=self.lanes).to(self.ranks.device)
        pieces = torch.split(rows, max(1, MAX_PIECE_TOKENS // self.plan.batches.context))
        total = 0.0
        for number, piece in enumerate(pieces, start=1):
            if isinstance(self.network, FSDPModule):
                self.network.set_requires_gradient_sync(number == len(pieces))
            loss = self._loss(piece[:, :-1], piece[:, 1:])
            torch.autograd.backward(loss * (share * len(piece) / len(rows)))
            total += loss.item() * len(piece) / len(rows)
        return total

    def _loss(self, tokens: Tensor, targets: Tensor) -> Tensor:
        if self._compiled is None:
            head = partial(next_token_loss_in_chunks, targets=targets, goldfish_k=self.plan.goldfish_k)
            loss: Tensor = self.network(tokens, head)
            return loss
        with torch.autocast("cuda", torch.bfloat16):
            return next_token_loss(self._compiled(tokens), targets, goldfish_k=self.plan.goldfish_k)


def shard(network: Network) -> None:
    """Spread the parameters over the ranks (FSDP2, arXiv:2304.11277): layer by layer, then what is left."""
    for layer in network.model.layers:
        fully_shard(layer)
    fully_shard(network)


def whole_network(network: Network) -> Network:
    """The network with all its weights, in the memory of a CPU, on every rank."""
    found = Network(network.shape)
    found.load_state_dict({name: whole(tensor.detach()).cpu() for name, tensor in network.state_dict().items()})
    return found


def gradient_length(network: nn.Module) -> float:
    """Euclidean length of all gradients together. Row by row first, because that is how ranks hold them."""
    squares = (parameter.grad.square() for parameter in network.parameters() if parameter.grad is not None)
    rows = (whole(square.sum(-1) if square.ndim == 2 else square) for square in squares)
    return math.sqrt(sum(float(row.double().sum()) for row in rows))
