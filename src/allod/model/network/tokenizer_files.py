"""A tokenizer on disk: `tokenizer.json` and `tokenizer_config.json`, as tokenizers, transformers and vLLM read them.

Byte-level BPE over the split of Llama 3. The engine knows that split by the name in `GGUF_SPLIT`; under another name
it cuts text at other places and silently mangles it, so the two constants belong together. Special tokens have the
names under which llama.cpp recognises the end of a text and of a turn.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"

SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Llama 3's: contractions, words with the mark before them, up to three digits, marks, line ends, white space."""

GGUF_SPLIT = "llama-bpe"
"""The value of `tokenizer.ggml.pre` that stands for SPLIT (llama.cpp, src/llama-vocab.cpp)."""

END_OF_TEXT, IM_START, IM_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
SPECIAL_TOKENS = (END_OF_TEXT, IM_START, IM_END)  # they take the last ids, in this order

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""ChatML."""


def byte_symbols() -> list[str]:
    """The printable character that stands for each byte in a byte-level vocabulary (GPT-2's bytes_to_unicode)."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


def write_tokenizer(folder: Path, tokens: Sequence[bytes], merges: Sequence[tuple[bytes, bytes]]) -> None:
    """Write both files. `tokens` in the order of their ids, the 256 bytes first; `merges` in the order of learning."""
    symbols = byte_symbols()

    def spell(token: bytes) -> str:
        return "".join(symbols[byte] for byte in token)

    vocabulary = {spell(token): number for number, token in enumerate(tokens)}
    pairs = [[spell(left), spell(right)] for left, right in merges]
    _write(folder / TOKENIZER, _tokenizer(vocabulary, pairs))
    _write(folder / TOKENIZER_CONFIG, _tokenizer_config())


def _tokenizer(vocabulary: dict[str, int], merges: list[list[str]]) -> dict[str, Any]:
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": SPLIT}, "behavior": "Isolated", "invert": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            _special_token(number, token) for number, token in enumerate(SPECIAL_TOKENS, start=len(vocabulary))
        ],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": True,  # as the engine does for this split: a word that is a token is that token
            "vocab": vocabulary,
            "merges": merges,
        },
    }


def _special_token(number: int, token: str) -> dict[str, Any]:
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {"id": number, "content": token, **plain, "special": True}


def _tokenizer_config() -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": None,
        "eos_token": IM_END,
        "pad_token": END_OF_TEXT,
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
    }


def _write(path: Path, value: dict[str, Any]) -> None:
    """One line of JSON, keys in the order given: the vocabulary reads in the order of its ids."""
    path.write_text(json.dumps(value, ensure_ascii=False) + "\n", encoding="utf-8")
