"""The gate for GGUF files: read the header strictly, and refuse what is not whole.

Source: ggml-org/ggml, docs/gguf.md (version 3). Every count is bounded, so is the sum of all work, and every tensor
must lie inside the file, so that the engine never meets a file that this has not understood.
"""

from __future__ import annotations

import math
import re
from array import array
from bisect import bisect_left
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from allod.core.digests import digest_of_bytes
from allod.core.errors import Invalid
from allod.model.gguf.metadata import FLOAT32, INT32, SIZE, STRING, TOKENS, Malformed, MetadataReader, PassedArray
from allod.model.gguf.plain_file import open_plain
from allod.model.templates.control_tokens import BREAK, KNOWN_NAMES, ControlTokens
from allod.model.templates.gate import check_template

MAX_TENSORS = 100_000
MAX_KEYS = 10_000
MAX_ALIGNMENT = 1 << 16
MAX_NAME_BYTES = 63  # of a tensor: GGML_MAX_NAME, less the zero that ends it
MAX_KEY_BYTES = (1 << 16) - 1
MAX_VOCABULARY_BYTES = 1 << 25
MAX_CONTROL_TOKENS = 1 << 16
MIN_CONTEXT_TOKENS = 2  # with one, the engine ends when it warms up
MAX_CONTEXT_TOKENS = (1 << 31) - 1
MAX_LAYERS = 512  # LLAMA_MAX_LAYERS

_TYPES, _SCORES = "tokenizer.ggml.token_type", "tokenizer.ggml.scores"
_UNKNOWN_TOKEN, _CONTROL_TOKEN, _USER_TOKEN = 2, 3, 4
_MARKED = frozenset({_UNKNOWN_TOKEN, _CONTROL_TOKEN, _USER_TOKEN})
_TEMPLATE = "tokenizer.chat_template"
_SPECIAL_IDS = tuple(
    f"tokenizer.ggml.{name}_token_id"
    for name in (
        "bos", "eos", "eot", "eom", "unknown", "seperator", "separator", "padding", "cls", "mask",
        "fim_pre", "fim_suf", "fim_mid", "fim_pad", "fim_rep", "fim_sep",
    )
)  # fmt: skip
_POOLING_NONE = 0
_EPSILONS = ("layer_norm_rms_epsilon", "layer_norm_epsilon", "group_norm_epsilon")
_ADAPTER = "adapter"
_DERIVATION = "allod.derivation"

_KNOWN = frozenset(name.encode() for name in KNOWN_NAMES)
_SCAN_BYTES = 1 << 20
_LONGEST_KNOWN = 8 + max(map(len, _KNOWN))
# a text begins behind its size in eight bytes, of which seven are zero where it is so short
_find_known = re.compile(bytes(7) + b"(?:%b)" % b"|".join(map(re.escape, sorted(_KNOWN)))).finditer

# ggml type → (values in a block, bytes of a block); docs/gguf.md and ggml-common.h
_BLOCKS = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 9: (32, 36),
    10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292),
    16: (256, 66), 17: (256, 74), 18: (256, 98), 19: (256, 50), 20: (32, 18), 21: (256, 110), 22: (256, 82),
    23: (256, 136), 24: (1, 1), 25: (1, 2), 26: (1, 4), 27: (1, 8), 28: (1, 8), 29: (256, 56), 30: (1, 2),
    34: (256, 54), 35: (256, 66), 39: (32, 17),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """What the file says of itself. `template_digest` is of the chat template's text, `cuts` are the strings that it
    takes out of texts or splits them at, `written` those that it writes. `control_tokens` are names: those that the
    vocabulary lists as such, and those that the engine treats so.

    `derivation` is the digest of the history of a model that Allod made, else empty. An adapter has no context. No
    token is of more characters of a text than `max_token_chars`; None where the vocabulary makes no such promise.
    """

    architecture: str
    name: str
    context_tokens: int
    num_parameters: int
    template_digest: str
    has_template: bool
    pooling: int
    derivation: str = ""
    control_tokens: tuple[str, ...] = ()
    cuts: tuple[str, ...] = ()
    written: tuple[str, ...] = ()
    max_token_chars: int | None = None

    @property
    def can_embed(self) -> bool:
        """Whether the model was made for embeddings: its header says how to pool."""
        return self.pooling != _POOLING_NONE

    def control_token_guard(self) -> ControlTokens:
        """What keeps texts apart from the control tokens. Raises Invalid where nothing could (`control_tokens`)."""
        return ControlTokens(self.control_tokens, cuts=self.cuts, written=self.written)


