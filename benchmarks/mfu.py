"""Model FLOPs utilisation on a GPU: our learner (bf16, torch.compile, Muon) beside a plain nanoGPT-style loop (AdamW).

    python benchmarks/mfu.py [--sizes 124m 1b] [--context 1024] [--vocab 32768] [--rounds 3] [--peak-tflops N]

Synthetic tokens: what is measured is arithmetic, not reading. Operations are counted as in PaLM (arXiv:2204.02311,
appendix B: six a weight and token, attention without deduction for the causal mask); the peak is the device's
for dense bf16 as its maker states it. Both sides learn the same batches in pieces of the same size; the first steps,
in which the network is compiled, are not counted. Rounds are interleaved. Needs a CUDA device, and about 70 GiB for 1b.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import count, islice

try:
    import numpy as np
    import torch
    from numpy.typing import NDArray
except ImportError as error:
    sys.exit(f"error: {error.name} is missing\n\nhint: make setup-train")

from allod.model.network.llama import Shape
from allod.train.learning.batches import Section, TokenBatches
from allod.train.learning.learner import MAX_PIECE_TOKENS, Learner, Plan
from allod.train.learning.ranks import Ranks
from allod.train.learning.schedule import Schedule
from allod.train.learning.sizes import batch_rows, shape_of
from measure import machine, paired, rotated, spread
from plain_loop import PlainLlama, plain_steps

PEAK_TFLOPS = {  # dense bf16, from the makers' data sheets; the first name that the device's contains
    "GH200": 990, "H200": 989, "H100 PCIe": 756, "H100 NVL": 835, "H100": 989, "B200": 2250, "A100": 312,
    "L40S": 362, "L4": 121, "RTX 4090": 165,
}  # fmt: skip
WARM_STEPS = 5
RATE = 3e-4


class Noise:
    """Tokens drawn at random, the same every time, read like a corpus."""

    num_tokens = 1 << 24

    def __init__(self, vocab: int) -> None:
        self._tokens = np.random.default_rng(1).integers(0, vocab, self.num_tokens)

    def window(self, start: int, length: int) -> NDArray[np.int64]:
        return self._tokens[start : start + length]


def ours(shape: Shape, batches: TokenBatches, device: torch.device) -> Iterator[float]:
    """Our learner, step by step."""
    learner = Learner(shape, Plan(batches, Schedule(1_000_000)), Ranks(0, 1, device), seed=1)
    for step in count():
        yield learner.learn(step)


def plain(shape: Shape, batches: TokenBatches, device: torch.device) -> Iterator[float]:
    """The plain loop on the same batches."""
    torch.manual_seed(1)

    def batch_of(step: int) -> tuple[torch.Tensor, torch.Tensor]:
        rows = batches.batch(step).to(device)
        return rows[:, :-1].contiguous(), rows[:, 1:].contiguous()

    network = PlainLlama(shape).to(device)
    piece_rows = max(1, MAX_PIECE_TOKENS // shape.context)
    return plain_steps(network, batch_of, rate=RATE, device=device.type, piece_rows=piece_rows)


def seconds(steps: Iterator[float], number: int, device: torch.device) -> float:
    """Of the clock, for so many steps."""
    _synchronise(device)
    begun = time.perf_counter()
    for _ in islice(steps, number):
        pass
    _synchronise(device)
    return time.perf_counter() - begun


def measure(shape: Shape, *, steps: int, rounds: int, device: torch.device) -> dict[str, list[float]]:
    """Tokens a second of both, by round."""
    batches = TokenBatches(
        (Section("noise", Noise(shape.vocab)),), context=shape.context, rows=batch_rows(shape), seed=1
    )
    sides = {"ours": ours(shape, batches, device), "plain loop": plain(shape, batches, device)}
    for side in sides.values():
        seconds(side, WARM_STEPS, device)
    speed: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds):
        for name in rotated(list(sides), number):
            taken = seconds(sides[name], steps, device)
            speed[name].append(steps * batches.tokens_per_step / taken)
    return speed


def report(shape: Shape, speed: dict[str, list[float]], peak: float) -> None:
    """Tokens a second, MFU in per cent, and the ratio."""
    print(f"{shape.num_parameters:,} parameters, {batch_rows(shape)} rows of {shape.context} tokens in a step")
    for name, values in speed.items():
        mfu = [100 * value * shape.flops_per_token / peak for value in values]
        print(f"  {name:12} {spread(values, 0):>36} tokens/s, MFU {spread(mfu, 1)} per cent")
    print(f"  ours to the plain loop: {spread(paired(speed['ours'], speed['plain loop']))}")


def peak_of(name: str, given: float | None) -> float:
    """Operations a second. Exits where the device is not in the table and no peak is given."""
    if given:
        return given * 1e12
    for known, tflops in PEAK_TFLOPS.items():
        if known in name:
            return tflops * 1e12
    return refuse(f"the peak of {name} is not known", "say it: --peak-tflops N, dense bf16, from its data sheet")


def refuse(what: str, hint: str) -> float:
    """Say why nothing is measured, and end with the status of what is unavailable."""
    print(f"error: {what}\n\nhint: {hint}", file=sys.stderr)
    raise SystemExit(3)


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", nargs="+", default=["124m", "1b"])
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--vocab", type=int, default=32_768)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peak-tflops", type=float)
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        refuse("no CUDA device is visible, and MFU is of one", "run it where `python -c 'import torch; "
               "print(torch.cuda.is_available())'` says True; torch from its CPU index sees none")  # fmt: skip
    device = torch.device("cuda", 0)
    name = torch.cuda.get_device_name(device)
    peak = peak_of(name, options.peak_tflops)
    torch.set_float32_matmul_precision("high")
    print(machine(), f", torch {torch.__version__}, {name}, peak {peak / 1e12:.0f} TFLOP/s", sep="")
    for size in options.sizes:
        shape = shape_of(size, vocab=options.vocab, context=options.context)
        report(shape, measure(shape, steps=options.steps, rounds=options.rounds, device=device), peak)
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
