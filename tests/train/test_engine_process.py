"""The engine that exported files are tried in: it cuts text as the tokenizer does, and it can always be ended."""

from __future__ import annotations

import time
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("gguf")


from allod.core.errors import Invalid, Unavailable
from allod.model.gguf import writer as gguf_writer
from allod.model.network.llama import Network, Shape
from allod.model.network.tokenizer import Tokenizer
from allod.model.network.tokenizer_files import write_tokenizer
from allod.model.network.weights import tensors_to_write
from allod.train.exporting.engine import TrialEngine

AROUND = [bytes([byte]) for byte in b" a1'\nb2."]
LEADS = [bytes([byte]) for byte in range(0xC2, 0xF5)]
TRAILS = [bytes([byte]) for byte in range(0x80, 0xC0)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tokenizer that merges every character with its neighbours, unless text is cut between them; and a network."""
    merges = [(x, lead) for x in AROUND for lead in LEADS] + [(trail, x) for x in AROUND for trail in TRAILS]
    write_tokenizer(tmp_path, [bytes([byte]) for byte in range(256)] + [x + y for x, y in merges], merges)
    return tmp_path


def write_network(folder: Path) -> Path:
    shape = Shape(Tokenizer.load(folder).vocab, width=32, layers=1, heads=2, kv_heads=2, hidden=32, context=64)
    network = Network(shape)
    network.initialise(1)
    tensors = {name: tensor.numpy for name, tensor in tensors_to_write(network).items()}
    gguf_writer.write_model(folder / "m.gguf", shape, tensors, folder, kind="f16", keys={})
    return folder / "m.gguf"


def neighbourhoods(every: int) -> list[str]:
    known = (chr(code) for code in range(0x110000) if unicodedata.category(chr(code)) not in ("Cn", "Co", "Cs"))
    return [f"a{each}b {each}{each} '{each} 1{each}2\n{each}\n x" for each in known][::every]


def read_otherwise(engine: TrialEngine, tokenizer: Tokenizer, texts: list[str]) -> Iterator[str]:
    """Texts of which the engine makes other tokens, found by halving."""
    whole = "".join(texts)
    if engine.tokens(whole) != tokenizer.encode(whole):
        if len(texts) == 1:
            yield whole
        else:
            half = len(texts) // 2
            yield from read_otherwise(engine, tokenizer, texts[:half])
            yield from read_otherwise(engine, tokenizer, texts[half:])


@pytest.mark.parametrize("every", [97, pytest.param(1, marks=pytest.mark.slow)])
def test_the_engine_cuts_text_at_the_same_places(folder: Path, every: int) -> None:
    """Around every character that Unicode knows; the slow run leaves none out."""
    tokenizer, texts = Tokenizer.load(folder), neighbourhoods(every)
    with TrialEngine(write_network(folder), context=64) as engine:
        batches = [texts[place : place + 256] for place in range(0, len(texts), 256)]
        assert [text for batch in batches for text in read_otherwise(engine, tokenizer, batch)] == []


def test_another_split_cuts_elsewhere(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test above can fail: under the name `gpt-2` many characters are cut otherwise."""
    monkeypatch.setattr(gguf_writer, "GGUF_SPLIT", "gpt-2")
    with TrialEngine(write_network(folder), context=64) as engine:
        assert len(list(read_otherwise(engine, Tokenizer.load(folder), neighbourhoods(97)))) > 100


def test_it_can_be_ended_at_any_moment(folder: Path) -> None:
    """The very moment that it listens, too, where taking it apart in one's own process once waited for ever."""
    weights, began = write_network(folder), time.monotonic()
    for _ in range(5):
        TrialEngine(weights, context=64).close()
    assert time.monotonic() - began < 60


def test_what_it_does_not_load_is_refused_with_its_reason(tmp_path: Path) -> None:
    """In the engine's own words."""
    (tmp_path / "m.gguf").write_bytes(b"GGUF nonsense")
    with pytest.raises(Invalid, match="failed to load model") as caught:
        TrialEngine(tmp_path / "m.gguf", context=64)
    assert caught.value.code == "engine_refused"


def test_a_prompt_without_room_is_an_error(folder: Path) -> None:
    """Not a shorter prompt."""
    with TrialEngine(write_network(folder), context=64) as engine, pytest.raises(Unavailable) as caught:
        engine.greedy([65] * 5000, 1)
    assert caught.value.code == "engine_response"
