"""Networks and adapters as GGUF, the engine's format. The same content gives the same bytes.

The layout is llama.cpp's for the architecture `llama`. Rows of q and k are reordered: the format keeps the two numbers
that a rotary position turns together beside one another, the network half a head apart.
Source: ggml-org/ggml, docs/gguf.md; ggml-org/llama.cpp, convert_hf_to_gguf.py and convert_lora_to_gguf.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from gguf import GGML_QUANT_VERSION, GGUFWriter, LlamaFileType, TokenType
from gguf import GGMLQuantizationType as Type
from gguf.quants import quant_shape_to_byte_shape, quantize
from numpy.typing import NDArray

from allod.core.errors import Invalid
from allod.model.network.llama import Shape
from allod.model.network.tokenizer_files import CHAT_TEMPLATE, END_OF_TEXT, GGUF_SPLIT, IM_END, TOKENIZER

Tensors = Mapping[str, Callable[[], NDArray[np.float32]]]
"""What gives each tensor, by the network's or the adapter's own name for it: one is in memory at a time."""

ARCHITECTURE = "llama"
_KINDS = {
    "f16": (Type.F16, LlamaFileType.MOSTLY_F16),
    "q8_0": (Type.Q8_0, LlamaFileType.MOSTLY_Q8_0),
    "q5_1": (Type.Q5_1, LlamaFileType.MOSTLY_Q5_1),
    "q5_0": (Type.Q5_0, LlamaFileType.MOSTLY_Q5_0),
    "q4_1": (Type.Q4_1, LlamaFileType.MOSTLY_Q4_1),
    "q4_0": (Type.Q4_0, LlamaFileType.MOSTLY_Q4_0),
}
KINDS = tuple(_KINDS)
_K_KIND = re.compile(r"q[2-6]_k(_[sml])?")
_BLOCK = 32  # numbers of a row that all other kinds take together
_K_BLOCK = 256  # numbers of a row that K-quants take together
_ROTARY = tuple(f"{name}_proj.{ending}" for name in "qk" for ending in ("weight", "lora_B.weight"))
_TABLES = {"token_embd.weight", "output.weight"}  # never below eight bits: every token passes through them

_NAMES = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
_LAYER_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)")
_ENDINGS = {".weight": ".weight", ".lora_A.weight": ".weight.lora_a", ".lora_B.weight": ".weight.lora_b"}
_TENSOR = re.compile(r"(?:base_model\.model\.)?(.+?)((?:\.lora_[AB])?\.weight)")


def check_kind(kind: str, shape: Shape) -> None:
    """Raise Invalid (`quantise_unsupported`) for what cannot be written of such a network."""
    if kind in _KINDS:
        return
    hint = f"there are: {', '.join(KINDS)}"
    if _K_KIND.fullmatch(kind):
        odd = sorted({width for width in (shape.width, shape.hidden) if width % _K_BLOCK})
        why = f"its rows of {odd[0]} are no multiple of {_K_BLOCK}" if odd else "K-quants are read here and not made"
        raise Invalid(f"no {kind} of this network: {why}", code="quantise_unsupported", hint=hint)
    raise Invalid(f"no kind of GGUF is called {kind}", code="quantise_unsupported", hint=hint)


def write_model(
    path: Path, shape: Shape, tensors: Tensors, tokenizer: Path, *, kind: str, keys: Mapping[str, str]
) -> None:
    """Write a network with the tokenizer in the folder `tokenizer`. `keys` are texts that the header holds besides.

    Numbers of one dimension stay in f32; rows that are no whole number of blocks stay in f16. Raises Invalid as
    `check_kind` does, and (`vocab_mismatch`) for another network's tokenizer.
    """
    check_kind(kind, shape)
    quantised, file_type = _KINDS[kind]
    writer = GGUFWriter(None, ARCHITECTURE)
    writer.add_type("model")
    _add_texts(writer, keys)
    _add_shape(writer, shape)
    writer.add_file_type(file_type)
    writer.add_quantization_version(GGML_QUANT_VERSION)
    _add_tokenizer(writer, tokenizer, shape.vocab)
    _write(path, writer, tensors, (shape.heads, shape.kv_heads), quantised)


def write_adapter(
    path: Path,
    tensors: Tensors,
    *,
    architecture: str,
    heads: int,
    kv_heads: int,
    alpha: float,
    keys: Mapping[str, str],
) -> None:
    """Write a LoRA adapter, in f32, of a base with so many heads; `architecture` is of `ADAPTABLE`. `alpha` over the
    rank scales it.

    A Llama's file has the rows of q and k in pairs that turn together, a Qwen2's as the network has them.
    """
    writer = GGUFWriter(None, architecture)
    writer.add_type("adapter")
    _add_texts(writer, keys)
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", alpha)
    _write(path, writer, tensors, (heads, kv_heads) if architecture == ARCHITECTURE else None, Type.F32)


def engine_name(name: str) -> str:
    """llama.cpp's name of a tensor. Raises Invalid (`tensor_unknown`) for one that no Llama has."""
    if tensor := _TENSOR.fullmatch(name):
        part, ending = tensor.groups()
        if part in _NAMES:
            return _NAMES[part] + _ENDINGS[ending]
        if (layer := _LAYER.fullmatch(part)) and layer[2] in _LAYER_NAMES:
            return f"blk.{layer[1]}.{_LAYER_NAMES[layer[2]]}{_ENDINGS[ending]}"
    raise Invalid(f"{name} is no tensor of a Llama", code="tensor_unknown")


