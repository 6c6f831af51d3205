"""A product of matrices on a device, checked to the last bit: `python -m allod.fleet.preflight.torch_gpu DEVICE`.

The numbers are small integers, which float32 adds and multiplies exactly in whatever order, so that every device that
computes at all computes the same. Prints `{"error": "", "said": ...}`.
"""

from __future__ import annotations

import json
import sys

import torch

from allod.fleet.leaving import leave

_SIDE = 256


def multiply(device: str) -> str:
    """What `device` is, once its product is the processor's. Raises ArithmeticError where it is not."""
    left = torch.arange(_SIDE * _SIDE).reshape(_SIDE, _SIDE) % 7 - 3
    right = torch.arange(_SIDE * _SIDE).reshape(_SIDE, _SIDE) % 5 - 2
    product = (left.float().to(device) @ right.float().to(device)).cpu()
    if not torch.equal(product, (left @ right).float()):
        raise ArithmeticError(f"{device} multiplies matrices wrongly")
    name = torch.cuda.get_device_name(device) if device != "cpu" else "this processor"
    return f"torch {torch.__version__}: {_SIDE} x {_SIDE} by {_SIDE} x {_SIDE} on {name}"


def main(device: str) -> int:
    """Multiply, and print what came of it."""
    try:
        row = {"error": "", "said": multiply(device)}
    except (RuntimeError, AssertionError, ArithmeticError) as error:  # torch raises AssertionError without CUDA
        row = {"error": type(error).__name__, "said": str(error).partition("\n")[0]}
    sys.stdout.write(json.dumps(row) + "\n")
    return 0


if __name__ == "__main__":
    leave(main(sys.argv[1]))
