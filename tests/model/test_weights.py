"""Weights on disk: the same bytes each time, read by others, and refused where they are not what they say."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="torch comes with the train extra")
safetensors = pytest.importorskip("safetensors.torch", reason="safetensors comes with the train extra")
transformers = pytest.importorskip("transformers", reason="transformers comes with the train extra")

import torch  # noqa: E402

from allod.core.errors import Invalid  # noqa: E402
from allod.model.network.llama import Network, Shape  # noqa: E402
from allod.model.network.weights import load_model, save_model, tensors_to_write, write_tensors  # noqa: E402

TIED = Shape(vocab=300, width=64, layers=2, heads=2, kv_heads=1, hidden=128, context=32)
UNTIED = Shape(vocab=300, width=64, layers=2, heads=2, kv_heads=2, hidden=128, context=32, tied=False)


def new_network(shape: Shape) -> Network:
    network = Network(shape)
    network.initialise(5)
    return network


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_model(new_network(TIED), tmp_path)
    return tmp_path


@pytest.mark.parametrize("shape", [TIED, UNTIED], ids=["tied", "untied"])
def test_what_is_written_is_read(shape: Shape, tmp_path: Path) -> None:
    """Every tensor and the shape come back as they were."""
    network = new_network(shape)
    save_model(network, tmp_path)
    again = load_model(tmp_path)
    assert again.shape == shape
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize("shape", [TIED, UNTIED], ids=["tied", "untied"])
def test_transformers_reads_them(shape: Shape, tmp_path: Path) -> None:
    """LlamaForCausalLM loads the folder, lacks nothing, and gives the same logits."""
    network = new_network(shape)
    save_model(network, tmp_path)
    (tmp_path / "weights.safetensors").rename(tmp_path / "model.safetensors")
    other, told = transformers.LlamaForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(told.values())
    tokens = torch.arange(20)[None]
    with torch.no_grad():
        assert torch.equal(other.eval()(tokens).logits, network(tokens))


def test_the_same_network_is_the_same_bytes(tmp_path: Path, folder: Path) -> None:
    """Nothing of the time, the directory or the order of metadata is in the file."""
    (tmp_path / "other").mkdir()
    save_model(new_network(TIED), tmp_path / "other")
    for name in ("weights.safetensors", "config.json"):
        assert (tmp_path / "other" / name).read_bytes() == (folder / name).read_bytes()
    tensors = tensors_to_write(new_network(TIED))
    write_tensors(tensors, tmp_path / "one", metadata={"a": "1", "b": "2"})
    write_tensors(tensors, tmp_path / "two", metadata={"b": "2", "a": "1"})
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_the_library_reads_the_same_tensors_and_metadata(folder: Path) -> None:
    """The header written here is the format's own."""
    metadata = {"format": "pt", "allod.derivation": "sha256:00"}
    write_tensors(tensors_to_write(new_network(TIED)), folder / "weights.safetensors", metadata=metadata)
    with safetensors.safe_open(folder / "weights.safetensors", framework="pt") as file:
        assert file.metadata() == metadata
    tensors = safetensors.load_file(folder / "weights.safetensors")
    assert torch.equal(tensors["model.norm.weight"], torch.ones(64))
    assert "lm_head.weight" not in tensors


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-4],
        lambda data: data + b"\0" * 4,
        lambda data: data.replace(b"model.norm.weight", b"model.more.weight"),
        lambda data: data.replace(b"[64,64]", b"[32,128]", 1),
        lambda data: b"\xff" * 8 + data[8:],
        lambda data: b"\x80\x04." + data,
        lambda data: b"",
    ],
    ids=["cut", "longer", "renamed", "another shape", "endless header", "pickle", "empty"],
)
def test_damaged_weights_are_refused(folder: Path, damage: Callable[[bytes], bytes]) -> None:
    """Whatever is wrong with the file, it is the same clear error."""
    path = folder / "weights.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(Invalid) as refused:
        load_model(folder)
    assert refused.value.code == "weights_damaged"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_hidden_layers", 3),
        ("hidden_size", 1 << 40),
        ("vocab_size", True),
        ("num_attention_heads", 3),
        ("hidden_act", "relu"),
        ("auto_map", {"AutoModel": "code.py"}),
        ("model_type", "gpt2"),
    ],
)
def test_a_configuration_that_is_not_ours_is_refused(folder: Path, name: str, value: object) -> None:
    """A size that the weights do not have, an impossible one, another architecture, code: none is tried."""
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), name: value}))
    with pytest.raises(Invalid) as refused:
        load_model(folder)
    assert refused.value.code == "weights_damaged"
