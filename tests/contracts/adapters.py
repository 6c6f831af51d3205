"""LoRA adapters that were learnt from nothing: as engines read them (GGUF), small, and different for each seed."""

from __future__ import annotations

import random
import struct
from array import array
from hashlib import sha256
from pathlib import Path

from allod.app.gateway.engine import Adapter
from allod.serve.served_model import ServedModel

WIDTH = 576  # of SmolLM2-135M
RANK = 2
LAYERS = range(4, 30, 5)
ALIGNMENT = 32
TEXT, FLOAT = 8, 6  # GGUF's numbers for types of values
F32 = 0


def made_adapter(path: Path, name: str, *, seed: int, base: str, strength: float = 0.15) -> Adapter:
    """An adapter over SmolLM2-135M that says something else."""
    path.write_bytes(_gguf(random.Random(seed), strength))
    digest = f"sha256:{sha256(path.read_bytes()).hexdigest()}"
    return Adapter(path, ServedModel(name, "Someone", digest, "MIT", "GB", informative=False, base=base))


def _gguf(draw: random.Random, strength: float) -> bytes:
    tensors: list[tuple[str, tuple[int, int], bytes]] = []
    for layer in LAYERS:
        name = f"blk.{layer}.attn_output.weight"
        tensors.append((f"{name}.lora_a", (WIDTH, RANK), _numbers(draw, WIDTH * RANK, 1.0)))
        tensors.append((f"{name}.lora_b", (RANK, WIDTH), _numbers(draw, WIDTH * RANK, strength)))
    values = (
        _text("general.architecture", "llama"),
        _text("general.type", "adapter"),
        _text("adapter.type", "lora"),
        _string("adapter.lora.alpha") + struct.pack("<If", FLOAT, float(RANK)),
    )
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(values)) + b"".join(values)
    offset = 0
    for tensor, shape, data in tensors:
        head += _string(tensor) + struct.pack("<IQQIQ", len(shape), *shape, F32, offset)
        offset += len(_aligned(data))
    return _aligned(head) + b"".join(_aligned(data) for _, _, data in tensors)


def _numbers(draw: random.Random, count: int, strength: float) -> bytes:
    return array("f", (draw.gauss(0, strength) for _ in range(count))).tobytes()


def _text(key: str, value: str) -> bytes:
    return _string(key) + struct.pack("<I", TEXT) + _string(value)


def _string(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


def _aligned(data: bytes) -> bytes:
    return data + bytes(-len(data) % ALIGNMENT)
