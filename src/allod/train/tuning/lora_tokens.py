"""An imported model's tokenizer, cutting text where the engine cuts it.

A GGUF file has the vocabulary and the merges, and only a name (`tokenizer.ggml.pre`) for how text is cut before any
merge. transformers does not look at that name: for SmolLM2 it kept digits together and read every third page of a
manual otherwise than the engine does, so that an adapter would learn words that it never meets.

A document that spells a control token means the text. The library knows that of those called special, and not of
user-defined ones (Qwen's `<tool_call>`), nor of names that merges lead to: such a text is changed as it is in serving.
Source of the names and what they stand for: ggml-org/llama.cpp, src/llama-vocab.cpp.
"""

from __future__ import annotations

from pathlib import Path

from gguf import GGUFReader
from tokenizers import Regex, Tokenizer
from tokenizers.pre_tokenizers import ByteLevel, Digits, PreTokenizer, Sequence, Split
from transformers import AutoTokenizer

from allod.core.errors import Invalid
from allod.model.gguf.header import read_header
from allod.model.network.tokenizer_files import GGUF_SPLIT, SPLIT

_SINGLE_DIGITS = SPLIT.replace(r"\p{N}{1,3}", r"\p{N}")
_ENDS = ("<|endoftext|>", "</s>")  # what stands between documents, in the order of preference


class BaseTokenizer:
    """The tokenizer of `folder`/`name`. Raises Invalid (`base_tokenizer_unknown`) for a split that is not known here,
    and what transformers raises for a file that it cannot read."""

    def __init__(self, folder: Path, name: str) -> None:
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name, local_files_only=True)
        self._tokenizer: Tokenizer = tokenizer.backend_tokenizer
        self._tokenizer.pre_tokenizer = _split(_split_name(folder / name))
        self._tokenizer.encode_special_tokens = True  # inverse to its name: their names in a text are ordinary text
        self._apart = read_header(folder / name).control_token_guard()
        self._control = {self._tokenizer.token_to_id(each) for each in self._apart.names}
        found = (self._tokenizer.token_to_id(end) for end in _ENDS)
        self._end: int = next((number for number in found if number is not None), tokenizer.eos_token_id)

    def encode(self, texts: list[str]) -> list[list[int]]:
        """The tokens of each text, and the one that ends a document."""
        found = self._ids(texts)
        for number, ids in enumerate(found):
            if not self._control.isdisjoint(ids):
                found[number] = self._ids([self._apart.plain(texts[number])])[0]
                if not self._control.isdisjoint(found[number]):
                    raise Invalid("a document's text makes a control token of the base model", code="control_tokens")
        return [[*ids, self._end] for ids in found]

    def _ids(self, texts: list[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self._tokenizer.encode_batch(texts, add_special_tokens=False)]


def _split_name(path: Path) -> str:
    field = GGUFReader(path).get_field("tokenizer.ggml.pre")
    return str(field.contents()) if field is not None else "default"


def _split(name: str) -> PreTokenizer:
    if name == "smollm":
        return Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False, use_regex=True)])
    expressions = {GGUF_SPLIT: SPLIT, "qwen2": _SINGLE_DIGITS}
    if name not in expressions:
        raise Invalid(
            f"how the base model cuts text ({name}) is not known here",
            code="base_tokenizer_unknown",
            hint=f"known are: smollm, {', '.join(expressions)}",
        )
    cut = Split(Regex(expressions[name]), "isolated")
    return Sequence([cut, ByteLevel(add_prefix_space=False, use_regex=False)])