def read_header(path: Path, *, is_adapter: bool = False) -> GgufHeader:
    """The header of a model's GGUF file, or of a LoRA adapter's. Raises Invalid for what is not a whole one."""
    try:
        with open_plain(path) as file:
            return _HeaderReader(file, path.stat().st_size).header(is_adapter=is_adapter)
    except OSError as error:
        raise Invalid(f"{path}: {error.strerror}", code="model_unreadable") from error
    except Malformed as error:
        raise Invalid(
            f"{path} is no whole GGUF file: {error}", code="model_malformed", hint="check the file against its digest"
        ) from error


class _HeaderReader(MetadataReader):
    """From the first byte to the header that the tensors and the vocabulary bear out."""

    def header(self, *, is_adapter: bool) -> GgufHeader:
        if self._take(4) != b"GGUF":
            raise Malformed("it does not begin with GGUF")
        version = self._number("<I")
        if version == 0x03000000:
            raise Malformed("it is big-endian; the engine reads little-endian files")
        if version not in (2, 3):
            raise Malformed(f"version {version}; 2 and 3 are known")
        num_tensors = self._count(MAX_TENSORS, "tensors")
        num_keys = self._count(MAX_KEYS, "keys")
        metadata: dict[str, Any] = {}
        for _ in range(num_keys):
            key = self._name("key", MAX_KEY_BYTES)
            if key in metadata:
                raise Malformed(f"key {key} twice")
            metadata[key] = self._value(key)
        _check_split(metadata)
        num_parameters, num_rows = self._tensors(num_tensors, metadata.get("general.alignment", 32))
        if (metadata.get("general.type") == _ADAPTER) is not is_adapter:
            raise Malformed("it is no adapter" if is_adapter else "it is an adapter, and no model by itself")
        control_tokens = () if is_adapter else self._control_tokens(metadata, num_rows)
        return _header_of(metadata, num_parameters, control_tokens)

    def _tensors(self, num_tensors: int, alignment: Any) -> tuple[int, int | None]:
        """Check that the tensors lie one after another to the end of the file.

        Returns the number of their values, and the rows of the table of tokens where there is one.
        """
        if not _is_count(alignment) or not 8 <= alignment <= MAX_ALIGNMENT or alignment & (alignment - 1):
            raise Malformed(f"general.alignment is {alignment!r}, and must be a power of two from 8 to {MAX_ALIGNMENT}")
        if num_tensors == 0:
            raise Malformed("it has no tensors")
        num_parameters, end, expected = 0, 0, 0
        num_rows: int | None = None
        names: set[str] = set()
        for _ in range(num_tensors):
            name = self._name("tensor", MAX_NAME_BYTES)
            if name in names:
                raise Malformed(f"tensor {name} twice")
            names.add(name)
            sizes = self._sizes(name)
            kind, offset = self._number("<I"), self._number("<Q")
            num_bytes = _tensor_bytes(name, sizes, kind)
            if offset != expected:
                raise Malformed(f"tensor {name} begins at {offset}, not at {expected}")
            end = expected + num_bytes
            expected = _pad(end, alignment)
            num_parameters += math.prod(sizes)
            if name == "token_embd.weight":
                num_rows = sizes[1] if len(sizes) == 2 else 1
        begin = _pad(self._at, alignment)
        if not begin + end <= self._size <= begin + expected:  # writers differ in whether they pad the last tensor
            raise Malformed(f"its tensors end at byte {begin + end}, and the file has {self._size}")
        return num_parameters, num_rows

    def _sizes(self, name: str) -> list[int]:
        num_dimensions = self._number("<I")
        if not 0 < num_dimensions <= 4:
            raise Malformed(f"tensor {name} has {num_dimensions} dimensions")
        sizes = [self._number("<Q") for _ in range(num_dimensions)]
        if 0 in sizes:
            raise Malformed(f"tensor {name} has a dimension of 0")
        return sizes

    def _control_tokens(self, metadata: dict[str, Any], num_rows: int | None) -> tuple[str, ...]:
        """The names of the vocabulary's control tokens. Raises Malformed where its parts do not fit together."""
        tokens, types, scores = (metadata.get(key) for key in (TOKENS, _TYPES, _SCORES))
        if tokens is None:
            if types is not None or scores is not None:
                raise Malformed(f"it has {_TYPES} or {_SCORES} and no {TOKENS}")
            return ()
        for key, kind in ((TOKENS, STRING), (_TYPES, INT32), (_SCORES, FLOAT32)):
            value = metadata.get(key)
            if key in metadata and (not isinstance(value, PassedArray) or value.kind != kind):
                raise Malformed(f"{key} is of the wrong type")
            if isinstance(value, PassedArray) and value.length != tokens.length:
                raise Malformed(f"{key} has {value.length} items, and {TOKENS} has {tokens.length}")
        if num_rows is not None and num_rows != tokens.length:
            raise Malformed(f"{TOKENS} has {tokens.length} items, and token_embd.weight {num_rows} rows")
        given = [metadata[key] for key in _SPECIAL_IDS if _is_count(metadata.get(key))]
        listed = {number for number in given if number < tokens.length}
        return tuple(sorted(self._control_names(tokens, types, listed)))

    def _control_names(self, tokens: PassedArray, types: PassedArray | None, listed: set[int]) -> set[str]:
        """Only what may be a control token is looked at: a vocabulary is large, and nearly all of it is plain."""
        kinds = array("i", bytes(4 * tokens.length) if types is None else self._bytes_at(types.begin, 4 * types.length))
        marked = {number for number, kind in enumerate(kinds) if kind in _MARKED}
        found: set[str] = set()
        for number in marked | listed | self._find_known_names(tokens):
            begin, end = tokens.begins[number : number + 2]
            data = self._bytes_at(begin + SIZE.size, end - begin - SIZE.size)
            if _is_control(data, kinds[number], listed=number in listed):
                found.add(_token(number, data))
                _check_number(found)
        return found

    def _find_known_names(self, tokens: PassedArray) -> set[int]:
        """The numbers of tokens that may be names that the engine knows; one of those may begin a longer text."""
        end = tokens.begins[-1]
        if end - tokens.begin > MAX_VOCABULARY_BYTES:
            raise Malformed(f"{TOKENS} has more than {MAX_VOCABULARY_BYTES} bytes")
        numbers: set[int] = set()
        for begin in range(tokens.begin, end, _SCAN_BYTES):
            data = self._bytes_at(begin, min(_SCAN_BYTES + _LONGEST_KNOWN, end - begin))
            for match in _find_known(data):
                offset = begin + match.start() - 1
                number = bisect_left(tokens.begins, offset)
                if tokens.begins[number] == offset:  # else it lies within a text
                    numbers.add(number)
                    _check_number(numbers)
        return numbers


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _check_number(control_tokens: set[Any]) -> None:
    if len(control_tokens) > MAX_CONTROL_TOKENS:
        raise Malformed(f"more than {MAX_CONTROL_TOKENS} control tokens")


