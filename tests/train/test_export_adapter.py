"""The stage that exports an adapter, and what the engine makes of it beside its base."""
# ruff: noqa: E402 - imported once it is known that the train extra is there

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
peft = pytest.importorskip("peft")
pytest.importorskip("gguf")

import torch
from safetensors.torch import save_file
from tests.train.exporting import write_manifest
from tests.train.packing import RECIPE, work_in

from allod.core.errors import Invalid
from allod.core.statements.training import source_input
from allod.model.gguf import writer as gguf_writer
from allod.model.gguf.header import read_header
from allod.model.network.llama import Network, Shape
from allod.model.network.tokenizer_files import write_tokenizer
from allod.model.network.weights import tensors_to_write
from allod.train.exporting.engine import TrialEngine
from allod.train.stages import export_adapter as stage
from allod.train.tuning.lora import Base, LoraAdapter

BASE_DIGEST = f"sha256:{'ba5e' * 16}"
TEXT = "The harbour master wrote in the log that the ship had"


def write_base(folder: Path) -> None:
    """`folder`/weights.gguf: a Llama of random weights."""
    folder.mkdir()
    write_tokenizer(folder, [*(bytes([byte]) for byte in range(256)), b"th"], [(b"t", b"h")])
    shape = Shape(vocab=260, width=64, layers=2, heads=4, kv_heads=2, hidden=128, context=128)
    network = Network(shape)
    network.initialise(3)
    with torch.no_grad():
        tensors = {
            name: (tensor * 6 if tensor.ndim == 2 else tensor).numpy
            for name, tensor in tensors_to_write(network).items()
        }
    gguf_writer.write_model(folder / "weights.gguf", shape, tensors, folder, kind="f16", keys={})


