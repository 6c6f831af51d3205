"""How fast ranks add up gradients: run by torchrun on every rank, `python -m allod.fleet.preflight.all_reduce`.

Each prints `{"all_reduce_mb_s": ...}`: bus bandwidth as NVIDIA's nccl-tests count it, bytes / time × 2(n-1)/n, so
that it compares with the network's own, whatever the number n of ranks. The best of several rounds: a machine that is
busy at the moment is not a slow one.
"""

from __future__ import annotations

import json
import sys
import time

import torch
import torch.distributed as dist

from allod.fleet.leaving import leave

BYTES_CPU, BYTES_GPU = 16 << 20, 1 << 30
ROUNDS = 8


def main() -> int:
    """Measure; every rank prints what it saw."""
    sys.stdout.write(json.dumps({"all_reduce_mb_s": measure_together()}) + "\n")
    return 0


def measure_together() -> int:
    """MB/s as this rank saw it. All ranks that torchrun started call this: it joins them, and leaves them again."""
    torch.set_num_threads(1)
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(dist.get_node_local_rank())
    dist.init_process_group("nccl" if on_gpu else "gloo")
    try:
        measured = measure("cuda" if on_gpu else "cpu", BYTES_GPU if on_gpu else BYTES_CPU)
        dist.barrier()  # nobody leaves while another still hears from it
        return measured
    finally:
        dist.destroy_process_group()


def measure(device: str, num_bytes: int) -> int:
    """MB/s (10⁶ bytes) of the best round, over `num_bytes` of float32."""
    values = torch.zeros(num_bytes // 4, device=device)
    best_s = min(_round_s(values) for _ in range(ROUNDS))
    ranks = dist.get_world_size()
    return round(num_bytes / best_s * 2 * (ranks - 1) / ranks / 1e6)


def _round_s(values: torch.Tensor) -> float:
    dist.barrier()
    begun_s = time.perf_counter()
    dist.all_reduce(values)
    if values.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - begun_s


if __name__ == "__main__":
    leave(main())
