"""Networks and adapters as GGUF: what is in the file, and that it is always the same."""
# ruff: noqa: E402 - imported once it is known that the train extra is there

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

gguf = pytest.importorskip("gguf")
pytest.importorskip("numpy")
pytest.importorskip("torch")

import numpy as np
from gguf.quants import dequantize

from allod.core.errors import Invalid
from allod.model.gguf.header import read_header
from allod.model.gguf.writer import KINDS, check_kind, engine_name, rotary_rows, write_adapter, write_model
from allod.model.network.llama import Network, Shape
from allod.model.network.tokenizer_files import CHAT_TEMPLATE, write_tokenizer

SHAPE = Shape(vocab=261, width=64, layers=2, heads=4, kv_heads=2, hidden=96, context=128)
KEYS = {"general.name": "tiny", "general.license": "CC0-1.0", "allod.derivation": "sha256:" + "1" * 64}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder, [bytes([byte]) for byte in range(256)] + [b"th", b"the"], [(b"t", b"h"), (b"th", b"e")])
    return folder


@pytest.fixture(scope="module")
def weights() -> dict[str, Any]:
    """A network's tensors by its own names."""
    network = Network(SHAPE)
    network.initialise(5)
    return {name: tensor.numpy() for name, tensor in network.state_dict().items() if name != "lm_head.weight"}


def sources(weights: Mapping[str, Any]) -> dict[str, Callable[[], Any]]:
    return {name: (lambda array=array: array) for name, array in weights.items()}  # type: ignore[misc]


def read(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The keys and the tensors, in f32, as the gguf package reads them."""
    reader = gguf.GGUFReader(path)
    keys = {name: field.contents() for name, field in reader.fields.items()}
    return keys, {tensor.name: dequantize(tensor.data, tensor.tensor_type) for tensor in reader.tensors}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_passes_the_gate(tmp_path: Path, tokenizer: Path, weights: dict[str, Any], kind: str) -> None:
    """What is written here is what the gate before the engine accepts, with its name, context and history."""
    write_model(tmp_path / "m.gguf", SHAPE, sources(weights), tokenizer, kind=kind, keys=KEYS)
    header = read_header(tmp_path / "m.gguf")
    assert (header.architecture, header.name, header.context_tokens) == ("llama", "tiny", 128)
    assert (header.derivation, header.num_parameters) == (KEYS["allod.derivation"], SHAPE.num_parameters)
    assert header.has_template


@pytest.mark.parametrize(("kind", "error"), [("f16", 1e-4), ("q8_0", 1e-3), ("q4_0", 2e-2)])
def test_the_tensors_are_the_networks(
    tmp_path: Path, tokenizer: Path, weights: dict[str, Any], kind: str, error: float
) -> None:
    """Under the engine's names, up to rounding; rows of q and k in the order of the format."""
    write_model(tmp_path / "m.gguf", SHAPE, sources(weights), tokenizer, kind=kind, keys={})
    _, tensors = read(tmp_path / "m.gguf")
    assert tensors.keys() == {engine_name(name) for name in weights}
    for name, array in weights.items():
        wanted = array
        if "q_proj" in name or "k_proj" in name:
            wanted = rotary_rows(array, 4 if "q_proj" in name else 2)
        assert np.abs(tensors[engine_name(name)] - wanted).max() <= error, name


def test_norms_stay_whole(tmp_path: Path, tokenizer: Path, weights: dict[str, Any]) -> None:
    """Numbers of one dimension are few and matter: f32 in every kind."""
    odd = {name: array + 1 / 3 if array.ndim == 1 else array for name, array in weights.items()}
    write_model(tmp_path / "m.gguf", SHAPE, sources(odd), tokenizer, kind="q4_0", keys={})
    _, tensors = read(tmp_path / "m.gguf")
    assert (tensors["output_norm.weight"] == odd["model.norm.weight"]).all()


def test_rows_that_are_no_whole_blocks_are_not_quantised(tmp_path: Path, tokenizer: Path) -> None:
    """A width of 48 holds one block and a half: those tensors stay in f16, and the file is whole."""
    shape = replace(SHAPE, width=48)
    network = Network(shape)
    network.initialise(1)
    arrays = {name: tensor.numpy() for name, tensor in network.state_dict().items() if name != "lm_head.weight"}
    write_model(tmp_path / "m.gguf", shape, sources(arrays), tokenizer, kind="q8_0", keys={})
    kinds = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(tmp_path / "m.gguf").tensors}
    assert (kinds["token_embd.weight"], kinds["blk.0.ffn_down.weight"]) == ("F16", "Q8_0")
    read_header(tmp_path / "m.gguf")


