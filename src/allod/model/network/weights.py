"""A network on disk: `weights.safetensors` and `config.json`, as transformers, vLLM and the GGUF tools read them.

The same network gives the same bytes: the safetensors header is written here, its names sorted, because the library's
own writer puts metadata in no fixed order. Reading trusts nothing: no pickle, and every name, type and shape is
compared with what the configuration promises before memory is taken for a tensor.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from allod.core.errors import Invalid
from allod.model.network.llama import Network, Shape

WEIGHTS = "weights.safetensors"
CONFIG = "config.json"
MAX_CONFIG_BYTES = 1 << 16
_NAMES = {  # of our shape, in LlamaConfig; and the most that is believed
    "vocab": ("vocab_size", 1 << 20),
    "width": ("hidden_size", 1 << 16),
    "layers": ("num_hidden_layers", 1 << 10),
    "heads": ("num_attention_heads", 1 << 10),
    "kv_heads": ("num_key_value_heads", 1 << 10),
    "hidden": ("intermediate_size", 1 << 18),
    "context": ("max_position_embeddings", 1 << 20),
}
_OTHERS_MAY_ADD = {"bos_token_id", "eos_token_id", "pad_token_id", "transformers_version", "use_cache"}


def save_model(network: Network, folder: Path) -> None:
    """Write both files into `folder`, in float32."""
    tensors = tensors_to_write(network)
    (folder / CONFIG).write_text(json.dumps(config(network.shape), indent=2, sort_keys=True) + "\n")
    write_tensors(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def load_model(folder: Path) -> Network:
    """The network in `folder`. Raises Invalid (`weights_damaged`) where it is not exactly what `config.json` says."""
    shape = read_config(folder / CONFIG)
    expected = shapes_of(shape)
    try:
        with safe_open(folder / WEIGHTS, framework="pt") as file:
            found = {
                name: (file.get_slice(name).get_dtype(), tuple(file.get_slice(name).get_shape()))
                for name in file.keys()  # noqa: SIM118 - the file is no dictionary
            }
            if found != {name: ("F32", size) for name, size in expected.items()}:
                raise _refusal("its tensors are not those of the network that config.json describes")
            tensors = {name: file.get_tensor(name) for name in expected}
    except (SafetensorError, OSError) as error:
        raise _refusal(str(error)) from error
    network = Network(shape)
    network.load_state_dict({**tensors, **_tie(shape, tensors)})
    return network


def tensors_to_write(network: Network) -> dict[str, Tensor]:
    """The tensors that are written, by name: a tied table once, under the name of the embeddings."""
    tensors = {name: tensor.detach() for name, tensor in network.state_dict().items()}
    if network.shape.tied:
        del tensors["lm_head.weight"]
    return tensors


def write_tensors(tensors: Mapping[str, Tensor], path: Path, *, metadata: Mapping[str, str]) -> None:
    """A safetensors file whose bytes depend on its content alone: names sorted, float32, little-endian, synced."""
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    end = 0
    for name in sorted(tensors):
        begin, end = end, end + tensors[name].numel() * 4
        header[name] = {"dtype": "F32", "shape": list(tensors[name].shape), "data_offsets": [begin, end]}
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of eight, as the format wants
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in sorted(tensors):
            file.write(tensors[name].to("cpu", torch.float32).contiguous().numpy().data)
        file.flush()
        os.fsync(file.fileno())


def config(shape: Shape) -> dict[str, object]:
    """`config.json` as LlamaConfig reads it."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "dtype": "float32",
        "hidden_act": "silu",
        "mlp_bias": False,
        "model_type": "llama",
        "rms_norm_eps": shape.norm_eps,
        "rope_theta": shape.rope_theta,
        "tie_word_embeddings": shape.tied,
        **{name: getattr(shape, field) for field, (name, _) in _NAMES.items()},
    }


def read_config(path: Path) -> Shape:
    """The shape that a `config.json` describes. Raises Invalid where it is not one of ours."""
    try:
        with path.open("rb") as file:
            value = json.loads(file.read(MAX_CONFIG_BYTES))
        sizes = {field: _size(value[name], most) for field, (name, most) in _NAMES.items()}
        shape = Shape(
            **sizes,
            rope_theta=float(value["rope_theta"]),
            norm_eps=float(value["rms_norm_eps"]),
            tied=value["tie_word_embeddings"] is True,
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _refusal(f"config.json: {error}") from error
    ours = config(shape)
    if {name: text for name, text in value.items() if name not in _OTHERS_MAY_ADD} != ours:
        raise _refusal("config.json describes something other than a plain Llama")
    if shape.width % shape.heads or shape.heads % shape.kv_heads or shape.head_width % 2:
        raise _refusal("config.json: the heads do not divide the width")
    return shape


def shapes_of(shape: Shape) -> dict[str, tuple[int, ...]]:
    """Name and size of every tensor in the file, without making one."""
    with torch.device("meta"):
        network = Network(shape)
    return {name: tuple(tensor.shape) for name, tensor in tensors_to_write(network).items()}


def _tie(shape: Shape, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {"lm_head.weight": tensors["model.embed_tokens.weight"]} if shape.tied else {}


def _size(value: object, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        raise ValueError(f"{value!r} is no size between 1 and {most}")
    return value


def _refusal(why: str) -> Invalid:
    return Invalid(
        f"the weights cannot be read: {why}", code="weights_damaged", hint="write them again from their stage"
    )
