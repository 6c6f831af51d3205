"""The gate for GGUF files: read the header strictly, and refuse what is not whole.

Source: ggml-org/ggml, docs/gguf.md (version 3). Every count is bounded and every tensor must lie inside the file, so
that the engine never meets a file that this has not understood.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from allod.core.canonical import sha256_hex
from allod.core.errors import Invalid

MAX_TENSORS = 100_000
MAX_KEYS = 10_000
MAX_STRING_BYTES = 1 << 24
MAX_TEXT_BYTES = 1 << 24  # of all names and texts that are kept while reading
MAX_ARRAY_ITEMS = 1 << 22
MAX_ITEMS = 1 << 23
MAX_ALIGNMENT = 1 << 16

_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9
_POOLING_NONE = 0
_ADAPTER = "adapter"
_DERIVATION = "allod.derivation"

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
    """What the file says of itself. `template_digest` is of the chat template's text.

    `derivation` is the digest of the history of a model that Allod made, else empty. An adapter has no context.
    """

    architecture: str
    name: str
    context_tokens: int
    num_parameters: int
    template_digest: str
    has_template: bool
    pooling: int
    derivation: str = ""

    @property
    def can_embed(self) -> bool:
        """Whether the model was made for embeddings: its header says how to pool."""
        return self.pooling != _POOLING_NONE


def read_header(path: Path, *, is_adapter: bool = False) -> GgufHeader:
    """The header of a model's GGUF file, or of a LoRA adapter's. Raises Invalid for what is not a whole one."""
    try:
        with path.open("rb") as file:
            return _Reader(file, path.stat().st_size).header(is_adapter=is_adapter)
    except OSError as error:
        raise Invalid(f"{path}: {error.strerror}", code="model_unreadable") from error
    except _Malformed as error:
        raise Invalid(
            f"{path} is no whole GGUF file: {error}", code="model_malformed", hint="check the file against its digest"
        ) from error


class _Malformed(Exception):
    pass


class _Reader:
    def __init__(self, file: BinaryIO, size_bytes: int) -> None:
        self._file = file
        self._size = size_bytes
        self._num_items = 0
        self._num_text_bytes = 0

    def header(self, *, is_adapter: bool) -> GgufHeader:
        if self._take(4) != b"GGUF":
            raise _Malformed("it does not begin with GGUF")
        version = self._number("<I")
        if version not in (2, 3):
            raise _Malformed(f"version {version}; 2 and 3 are known")
        num_tensors = self._count(MAX_TENSORS, "tensors")
        num_keys = self._count(MAX_KEYS, "keys")
        metadata: dict[str, Any] = {}
        for _ in range(num_keys):
            key = self._string()
            if key in metadata:
                raise _Malformed(f"key {key} twice")
            metadata[key] = self._value(self._number("<I"))
        num_parameters = self._tensors(num_tensors, metadata.get("general.alignment", 32))
        if (metadata.get("general.type") == _ADAPTER) is not is_adapter:
            raise _Malformed("it is no adapter" if is_adapter else "it is an adapter, and no model by itself")
        return _described(metadata, num_parameters)

    def _tensors(self, num_tensors: int, alignment: Any) -> int:
        """Check that the tensors lie one after another to the end of the file; the number of their values."""
        if not isinstance(alignment, int) or not 0 < alignment <= MAX_ALIGNMENT or alignment % 8:
            raise _Malformed("its alignment is not usable")
        num_parameters, end, expected = 0, 0, 0
        names: set[str] = set()
        for _ in range(num_tensors):
            name = self._string()
            if name in names:
                raise _Malformed(f"tensor {name} twice")
            names.add(name)
            num_dimensions = self._number("<I")
            if not 0 < num_dimensions <= 4:
                raise _Malformed(f"tensor {name} has {num_dimensions} dimensions")
            values = math.prod(self._number("<Q") for _ in range(num_dimensions))
            kind, offset = self._number("<I"), self._number("<Q")
            if kind not in _BLOCKS:
                raise _Malformed(f"tensor {name} has the unknown type {kind}")
            block_values, block_bytes = _BLOCKS[kind]
            if values % block_values:
                raise _Malformed(f"tensor {name} is no whole number of blocks")
            if offset != expected:
                raise _Malformed(f"tensor {name} begins at {offset}, not at {expected}")
            end = expected + values // block_values * block_bytes
            expected = _padded(end, alignment)
            num_parameters += values
        begin = _padded(self._file.tell(), alignment)
        if not begin + end <= self._size <= begin + expected:  # writers differ in whether they pad the last tensor
            raise _Malformed(f"its tensors end at byte {begin + end}, and the file has {self._size}")
        return num_parameters

    def _value(self, kind: int, *, depth: int = 4) -> Any:
        if kind == _STRING:
            return self._string()
        if kind == _ARRAY:
            if depth == 0:
                raise _Malformed("arrays nested too deeply")
            self._skip_array(depth)
            return None  # nobody asks for what an array holds
        if kind not in _SCALARS:
            raise _Malformed(f"unknown kind of value {kind}")
        return self._number(_SCALARS[kind])

    def _skip_array(self, depth: int) -> None:
        kind, length = self._number("<I"), self._count(MAX_ARRAY_ITEMS, "items of an array")
        self._num_items += length
        if self._num_items > MAX_ITEMS:
            raise _Malformed(f"more than {MAX_ITEMS} items in its arrays")
        if kind in _SCALARS:
            self._skip(length * struct.calcsize(_SCALARS[kind]))
            return
        for _ in range(length):
            if kind == _STRING:
                self._skip(self._count(MAX_STRING_BYTES, "bytes of a string"))
            else:
                self._value(kind, depth=depth - 1)

    def _skip(self, length: int) -> None:
        if self._file.seek(length, 1) > self._size:
            raise _Malformed("it ends within its header")

    def _string(self) -> str:
        length = self._count(MAX_STRING_BYTES, "bytes of a string")
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
        data = self._file.read(length)
        if len(data) != length:
            raise _Malformed("it ends within its header")
        return data


def _padded(length: int, alignment: int) -> int:
    return -(-length // alignment) * alignment


def _described(metadata: dict[str, Any], num_parameters: int) -> GgufHeader:
    architecture = metadata.get("general.architecture")
    if not isinstance(architecture, str):
        raise _Malformed("it names no architecture")
    template = metadata.get("tokenizer.chat_template", "")
    context = metadata.get(f"{architecture}.context_length", 0)  # an adapter takes its model's
    pooling = metadata.get(f"{architecture}.pooling_type", _POOLING_NONE)
    least = 0 if metadata.get("general.type") == _ADAPTER else 1
    if not isinstance(context, int) or context < least or not isinstance(template, str) or not isinstance(pooling, int):
        raise _Malformed("its context length, chat template or pooling is missing or of the wrong type")
    return GgufHeader(
        architecture=architecture,
        name=str(metadata.get("general.name", "")),
        context_tokens=context,
        num_parameters=num_parameters,
        template_digest="sha256:" + sha256_hex(template.encode()),
        has_template=bool(template),
        pooling=pooling,
        derivation=str(metadata.get(_DERIVATION, "")),
    )
