"""What passes the gate, in the real engine: it loads and answers, or the reason why not is told; it never crashes.

Mutants of a small whole file, and templates of strangers, each through the gate and then into a sealed engine.
"""

from __future__ import annotations

import asyncio
import random
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.hostile.templates import HONEST, HOSTILE
from tests.serve.conftest import chat
from tests.serve.tiny_model import write_tiny_model

from allod.app.gateway.engine import Weights, run_engine
from allod.app.gateway.weights import prepare_weights
from allod.app.home import load_settings
from allod.core.errors import AllodError, Invalid
from allod.core.requests import Sampling
from allod.model.store import silent
from allod.settings.tree import Settings

pytestmark = pytest.mark.slow

NUM_MUTANTS = 60
NUM_HOSTILE = 20
TENSOR_BYTES = 600  # of their descriptions
BOUNDS = (0, 1, 2, 3, 255, 1 << 15, (1 << 31) - 1, 1 << 31, (1 << 32) - 1)
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_STRING, _ARRAY = 8, 9


class Pair(NamedTuple):
    """A key and its value: where they lie in the file."""

    begin: int
    value: int
    end: int
    kind: int


def pairs_of(data: bytes) -> list[Pair]:
    """Every pair of a whole header."""

    def end_of(kind: int, at: int) -> int:
        if kind == _STRING:
            return int(at + 8 + struct.unpack_from("<Q", data, at)[0])
        if kind == _ARRAY:
            items, length = struct.unpack_from("<IQ", data, at)
            at += 12
            for _ in range(length):
                at = end_of(items, at)
            return at
        return at + _SIZES[kind]

    at, found = 24, []
    for _ in range(struct.unpack_from("<Q", data, 16)[0]):
        value = end_of(_STRING, at) + 4
        (kind,) = struct.unpack_from("<I", data, value - 4)
        found.append(Pair(at, value, end_of(kind, value), kind))
        at = found[-1].end
    return found


def mutants(whole: bytes, number: int) -> Iterator[bytes]:
    """A bit, a number, a type or a key's name changed; texts of the vocabulary stay as they are."""
    draw = random.Random(9)
    pairs = pairs_of(whole)
    numbers = [pair for pair in pairs if pair.kind not in (_STRING, _ARRAY)]
    bits = [at for pair in pairs if pair.kind != _ARRAY for at in range(pair.begin, pair.end)]
    bits += range(pairs[-1].end, pairs[-1].end + TENSOR_BYTES)
    for _ in range(number):
        data, pair = bytearray(whole), draw.choice(pairs)
        match draw.choice(["bit", "number", "number", "type", "name"]):
            case "bit":
                data[draw.choice(bits)] ^= 1 << draw.randrange(8)
            case "number":
                pair = draw.choice(numbers)
                size = pair.end - pair.value
                data[pair.value : pair.end] = (draw.choice(BOUNDS) % (1 << 8 * size)).to_bytes(size, "little")
            case "type":
                data[pair.value - 4 : pair.value] = struct.pack("<I", draw.choice([0, 4, 5, 6, 7, 8, 10]))
            case "name":
                data[pair.value - 5] = ord("_")
        yield bytes(data)


def outcome(file: Path, home: Path) -> str:
    """`gate`, `engine` or `answered`, and the reason or the length of the answer."""
    settings = load_settings({"realm.name": "mutants.example", "model.name": str(file), "model.slots": 1}, home=home)
    try:
        weights = prepare_weights(settings, silent)
    except Invalid as error:
        return f"gate: {error.code}: {error.message}"
    try:
        return asyncio.run(answered(settings, weights))
    except AllodError as error:
        return f"engine: {error.code}: {error.message}"


async def answered(settings: Settings, weights: Weights | None) -> str:
    async with run_engine(settings, weights) as engine:
        answer = await engine.complete(chat(sampling=Sampling(seed=1, max_tokens=2)), salt="")
    return f"answered: {answer.usage.completion_tokens}"


def is_clear(told: str) -> bool:
    """Whether an engine that refuses ended by itself, and said what was wrong with the file or the request."""
    if "engine_not_started" in told:
        return "ended with exit status 1: " in told and "error loading model: " in told
    return "context_length_exceeded" in told or "engine_refused" in told


def test_a_mutant_is_refused_with_the_reason_or_answers(tmp_path: Path) -> None:
    """By the gate, or by the engine in its own words; nothing ends it by a signal or without a word."""
    whole = write_tiny_model(tmp_path / "whole.gguf").read_bytes()
    assert outcome(tmp_path / "whole.gguf", tmp_path / "home") == "answered: 2"
    file, found = tmp_path / "mutant.gguf", []
    for data in mutants(whole, NUM_MUTANTS):
        file.write_bytes(data)
        found.append(outcome(file, tmp_path / "home"))
    assert [told for told in found if told.startswith("engine") and not is_clear(told)] == []
    assert {told.partition(":")[0] for told in found} == {"gate", "engine", "answered"}


@pytest.mark.parametrize("template", random.Random(9).sample(HOSTILE, NUM_HOSTILE), ids=lambda one: one[0])
def test_a_hostile_template_meets_no_engine(tmp_path: Path, template: tuple[str, str]) -> None:
    """It is refused with its line, before anything is started."""
    told = outcome(write_tiny_model(tmp_path / "m.gguf", template=template[1]), tmp_path / "home")
    assert told.startswith("gate: template_refused: ")
    assert "is refused at line" in told


@pytest.mark.parametrize("template", HONEST, ids=lambda one: one[0])
def test_an_honest_template_is_loaded(tmp_path: Path, template: tuple[str, str]) -> None:
    """And chats are answered with it, or told why it does not make one of them."""
    told = outcome(write_tiny_model(tmp_path / "m.gguf", template=template[1]), tmp_path / "home")
    assert told.startswith("answered") or is_clear(told), told
