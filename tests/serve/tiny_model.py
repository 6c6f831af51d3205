"""A whole model of one layer, with weights of no meaning, that the engine loads in a tenth of a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_WIDTH, _HIDDEN, _CONTEXT = 32, 64, 256
_PRINTED = [*range(33, 127), *range(161, 173), *range(174, 256)]  # GPT-2 writes other bytes as letters from 256 on
_BYTES = [chr(byte) for byte in _PRINTED] + [chr(256 + number) for number in range(256 - len(_PRINTED))]
_CONTROL = ["<|im_start|>", "<|im_end|>"]


def write_tiny_model(path: Path, *, template: str = TEMPLATE) -> Path:
    """Write it with ggml-org's own package."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_context_length(_CONTEXT)
    writer.add_embedding_length(_WIDTH)
    writer.add_block_count(1)
    writer.add_feed_forward_length(_HIDDEN)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_rope_dimension_count(16)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(_BYTES) + len(_CONTROL))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([*_BYTES, *_CONTROL])
    writer.add_token_types([1] * len(_BYTES) + [3] * len(_CONTROL))
    writer.add_token_merges(["h e", "l l"])
    writer.add_bos_token_id(len(_BYTES))
    writer.add_eos_token_id(len(_BYTES) + 1)
    writer.add_chat_template(template)
    for name, shape in _shapes().items():
        writer.add_tensor(name, _values(name, shape))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _shapes() -> dict[str, tuple[int, ...]]:
    square, narrow = (_WIDTH, _WIDTH), (_WIDTH // 2, _WIDTH)
    return {
        "token_embd.weight": (len(_BYTES) + len(_CONTROL), _WIDTH),
        "output_norm.weight": (_WIDTH,),
        "blk.0.attn_norm.weight": (_WIDTH,),
        "blk.0.attn_q.weight": square,
        "blk.0.attn_k.weight": narrow,
        "blk.0.attn_v.weight": narrow,
        "blk.0.attn_output.weight": square,
        "blk.0.ffn_norm.weight": (_WIDTH,),
        "blk.0.ffn_gate.weight": (_HIDDEN, _WIDTH),
        "blk.0.ffn_up.weight": (_HIDDEN, _WIDTH),
        "blk.0.ffn_down.weight": (_WIDTH, _HIDDEN),
    }


def _values(name: str, shape: tuple[int, ...]) -> Any:
    draw = numpy.random.default_rng(len(name))
    return numpy.ones(shape, numpy.float32) if "norm" in name else draw.normal(0, 0.1, shape).astype(numpy.float32)