def write_adapted(run: Path, base: Base, *, spread: float) -> Any:
    """A finished `adapt`, whose adapter says something, though nothing was learnt. Returns its logits."""
    torch.set_num_threads(1)
    folder = run / "adapt"
    folder.mkdir()
    adapter = LoraAdapter(base, "tiny-base", rank=4, seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in adapter.parameters:
            parameter.normal_(std=spread, generator=generator)
    adapter.save(folder)
    (folder / "base.json").write_text(json.dumps(base.shape()))
    said = source_input(
        name="base", sha256=BASE_DIGEST, licence="Apache-2.0", jurisdiction="GB", origin="tests", date="", package=""
    )
    write_manifest(folder, "adapt", [said])
    return adapter.logits


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run as far as `export_adapter`, over a base of random weights."""
    run = tmp_path_factory.mktemp("run")
    write_base(run / "base")
    logits = write_adapted(run, Base(run / "base"), spread=0.08)
    with torch.no_grad():
        torch.save(logits(torch.tensor([list(TEXT.encode())])), run / "logits.pt")
    stage.run(work_in(run, "export_adapter", "adapt", "base"))
    return run


def copy_with(run: Path, target: Path, **changes: Any) -> Path:
    """The run elsewhere, with another adapter_config.json."""
    (target / "adapt").mkdir(parents=True)
    for path in (run / "adapt").iterdir():
        (target / "adapt" / path.name).write_bytes(path.read_bytes())
    config = json.loads((target / "adapt" / "adapter_config.json").read_bytes())
    (target / "adapt" / "adapter_config.json").write_text(json.dumps({**config, **changes}))
    return target


def surprises(logits: Any, tokens: list[int]) -> list[float]:
    likely = logits[0, :-1].log_softmax(-1)
    found: list[float] = (-likely.gather(1, torch.tensor(tokens)[1:, None])[:, 0]).tolist()
    return found


def apart(one: list[float], other: list[float]) -> float:
    """Nats, on the mean."""
    return sum(abs(a - b) for a, b in zip(one, other, strict=True)) / len(one)


def test_the_engine_applies_it_as_peft_does(run: Path) -> None:
    """Over the base, token by token; and without it the base thinks otherwise."""
    tokens = list(TEXT.encode())
    wanted = surprises(torch.load(run / "logits.pt"), tokens)
    with TrialEngine(
        run / "base" / "weights.gguf", context=128, adapter=run / "export_adapter" / "adapter.gguf"
    ) as engine:
        found = engine.surprises(tokens)
    with TrialEngine(run / "base" / "weights.gguf", context=128) as engine:
        plain = engine.surprises(tokens)
    assert apart(found, wanted) < 0.02
    assert apart(found, plain) > 0.2


def test_rows_in_the_wrong_order_would_be_seen(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison above can fail: B of q and k as peft has them is another adapter."""
    copy = copy_with(run, tmp_path / "copy")
    monkeypatch.setattr(gguf_writer, "rotary_rows", lambda rows, heads: rows)
    stage.run(work_in(copy, "export_adapter", "adapt"))
    tokens = list(TEXT.encode())
    with TrialEngine(
        run / "base" / "weights.gguf", context=128, adapter=copy / "export_adapter" / "adapter.gguf"
    ) as engine:
        found = engine.surprises(tokens)
    assert apart(found, surprises(torch.load(run / "logits.pt"), tokens)) > 0.02


def test_it_carries_its_history_and_its_base(run: Path) -> None:
    """The derivation of `adapt`, and the digest of the model that it is for."""
    derivation = json.loads((run / "adapt" / "manifest.json").read_bytes())["predicate"]["derivation"]
    path = run / "export_adapter" / "adapter.gguf"
    header = read_header(path, is_adapter=True)
    assert (header.derivation, header.name, header.architecture) == (derivation, RECIPE.name, "llama")
    fields = pytest.importorskip("gguf").GGUFReader(path).fields
    assert {name: fields[name].contents() for name in ("allod.base", "allod.run", "adapter.lora.alpha")} == {
        "allod.base": BASE_DIGEST,
        "allod.run": RECIPE.name,
        "adapter.lora.alpha": 8.0,
    }
    told = json.loads((run / "export_adapter" / "export.json").read_bytes())
    assert told["base"] == BASE_DIGEST
    assert told["files"][0]["sha256"] == sha256(path.read_bytes()).hexdigest()


def test_the_same_adapter_gives_the_same_bytes(run: Path, tmp_path: Path) -> None:
    """In another folder, and without the base at hand."""
    copy = copy_with(run, tmp_path / "copy")
    stage.run(work_in(copy, "export_adapter", "adapt"))
    one, other = (
        {path.name: path.read_bytes() for path in (each / "export_adapter").iterdir()} for each in (run, copy)
    )
    assert one == other


@pytest.mark.parametrize(
    "changes",
    [{"peft_type": "LOHA"}, {"use_rslora": True}, {"use_dora": True}, {"bias": "all"}, {"rank_pattern": {"q_proj": 2}}],
)
def test_what_the_engine_cannot_apply_is_refused(run: Path, tmp_path: Path, changes: Mapping[str, Any]) -> None:
    """It would be loaded, and would not be what was learnt."""
    with pytest.raises(Invalid) as caught:
        stage.run(work_in(copy_with(run, tmp_path / "copy", **changes), "export_adapter", "adapt"))
    assert caught.value.code == "adapter_unsupported"


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json", "base.json"])
@pytest.mark.parametrize("data", [None, b"", b"[]"])
def test_what_cannot_be_read_is_refused(run: Path, tmp_path: Path, name: str, data: bytes | None) -> None:
    """With a reason."""
    copy = copy_with(run, tmp_path / "copy")
    (copy / "adapt" / name).unlink() if data is None else (copy / "adapt" / name).write_bytes(data)
    with pytest.raises(Invalid) as caught:
        stage.run(work_in(copy, "export_adapter", "adapt"))
    assert caught.value.code == "adapter_unsupported"


def test_an_adapter_of_another_base_is_refused_by_the_engine(run: Path, tmp_path: Path) -> None:
    """Its shapes do not fit, and the stage says so before anything is released."""
    copy = copy_with(run, tmp_path / "copy")
    (copy / "base").symlink_to(run / "base")
    name = "base_model.model.model.layers.0.mlp.up_proj.lora_{}.weight"
    tensors = {name.format("A"): torch.ones(4, 32), name.format("B"): torch.ones(64, 4)}
    save_file(tensors, copy / "adapt" / "adapter_model.safetensors")
    with pytest.raises(Invalid) as caught:
        stage.run(work_in(copy, "export_adapter", "adapt", "base"))
    assert caught.value.code == "engine_refused"


def write_qwen2(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`folder`/weights.gguf: a Qwen2 of random weights, with its biases, and its rows as the network has them."""
    folder.mkdir()
    write_tokenizer(folder, [*(bytes([byte]) for byte in range(256)), b"th"], [(b"t", b"h")])
    shape = Shape(vocab=260, width=64, layers=2, heads=4, kv_heads=2, hidden=128, context=128)
    network = Network(shape)
    network.initialise(3)
    tensors: dict[str, Any] = {
        name: (tensor.detach() * (6 if tensor.ndim == 2 else 1)).numpy
        for name, tensor in tensors_to_write(network).items()
    }
    generator = torch.Generator().manual_seed(5)
    for layer in range(shape.layers):
        for part, rows in (("q", 64), ("k", 32), ("v", 32)):
            bias = torch.randn(rows, generator=generator) * 0.3
            tensors[f"model.layers.{layer}.self_attn.{part}_proj.bias"] = bias.numpy
    named = gguf_writer.engine_name

    def engine_name(name: str) -> str:
        if not name.endswith(".bias"):
            return named(name)
        return named(f"{name.removesuffix('bias')}weight").removesuffix("weight") + "bias"

    with monkeypatch.context() as patched:
        patched.setattr(gguf_writer, "ARCHITECTURE", "qwen2")
        patched.setattr(gguf_writer, "rotary_rows", lambda rows, heads: rows)
        patched.setattr(gguf_writer, "engine_name", engine_name)
        gguf_writer.write_model(folder / "weights.gguf", shape, tensors, folder, kind="f16", keys={})


def test_over_a_qwen2_it_loads_and_is_what_was_learnt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own architecture in the header, and rows of q and k as they are: else the engine refuses it, or worse."""
    write_qwen2(tmp_path / "base", monkeypatch)
    base = Base(tmp_path / "base")
    assert base.shape()["model_type"] == "qwen2"
    logits = write_adapted(tmp_path, base, spread=0.08)
    tokens = list(TEXT.encode())
    with torch.no_grad():
        wanted = surprises(logits(torch.tensor([tokens])), tokens)
    stage.run(work_in(tmp_path, "export_adapter", "adapt", "base"))
    assert read_header(tmp_path / "export_adapter" / "adapter.gguf", is_adapter=True).architecture == "qwen2"
    adapter = tmp_path / "export_adapter" / "adapter.gguf"
    with TrialEngine(tmp_path / "base" / "weights.gguf", context=128, adapter=adapter) as engine:
        found = engine.surprises(tokens)
    with TrialEngine(tmp_path / "base" / "weights.gguf", context=128) as engine:
        plain = engine.surprises(tokens)
    assert apart(found, wanted) < 0.02
    assert apart(found, plain) > 0.2


def test_a_base_that_the_engine_would_not_adapt_is_refused(run: Path, tmp_path: Path) -> None:
    """Here, too: the stage believes no earlier check."""
    copy = copy_with(run, tmp_path / "copy")
    shape = json.loads((copy / "adapt" / "base.json").read_bytes())
    (copy / "adapt" / "base.json").write_text(json.dumps({**shape, "model_type": "gemma2"}))
    with pytest.raises(Invalid, match="gemma2") as caught:
        stage.run(work_in(copy, "export_adapter", "adapt"))
    assert caught.value.code == "adapter_unsupported"


@pytest.mark.slow
@pytest.mark.long
def test_over_a_real_model_the_engine_and_peft_agree(weights: Path, tmp_path: Path) -> None:
    """SmolLM2: each token within rounding of what torch says, and the same likeliest tokens."""
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "weights.gguf").symlink_to(weights)
    base = Base(tmp_path / "base")
    logits = write_adapted(tmp_path, base, spread=0.02)  # wide enough to be seen, and the model still knows words
    stage.run(work_in(tmp_path, "export_adapter", "adapt", "base"))
    tokens = base.encode([TEXT])[0][:-1]
    said = list(tokens)
    with torch.no_grad():
        wanted = surprises(logits(torch.tensor([tokens])), tokens)
        for _ in range(8):
            said.append(int(logits(torch.tensor([said]))[0, -1].argmax()))
    with TrialEngine(weights, context=256, adapter=tmp_path / "export_adapter" / "adapter.gguf") as engine:
        found, greedy = engine.surprises(tokens), engine.greedy(tokens, 8)
    with TrialEngine(weights, context=256) as engine:
        plain = engine.surprises(tokens)
    assert apart(found, wanted) < 0.1 < apart(found, plain)  # without an adapter they are 0.07 apart: four bits
    assert greedy == said[len(tokens) :]