def _check_split(metadata: dict[str, Any]) -> None:
    count = metadata.get("split.count", 0)
    if not _is_count(count) or count > 1:
        raise Malformed(f"split.count is {count!r}: it is one part of a model; merge the parts into one file")


def _tensor_bytes(name: str, sizes: list[int], kind: int) -> int:
    if kind not in _BLOCKS:
        raise Malformed(f"tensor {name} has the unknown type {kind}")
    block_values, block_bytes = _BLOCKS[kind]
    if sizes[0] % block_values:
        raise Malformed(f"tensor {name} has rows of {sizes[0]} values, no whole blocks of {block_values}")
    return math.prod(sizes) // block_values * block_bytes


def _is_control(data: bytes, kind: int, *, listed: bool) -> bool:
    """Whether the engine may take this text for more than text. User-defined tokens are often white space or signs in
    a row, which mean nothing but themselves; those in brackets are marks."""
    if kind in (_CONTROL_TOKEN, _UNKNOWN_TOKEN) or listed or data in _KNOWN:
        return True
    mark = data.replace("▁".encode(), b" ").strip()
    return kind == _USER_TOKEN and len(mark) > 2 and mark[:1] in b"<[{" and mark[-1:] in b">]}"


def _token(number: int, data: bytes) -> str:
    try:
        name = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Malformed(f"the control token {number} is no UTF-8") from error
    if len(name) < 2 or BREAK in name:
        raise Malformed(f"no text could be told from the control token {number}, {name!r}")
    return name