def rotary_rows(rows: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """The rows [heads * head_width, n] of q or k in the order of the format: i and i + half, then i + 1 and so on."""
    return rows.reshape(heads, 2, -1, rows.shape[-1]).swapaxes(1, 2).reshape(rows.shape)


def _write(path: Path, writer: GGUFWriter, tensors: Tensors, heads: tuple[int, int] | None, quantised: Type) -> None:
    """Header first, then a tensor after another. `heads`: of q, of k; None where their rows stay as they are."""
    kinds: dict[str, Type] = {}
    for name, tensor in tensors.items():
        engine = engine_name(name)
        shape = tensor().shape
        kind = kinds[name] = _kind(engine, shape, quantised)
        stored = quant_shape_to_byte_shape(shape, kind) if kind not in (Type.F32, Type.F16) else shape
        itemsize = {Type.F32: 4, Type.F16: 2}.get(kind, 1)
        num_bytes = int(np.prod(stored)) * itemsize
        writer.add_tensor_info(engine, stored, np.dtype(np.uint8 if itemsize == 1 else np.float32), num_bytes, kind)
    writer.write_header_to_file(path)
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for name, tensor in tensors.items():
        values = np.ascontiguousarray(tensor(), dtype=np.float32)
        if heads is not None and name.endswith(_ROTARY):
            values = rotary_rows(values, heads[0] if "q_proj" in name else heads[1])
        writer.write_tensor_data(quantize(values, kinds[name]))
    writer.close()


def _kind(engine: str, shape: tuple[int, ...], quantised: Type) -> Type:
    """How a tensor is stored in a file of this kind."""
    if len(shape) == 1 or quantised is Type.F32:
        return Type.F32
    if quantised is Type.F16 or shape[-1] % _BLOCK:
        return Type.F16
    return Type.Q8_0 if engine in _TABLES else quantised


def _add_texts(writer: GGUFWriter, keys: Mapping[str, str]) -> None:
    for key in sorted(keys):
        writer.add_string(key, keys[key])


def _add_shape(writer: GGUFWriter, shape: Shape) -> None:
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.hidden)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_rope_dimension_count(shape.head_width)
    writer.add_rope_freq_base(shape.rope_theta)
    writer.add_layer_norm_rms_eps(shape.norm_eps)
    writer.add_vocab_size(shape.vocab)


def _add_tokenizer(writer: GGUFWriter, folder: Path, vocab: int) -> None:
    """The vocabulary of tokenizer.json. The engine shall add no token of its own to a text."""
    value = json.loads((folder / TOKENIZER).read_text(encoding="utf-8"))
    tokens: dict[str, int] = value["model"]["vocab"]
    special: dict[str, int] = {token["content"]: token["id"] for token in value["added_tokens"]}
    if [*tokens.values(), *special.values()] != list(range(vocab)):
        raise Invalid(f"the tokenizer's tokens are not the {vocab} of the network", code="vocab_mismatch")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(GGUF_SPLIT)
    writer.add_token_list([*tokens, *special])
    writer.add_token_types([TokenType.NORMAL] * len(tokens) + [TokenType.CONTROL] * len(special))
    writer.add_token_merges([f"{left} {right}" for left, right in value["model"]["merges"]])
    writer.add_bos_token_id(special[END_OF_TEXT])  # the engine assumes token 11 where none is named
    writer.add_eos_token_id(special[IM_END])
    writer.add_pad_token_id(special[END_OF_TEXT])
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)