def test_the_header_tells_the_engine_all_it_must_know(tmp_path: Path, tokenizer: Path, weights: dict[str, Any]) -> None:
    """The split of text, the special tokens, that nothing is added to a prompt, the template, the shape."""
    write_model(tmp_path / "m.gguf", SHAPE, sources(weights), tokenizer, kind="f16", keys=KEYS)
    keys, _ = read(tmp_path / "m.gguf")
    assert {name: keys[f"tokenizer.ggml.{name}"] for name in ("model", "pre", "add_bos_token")} == {
        "model": "gpt2",
        "pre": "llama-bpe",
        "add_bos_token": False,
    }
    tokens, kinds = keys["tokenizer.ggml.tokens"], keys["tokenizer.ggml.token_type"]
    assert tokens[-5:] == ["th", "the", "<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    assert kinds == [1] * 258 + [3] * 3
    assert keys["tokenizer.ggml.merges"] == ["t h", "th e"]
    assert (keys["tokenizer.ggml.eos_token_id"], keys["tokenizer.ggml.bos_token_id"]) == (260, 258)
    assert keys["tokenizer.chat_template"] == CHAT_TEMPLATE
    assert (keys["llama.attention.head_count"], keys["llama.attention.head_count_kv"]) == (4, 2)
    assert (keys["llama.rope.dimension_count"], keys["llama.rope.freq_base"]) == (16, 10000.0)
    assert {name: keys[name] for name in KEYS} == KEYS


def test_the_same_network_gives_the_same_bytes(tmp_path: Path, tokenizer: Path, weights: dict[str, Any]) -> None:
    """Whatever the order in which keys come."""
    write_model(tmp_path / "a", SHAPE, sources(weights), tokenizer, kind="q8_0", keys=KEYS)
    write_model(tmp_path / "b", SHAPE, sources(weights), tokenizer, kind="q8_0", keys=dict(reversed(KEYS.items())))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_table_of_its_own_is_written_too(tmp_path: Path, tokenizer: Path, weights: dict[str, Any]) -> None:
    """Where embeddings and output are not tied, both are there."""
    untied = {**weights, "lm_head.weight": weights["model.embed_tokens.weight"] * 2}
    write_model(tmp_path / "m.gguf", replace(SHAPE, tied=False), sources(untied), tokenizer, kind="f16", keys={})
    assert "output.weight" in read(tmp_path / "m.gguf")[1]


def test_another_networks_tokenizer_is_refused(tmp_path: Path, tokenizer: Path, weights: dict[str, Any]) -> None:
    """A token without a row, or a row without a token, is a mistake somewhere else."""
    with pytest.raises(Invalid) as caught:
        write_model(tmp_path / "m.gguf", replace(SHAPE, vocab=300), sources(weights), tokenizer, kind="f16", keys={})
    assert caught.value.code == "vocab_mismatch"


@pytest.mark.parametrize(
    ("kind", "shape", "why"),
    [
        ("q4_k_m", SHAPE, "no multiple of 256"),
        ("q6_k", replace(SHAPE, width=256, hidden=512), "not made"),
        ("q7_9", SHAPE, "no kind of GGUF"),
    ],
)
def test_what_cannot_be_made_is_refused_with_the_reason(kind: str, shape: Shape, why: str) -> None:
    """K-quants above all: they want rows of 256."""
    with pytest.raises(Invalid, match=why) as caught:
        check_kind(kind, shape)
    assert caught.value.code == "quantise_unsupported"


def test_rotary_rows_bring_together_what_turns_together() -> None:
    """Within each head: i, i + half, i + 1, i + 1 + half."""
    rows = np.arange(8, dtype=np.float32)[:, None]
    assert rotary_rows(rows, 2)[:, 0].tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


@pytest.mark.parametrize(
    "name", ["", "model.weight", "model.layers.0.q_proj.weight", "lm_head.bias", "x.lora_A.weight"]
)
def test_tensors_that_no_llama_has_are_refused(name: str) -> None:
    """They would be dropped in silence otherwise."""
    with pytest.raises(Invalid) as caught:
        engine_name(name)
    assert caught.value.code == "tensor_unknown"


def test_an_adapter_has_its_pairs_and_its_scale(tmp_path: Path) -> None:
    """A as it is, B of q and k in the order of the format; and the gate knows it for an adapter."""
    layer = "base_model.model.model.layers.1"
    generator = np.random.default_rng(1)
    arrays = {
        f"{layer}.{part}.lora_{side}.weight": generator.normal(size=size).astype(np.float32)
        for part, rows in (("self_attn.q_proj", 64), ("self_attn.k_proj", 32), ("mlp.up_proj", 96))
        for side, size in (("A", (8, 64)), ("B", (rows, 8)))
    }
    path = tmp_path / "adapter.gguf"
    write_adapter(path, sources(arrays), architecture="llama", heads=4, kv_heads=2, alpha=16, keys=KEYS)
    keys, tensors = read(path)
    assert {name: keys[name] for name in ("general.type", "adapter.type", "adapter.lora.alpha")} == {
        "general.type": "adapter",
        "adapter.type": "lora",
        "adapter.lora.alpha": 16.0,
    }
    q_a, q_b = (arrays[f"{layer}.self_attn.q_proj.lora_{side}.weight"] for side in "AB")
    assert (tensors["blk.1.attn_q.weight.lora_a"] == q_a).all()
    assert (tensors["blk.1.attn_q.weight.lora_b"] == rotary_rows(q_b, 4)).all()
    k_b, up_b = (arrays[f"{layer}.{part}.lora_B.weight"] for part in ("self_attn.k_proj", "mlp.up_proj"))
    assert (tensors["blk.1.attn_k.weight.lora_b"] == rotary_rows(k_b, 2)).all()
    assert (tensors["blk.1.ffn_up.weight.lora_b"] == up_b).all()
    assert read_header(path, is_adapter=True).derivation == KEYS["allod.derivation"]
    with pytest.raises(Invalid):
        read_header(path)
