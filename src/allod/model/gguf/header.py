"""The gate for GGUF files: read the header strictly, and refuse what is not whole.

Source: ggml-org/ggml, docs/gguf.md (version 3). Every count is bounded, so is the sum of all work, and every tensor
must lie inside the file, so that the engine never meets a file that this has not understood.
"""

from __future__ import annotations

import math
import re
import struct
from array import array
from bisect import bisect_left
from dataclasses import dataclass
from operator import sub
from pathlib import Path
from typing import Any, BinaryIO

from allod.core.canonical import sha256_hex
from allod.core.errors import Invalid
from allod.model.gguf.plain_file import open_plain
from allod.model.templates.control_tokens import BREAK, KNOWN_NAMES, ControlTokens
from allod.model.templates.gate import check_template

MAX_TENSORS = 100_000
MAX_KEYS = 10_000
MAX_TEXT_BYTES = 1 << 24  # of all names and texts that are kept while reading, and of each that is passed over
MAX_ITEMS = 1 << 23  # in all arrays together
MAX_ALIGNMENT = 1 << 16
MAX_TEXTS = 1 << 21  # in all arrays together: each costs the reader some 200 ns
MAX_NAME_BYTES = 63  # of a tensor: GGML_MAX_NAME, less the zero that ends it
MAX_KEY_BYTES = (1 << 16) - 1
MAX_TOKEN_BYTES = 1 << 12
MAX_VOCABULARY_BYTES = 1 << 25
MAX_CONTROL_TOKENS = 1 << 16
MIN_CONTEXT_TOKENS = 2  # with one, the engine ends when it warms up
MAX_CONTEXT_TOKENS = (1 << 31) - 1
MAX_LAYERS = 512  # LLAMA_MAX_LAYERS

_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_UINT32, _INT32, _FLOAT32, _BOOL, _STRING, _ARRAY = 4, 5, 6, 7, 8, 9
_WINDOW_BYTES = 1 << 16
_TOKENS, _TYPES, _SCORES = "tokenizer.ggml.tokens", "tokenizer.ggml.token_type", "tokenizer.ggml.scores"
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

_SIZE = struct.Struct("<Q")
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

    def kept_apart(self) -> ControlTokens:
        """What keeps texts apart from the control tokens. Raises Invalid where nothing could (`control_tokens`)."""
        return ControlTokens(self.control_tokens, cuts=self.cuts, written=self.written)


def read_header(path: Path, *, is_adapter: bool = False) -> GgufHeader:
    """The header of a model's GGUF file, or of a LoRA adapter's. Raises Invalid for what is not a whole one."""
    try:
        with open_plain(path) as file:
            return _Reader(file, path.stat().st_size).header(is_adapter=is_adapter)
    except OSError as error:
        raise Invalid(f"{path}: {error.strerror}", code="model_unreadable") from error
    except _Malformed as error:
        raise Invalid(
            f"{path} is no whole GGUF file: {error}", code="model_malformed", hint="check the file against its digest"
        ) from error


class _Malformed(Exception):
    pass


@dataclass(frozen=True, slots=True)
class _Array:
    """An array that was passed over. `begins`: where each text of one begins, and where the last ends."""

    kind: int
    length: int
    begin: int
    begins: array[int]

    def longest(self) -> int:
        """Bytes of the longest of its texts."""
        return max(map(sub, self.begins[1:], self.begins), default=_SIZE.size) - _SIZE.size