def _pad(length: int, alignment: int) -> int:
    return -(-length // alignment) * alignment


def _header_of(metadata: dict[str, Any], num_parameters: int, control_tokens: tuple[str, ...]) -> GgufHeader:
    architecture = metadata.get("general.architecture")
    if not isinstance(architecture, str) or not architecture:
        raise Malformed("it names no general.architecture")
    template = metadata.get(_TEMPLATE, "")
    context = metadata.get(f"{architecture}.context_length", 0)  # an adapter takes its model's
    pooling = metadata.get(f"{architecture}.pooling_type", _POOLING_NONE)
    least = 0 if metadata.get("general.type") == _ADAPTER else MIN_CONTEXT_TOKENS
    if not _is_count(context) or not least <= context <= MAX_CONTEXT_TOKENS:
        raise Malformed(f"{architecture}.context_length is {context!r}, no number of tokens")
    _check_sizes(metadata, architecture)
    if not isinstance(template, str) or isinstance(pooling, bool) or not isinstance(pooling, int):
        raise Malformed("its chat template or pooling type is of the wrong type")
    cuts: set[str] = set()
    written: set[str] = set()
    for key, value in metadata.items():
        if key.startswith(_TEMPLATE) and isinstance(value, str):  # the engine may take any of several
            texts = check_template(value, f"the chat template ({key})")
            cuts |= texts.cuts
            written |= texts.written
    return GgufHeader(
        architecture=architecture,
        name=str(metadata.get("general.name", "")),
        context_tokens=context,
        num_parameters=num_parameters,
        template_digest=digest_of_bytes(template.encode()),
        has_template=bool(template),
        pooling=pooling,
        derivation=str(metadata.get(_DERIVATION, "")),
        control_tokens=control_tokens,
        cuts=tuple(sorted(cuts)),
        written=tuple(sorted(written)),
        max_token_chars=_max_token_chars(metadata),
    )


def _check_sizes(metadata: dict[str, Any], architecture: str) -> None:
    """What the engine does not refuse but ends at."""
    layers = metadata.get(f"{architecture}.block_count", 1)
    if not _is_count(layers) or not 1 <= layers <= MAX_LAYERS:
        raise Malformed(f"{architecture}.block_count is {layers!r}, and must be 1 to {MAX_LAYERS}")
    for key in (f"{architecture}.attention.{name}" for name in _EPSILONS):
        epsilon = metadata.get(key, 0.0)
        if not isinstance(epsilon, float) or not 0 <= epsilon < math.inf:
            raise Malformed(f"{key} is {epsilon!r}, no small number")


def _max_token_chars(metadata: dict[str, Any]) -> int | None:
    """A vocabulary that falls back on bytes or single characters has no token that stands for more than its longest."""
    tokens = metadata.get(TOKENS)
    is_whole = metadata.get("tokenizer.ggml.model") in ("gpt2", "llama")
    return tokens.longest() if is_whole and isinstance(tokens, PassedArray) else None
