"""The processes that train one network together: alone, or as many as torchrun has started."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process is rank `number` of `count`, and computes on `device`. What ranks must agree on is asked here."""

    number: int
    count: int
    device: torch.device

    @property
    def is_leader(self) -> bool:
        """Whether this rank writes for all: logs, checkpoints, the curve."""
        return self.number == 0

    def reduce_any(self, *flags: bool) -> list[bool]:
        """For each flag, whether it is set on any rank."""
        if self.count == 1:
            return list(flags)
        seen = torch.tensor(flags, dtype=torch.int32)
        dist.all_reduce(seen, dist.ReduceOp.MAX)
        return [bool(flag) for flag in seen.tolist()]

    def gather(self, values: list[float]) -> list[float]:
        """The values of all ranks, in the order of ranks; as many from each."""
        if self.count == 1:
            return values
        mine = torch.tensor(values, dtype=torch.float64)
        every = [torch.empty_like(mine) for _ in range(self.count)]
        dist.all_gather(every, mine)
        return [value for some in every for value in some.tolist()]

    def wait(self) -> None:
        """Go on only when all ranks are here."""
        if self.count > 1:
            dist.barrier()


@contextmanager
def join_ranks() -> Iterator[Ranks]:
    """Join the other ranks that torchrun has started, if it has, and leave them at the end.

    A rank on a CPU computes with one thread: threads that wait for each other by spinning cost more on a shared machine
    than they give, and another number of threads would add in another order.
    """
    torch.set_num_threads(1)
    on_gpu = torch.cuda.is_available()
    if not dist.is_torchelastic_launched():
        yield Ranks(0, 1, torch.device("cuda", 0) if on_gpu else torch.device("cpu"))
        return
    dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo")
    try:
        device = torch.device("cuda", dist.get_node_local_rank()) if on_gpu else torch.device("cpu")
        if on_gpu:
            torch.cuda.set_device(device)
        yield Ranks(dist.get_rank(), dist.get_world_size(), device)
        dist.barrier()  # nobody leaves while another still hears from it
    finally:
        dist.destroy_process_group()