class _Reader:
    def __init__(self, file: BinaryIO, size_bytes: int) -> None:
        self._file = file
        self._size = size_bytes
        self._at = 0
        self._window, self._window_begin = b"", 0
        self._num_items = 0
        self._num_texts = 0
        self._num_text_bytes = 0

    def header(self, *, is_adapter: bool) -> GgufHeader:
        if self._take(4) != b"GGUF":
            raise _Malformed("it does not begin with GGUF")
        version = self._number("<I")
        if version == 0x03000000:
            raise _Malformed("it is big-endian; the engine reads little-endian files")
        if version not in (2, 3):
            raise _Malformed(f"version {version}; 2 and 3 are known")
        num_tensors = self._count(MAX_TENSORS, "tensors")
        num_keys = self._count(MAX_KEYS, "keys")
        metadata: dict[str, Any] = {}
        for _ in range(num_keys):
            key = self._name("key", MAX_KEY_BYTES)
            if key in metadata:
                raise _Malformed(f"key {key} twice")
            metadata[key] = self._value(key)
        _check_split(metadata)
        num_parameters, num_rows = self._tensors(num_tensors, metadata.get("general.alignment", 32))
        if (metadata.get("general.type") == _ADAPTER) is not is_adapter:
            raise _Malformed("it is no adapter" if is_adapter else "it is an adapter, and no model by itself")
        control_tokens = () if is_adapter else self._control_tokens(metadata, num_rows)
        return _described(metadata, num_parameters, control_tokens)

    def _tensors(self, num_tensors: int, alignment: Any) -> tuple[int, int | None]:
        """Check that the tensors lie one after another to the end of the file.

        Returns the number of their values, and the rows of the table of tokens where there is one.
        """
        if not _is_count(alignment) or not 8 <= alignment <= MAX_ALIGNMENT or alignment & (alignment - 1):
            raise _Malformed(
                f"general.alignment is {alignment!r}, and must be a power of two from 8 to {MAX_ALIGNMENT}"
            )
        if num_tensors == 0:
            raise _Malformed("it has no tensors")
        num_parameters, end, expected = 0, 0, 0
        num_rows: int | None = None
        names: set[str] = set()
        for _ in range(num_tensors):
            name = self._name("tensor", MAX_NAME_BYTES)
            if name in names:
                raise _Malformed(f"tensor {name} twice")
            names.add(name)
            sizes = self._sizes(name)
            kind, offset = self._number("<I"), self._number("<Q")
            num_bytes = _tensor_bytes(name, sizes, kind)
            if offset != expected:
                raise _Malformed(f"tensor {name} begins at {offset}, not at {expected}")
            end = expected + num_bytes
            expected = _padded(end, alignment)
            num_parameters += math.prod(sizes)
            if name == "token_embd.weight":
                num_rows = sizes[1] if len(sizes) == 2 else 1
        begin = _padded(self._at, alignment)
        if not begin + end <= self._size <= begin + expected:  # writers differ in whether they pad the last tensor
            raise _Malformed(f"its tensors end at byte {begin + end}, and the file has {self._size}")
        return num_parameters, num_rows

    def _sizes(self, name: str) -> list[int]:
        num_dimensions = self._number("<I")
        if not 0 < num_dimensions <= 4:
            raise _Malformed(f"tensor {name} has {num_dimensions} dimensions")
        sizes = [self._number("<Q") for _ in range(num_dimensions)]
        if 0 in sizes:
            raise _Malformed(f"tensor {name} has a dimension of 0")
        return sizes

    def _control_tokens(self, metadata: dict[str, Any], num_rows: int | None) -> tuple[str, ...]:
        """The names of the vocabulary's control tokens. Raises _Malformed where its parts do not fit together."""
        tokens, types, scores = (metadata.get(key) for key in (_TOKENS, _TYPES, _SCORES))
        if tokens is None:
            if types is not None or scores is not None:
                raise _Malformed(f"it has {_TYPES} or {_SCORES} and no {_TOKENS}")
            return ()
        for key, kind in ((_TOKENS, _STRING), (_TYPES, _INT32), (_SCORES, _FLOAT32)):
            value = metadata.get(key)
            if key in metadata and (not isinstance(value, _Array) or value.kind != kind):
                raise _Malformed(f"{key} is of the wrong type")
            if isinstance(value, _Array) and value.length != tokens.length:
                raise _Malformed(f"{key} has {value.length} items, and {_TOKENS} has {tokens.length}")
        if num_rows is not None and num_rows != tokens.length:
            raise _Malformed(f"{_TOKENS} has {tokens.length} items, and token_embd.weight {num_rows} rows")
        given = [metadata[key] for key in _SPECIAL_IDS if _is_count(metadata.get(key))]
        listed = {number for number in given if number < tokens.length}
        return tuple(sorted(self._control_names(tokens, types, listed)))

    def _control_names(self, tokens: _Array, types: _Array | None, listed: set[int]) -> set[str]:
        """Only what may be a control token is looked at: a vocabulary is large, and nearly all of it is plain."""
        kinds = array("i", bytes(4 * tokens.length) if types is None else self._bytes_at(types.begin, 4 * types.length))
        marked = {number for number, kind in enumerate(kinds) if kind in _MARKED}
        found: set[str] = set()
        for number in marked | listed | self._known(tokens):
            begin, end = tokens.begins[number : number + 2]
            data = self._bytes_at(begin + _SIZE.size, end - begin - _SIZE.size)
            if _is_control(data, kinds[number], listed=number in listed):
                found.add(_token(number, data))
                _check_number(found)
        return found

    def _known(self, tokens: _Array) -> set[int]:
        """The numbers of tokens that may be names that the engine knows; one of those may begin a longer text."""
        end = tokens.begins[-1]
        if end - tokens.begin > MAX_VOCABULARY_BYTES:
            raise _Malformed(f"{_TOKENS} has more than {MAX_VOCABULARY_BYTES} bytes")
        numbers: set[int] = set()
        for begin in range(tokens.begin, end, _SCAN_BYTES):
            data = self._bytes_at(begin, min(_SCAN_BYTES + _LONGEST_KNOWN, end - begin))
            for match in _find_known(data):
                place = begin + match.start() - 1
                number = bisect_left(tokens.begins, place)
                if tokens.begins[number] == place:  # else it lies within a text
                    numbers.add(number)
                    _check_number(numbers)
        return numbers

    def _value(self, key: str) -> Any:
        kind = self._number("<I")
        if kind == _STRING:
            return self._string()
        if kind == _ARRAY:
            return self._passed_array(key)
        if kind not in _SCALARS:
            raise _Malformed(f"key {key} has a value of the unknown type {kind}")
        value = self._number(_SCALARS[kind])
        if key == "general.alignment" and kind != _UINT32:
            raise _Malformed("general.alignment is no uint32")
        return value

    def _passed_array(self, key: str) -> _Array:
        kind, length = self._number("<I"), self._number("<Q")
        self._num_items += length
        if self._num_items > MAX_ITEMS:
            raise _Malformed(f"more than {MAX_ITEMS} items in its arrays")
        if kind not in _SCALARS and kind != _STRING:
            raise _Malformed(f"key {key} is an array of {'arrays' if kind == _ARRAY else f'the unknown type {kind}'}")
        passed = _Array(kind, length, self._at, array("Q", [self._at]))
        if kind in _SCALARS:
            self._at += length * struct.calcsize(_SCALARS[kind])
        else:
            self._pass_texts(key, length, passed.begins)
        return passed

    def _pass_texts(self, key: str, length: int, begins: array[int]) -> None:
        """Pass over the texts of an array, and say where each one ends."""
        self._num_texts += length
        if self._num_texts > MAX_TEXTS:
            raise _Malformed(f"more than {MAX_TEXTS} texts in its arrays")
        limit = MAX_TOKEN_BYTES if key == _TOKENS else MAX_TEXT_BYTES
        at, size_at = self._at, _SIZE.unpack_from
        window, begin, last = b"", at, -1  # as locals: this is most of what reading a header costs
        for _ in range(length):
            if at - begin > last:
                self._at = at
                self._look(_SIZE.size)
                window, begin, last = self._window, at, len(self._window) - 8
            (size,) = size_at(window, at - begin)
            if size > limit:
                raise _Malformed(f"a text of {size} bytes in {key}, more than {limit}")
            at += 8 + size
            begins.append(at)
        self._at = at

    def _bytes_at(self, at: int, length: int) -> bytes:
        back, self._at = self._at, at
        data = self._take(length)
        self._at = back
        return data

    def _name(self, what: str, limit: int) -> str:
        """A name of one byte at least and `limit` at most, in UTF-8 and without a zero."""
        length = self._number("<Q")
        if not 0 < length <= limit:
            raise _Malformed(f"a {what}'s name has {length} bytes, and must have 1 to {limit}")
        self._at -= 8
        name = self._string()
        if "\ufffd" in name or "\0" in name:
            raise _Malformed(f"the name of a {what}, {name!r}, is no plain text")
        return name

    def _string(self) -> str:
        length: int = self._number("<Q")
        self._num_text_bytes += length
        if self._num_text_bytes > MAX_TEXT_BYTES:
            raise _Malformed(f"more than {MAX_TEXT_BYTES} bytes of names and texts")
        return self._take(length).decode("utf-8", "replace")

    def _count(self, limit: int, what: str) -> int:
        count: int = self._number("<Q")
        if count > limit:
            raise _Malformed(f"{count} {what}, more than {limit}")
        return count

    def _number(self, form: str) -> Any:
        return struct.unpack(form, self._take(struct.calcsize(form)))[0]

    def _take(self, length: int) -> bytes:
        place = self._at - self._window_begin
        if not 0 <= place <= len(self._window) - length:
            self._look(length)
            place = 0
        self._at += length
        return self._window[place : place + length]

    def _look(self, length: int) -> None:
        """Put at least `length` bytes from here on into the window; what was passed over may end beyond the file."""
        self._file.seek(self._at)
        self._window, self._window_begin = self._file.read(max(length, _WINDOW_BYTES)), self._at
        if len(self._window) < length:
            raise _Malformed("it ends within its header")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _check_number(control_tokens: set[Any]) -> None:
    if len(control_tokens) > MAX_CONTROL_TOKENS:
        raise _Malformed(f"more than {MAX_CONTROL_TOKENS} control tokens")


