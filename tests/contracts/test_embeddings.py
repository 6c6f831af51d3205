"""Embeddings by the real engine: a model whose header says how to pool is served as an embedding model."""

from __future__ import annotations

import asyncio
import math
import struct
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from allod.app.gateway.engine import run_engine
from allod.app.gateway.weights import prepare_weights
from allod.app.home import load_settings
from allod.core.errors import Invalid
from allod.core.requests import Embed
from allod.engine.engine import Engine, Tally
from allod.model.gguf.header import read_header

pytestmark = pytest.mark.slow
MEAN_POOLING, LAST_POOLING = 1, 3


def with_pooling(source: Path, target: Path, pooling: int = MEAN_POOLING) -> None:
    """A copy of a GGUF file with one more key in its header: `llama.pooling_type`."""
    import gguf

    reader = gguf.GGUFReader(source)
    data_begins, old = reader.data_offset, source.read_bytes()
    header_ends = max(field.offset + sum(part.nbytes for part in field.parts) for field in reader.fields.values())
    num_keys = struct.unpack_from("<Q", old, 16)[0]
    key = b"llama.pooling_type"
    added = struct.pack("<Q", len(key)) + key + struct.pack("<II", 4, pooling)
    head = old[:16] + struct.pack("<Q", num_keys + 1) + old[24:header_ends] + added
    tensors = old[header_ends:data_begins].rstrip(b"\0")
    table = head + old[header_ends : header_ends + len(tensors) + (-len(tensors) % 4)]
    padded = table + bytes(-len(table) % 32)
    target.write_bytes(padded + old[data_begins:])


@pytest.fixture
def running(weights: Path, tmp_path: Path) -> AbstractAsyncContextManager[Engine]:
    model = tmp_path / "embedder.gguf"
    with_pooling(weights, model)
    assert read_header(model).can_embed
    settings = load_settings({"model.name": str(model), "model.context_tokens": 512}, home=tmp_path / "home")
    return run_engine(settings, prepare_weights(settings, lambda what, done, total: None))


async def test_who_leaves_early_is_told_what_was_computed(running: AbstractAsyncContextManager[Engine]) -> None:
    """All of the texts that the engine had begun with, by its own count, and no others."""
    group = tuple(f"{number} The cat sat on the mat." for number in range(32))
    async with running as engine:
        whole = (await engine.embed(Embed("m", group))).usage.prompt_tokens
        tally = Tally(engine.info)
        embedding = asyncio.create_task(engine.embed(Embed("m", group * 3), tally=tally))
        await asyncio.sleep(0.1)
        embedding.cancel()
        with pytest.raises(asyncio.CancelledError):
            await embedding
    assert tally.prompt_tokens == whole


async def test_similar_texts_have_similar_vectors(running: AbstractAsyncContextManager[Engine]) -> None:
    """Through the sealed engine: unit vectors, in the order of the texts, nearer where the texts are."""
    texts = ("The cat sat on the mat.", "A cat is sitting on a mat.", "Income tax is due in January.")
    async with running as engine:
        made = await engine.embed(Embed("m", texts))
        again = await engine.embed(Embed("m", texts[::-1]))
        with pytest.raises(Invalid, match="longer than the context"):
            await engine.embed(Embed("m", ("word " * 3000,)))
    first, second, third = made.vectors
    assert all(math.isclose(math.hypot(*vector), 1.0, abs_tol=1e-3) for vector in made.vectors)
    assert sum(a * b for a, b in zip(first, second, strict=True)) > sum(
        a * b for a, b in zip(first, third, strict=True)
    )
    assert sum(a * b for a, b in zip(again.vectors[2], first, strict=True)) > 0.999
    assert made.usage.prompt_tokens > 0
