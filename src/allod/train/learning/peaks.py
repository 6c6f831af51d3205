"""What this machine can do at most, measured: multiply large matrices."""

from __future__ import annotations

import time

import torch

SIZES = {"cpu": 1024, "cuda": 8192}
MEASURED_S = 0.3


def used_s(device: torch.device) -> float:
    """A clock for work on `device`: of this process on a CPU, so that others' work is not counted; wall on a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return time.monotonic()
    return time.process_time()


def dtype_of_products(device: torch.device) -> torch.dtype:
    """What products are computed in: bfloat16 on a GPU that has it, float32 otherwise.

    Half precision is slower on CPUs without matrix units, and would make the weights depend on which CPU it is.
    """
    if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.bfloat16
    return torch.float32


def matrix_peak(device: torch.device) -> float:
    """Floating-point operations a second that a large product reaches, in `dtype_of_products`."""
    size = SIZES[device.type]
    left = torch.ones(size, size, dtype=dtype_of_products(device), device=device)
    _ = left @ left
    begun, products = used_s(device), 0
    while (taken := used_s(device) - begun) < MEASURED_S:
        _ = left @ left
        products += 1
    return products * 2 * size**3 / taken