def _check_split(metadata: dict[str, Any]) -> None:
    count = metadata.get("split.count", 0)
    if not _is_count(count) or count > 1:
        raise _Malformed(f"split.count is {count!r}: it is one part of a model; merge the parts into one file")


def _tensor_bytes(name: str, sizes: list[int], kind: int) -> int:
    if kind not in _BLOCKS:
        raise _Malformed(f"tensor {name} has the unknown type {kind}")
    block_values, block_bytes = _BLOCKS[kind]
    if sizes[0] % block_values:
        raise _Malformed(f"tensor {name} has rows of {sizes[0]} values, no whole blocks of {block_values}")
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
        raise _Malformed(f"the control token {number} is no UTF-8") from error
    if len(name) < 2 or BREAK in name:
        raise _Malformed(f"no text could be told from the control token {number}, {name!r}")
    return name


def _padded(length: int, alignment: int) -> int:
    return -(-length // alignment) * alignment


def _described(metadata: dict[str, Any], num_parameters: int, control_tokens: tuple[str, ...]) -> GgufHeader:
    architecture = metadata.get("general.architecture")
    if not isinstance(architecture, str) or not architecture:
        raise _Malformed("it names no general.architecture")
    template = metadata.get(_TEMPLATE, "")
    context = metadata.get(f"{architecture}.context_length", 0)  # an adapter takes its model's
    pooling = metadata.get(f"{architecture}.pooling_type", _POOLING_NONE)
    least = 0 if metadata.get("general.type") == _ADAPTER else MIN_CONTEXT_TOKENS
    if not _is_count(context) or not least <= context <= MAX_CONTEXT_TOKENS:
        raise _Malformed(f"{architecture}.context_length is {context!r}, no number of tokens")
    _check_sizes(metadata, architecture)
    if not isinstance(template, str) or isinstance(pooling, bool) or not isinstance(pooling, int):
        raise _Malformed("its chat template or pooling type is of the wrong type")
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
        template_digest="sha256:" + sha256_hex(template.encode()),
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
        raise _Malformed(f"{architecture}.block_count is {layers!r}, and must be 1 to {MAX_LAYERS}")
    for key in (f"{architecture}.attention.{name}" for name in _EPSILONS):
        epsilon = metadata.get(key, 0.0)
        if not isinstance(epsilon, float) or not 0 <= epsilon < math.inf:
            raise _Malformed(f"{key} is {epsilon!r}, no small number")


def _max_token_chars(metadata: dict[str, Any]) -> int | None:
    """A vocabulary that falls back on bytes or single characters has no token that stands for more than its longest."""
    tokens = metadata.get(_TOKENS)
    is_whole = metadata.get("tokenizer.ggml.model") in ("gpt2", "llama")
    return tokens.longest() if is_whole and isinstance(tokens, _Array) else None
