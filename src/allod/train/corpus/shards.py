"""The packed corpus: tokens one after another in shards, and which document each of them comes from.

`train-NNNNN.bin` and `validation-NNNNN.bin` hold little-endian uint16 (uint32 for a vocabulary of 65,536 and more);
every shard but a split's last holds `tokens_per_shard`. `documents.jsonl` has one line for every document, those of
`train` first, in the order of their tokens. `pack.json` says how much there is.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import NDArray

from allod.core.canonical import canonical_json
from allod.core.errors import Invalid

Split = Literal["train", "validation"]
SPLITS: tuple[Split, ...] = ("train", "validation")

PACK = "pack.json"
DOCUMENTS = "documents.jsonl"
_WIDE_VOCAB = 1 << 16


@dataclass(frozen=True, slots=True)
class Pack:
    """`pack.json`. Bytes are of the documents' text as UTF-8; the token that ends each document counts none."""

    dtype: str
    vocab: int
    end_of_text: int
    tokens_per_shard: int
    num_train_documents: int
    num_train_tokens: int
    num_train_bytes: int
    num_validation_documents: int
    num_validation_tokens: int
    num_validation_bytes: int

    def num_tokens(self, split: Split) -> int:
        return self.num_train_tokens if split == "train" else self.num_validation_tokens


@dataclass(frozen=True, slots=True)
class PackedDocument:
    """Where a document's tokens are: `first_token` counts from the begin of its split. `sha256` is the source's."""

    id: str
    sha256: str
    split: Split
    first_token: int
    num_tokens: int
    num_bytes: int


def token_dtype(vocab: int) -> str:
    """How tokens of such a vocabulary are written."""
    return "uint32" if vocab >= _WIDE_VOCAB else "uint16"


def shard_path(folder: Path, split: Split, number: int) -> Path:
    return folder / f"{split}-{number:05}.bin"


class ShardWriter:
    """Writes one split, a shard after another."""

    def __init__(self, folder: Path, split: Split, *, dtype: str, tokens_per_shard: int) -> None:
        self._folder = folder
        self._split = split
        self._dtype = np.dtype(dtype).newbyteorder("<")
        self._tokens_per_shard = tokens_per_shard
        self._file: IO[bytes] | None = None
        self.num_tokens = 0

    def append(self, tokens: NDArray[Any]) -> None:
        """Write `tokens` [n], over the end of a shard if need be."""
        while len(tokens):
            room = self._tokens_per_shard - self.num_tokens % self._tokens_per_shard
            if room == self._tokens_per_shard:
                self._begin()
            assert self._file is not None
            part, tokens = tokens[:room], tokens[room:]
            self._file.write(part.astype(self._dtype, copy=False).tobytes())
            self.num_tokens += len(part)

    def close(self) -> None:
        """Close the shard that is open."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _begin(self) -> None:
        self.close()
        number = self.num_tokens // self._tokens_per_shard
        self._file = shard_path(self._folder, self._split, number).open("wb")


def write_pack(folder: Path, pack: Pack) -> None:
    (folder / PACK).write_bytes(canonical_json(asdict(pack)) + b"\n")


def read_pack(folder: Path) -> Pack:
    """`pack.json` of a stage's folder. Raises Invalid (`shards_damaged`) unless it is exactly one."""
    try:
        pack = Pack(**json.loads((folder / PACK).read_bytes()))
        numbers = [value for name, value in asdict(pack).items() if name != "dtype"]
    except (OSError, ValueError, TypeError) as error:
        raise _damage(f"{PACK}: {error}") from error
    if any(type(number) is not int or number < 0 for number in numbers) or not pack.tokens_per_shard:
        raise _damage(f"{PACK} holds something that is no count")
    if pack.dtype != token_dtype(pack.vocab):
        raise _damage(f"{PACK}: {pack.dtype} for a vocabulary of {pack.vocab}")
    return pack


class Shards:
    """One split, read where it lies. Raises Invalid (`shards_damaged`) where sizes are not what `pack.json` says."""

    def __init__(self, folder: Path, split: Split) -> None:
        self.pack = read_pack(folder)
        self.num_tokens = self.pack.num_tokens(split)
        self._folder = folder
        self._split = split
        self._dtype = np.dtype(self.pack.dtype).newbyteorder("<")
        self._parts = [self._map(number, count) for number, count in enumerate(self._counts())]
        self._lines: _DocumentLines | None = None

    def window(self, start: int, length: int) -> NDArray[np.int64]:
        """`length` tokens from `start` on. Raises Invalid (`shards_range`) unless all of them are there."""
        if not 0 <= start <= start + length <= self.num_tokens:
            raise Invalid(
                f"tokens {start} to {start + length} of {self.num_tokens} in {self._split}", code="shards_range"
            )
        tokens = np.empty(length, dtype=np.int64)
        filled = 0
        while filled < length:
            number, offset = divmod(start + filled, self.pack.tokens_per_shard)
            part = self._parts[number][offset : offset + length - filled]
            tokens[filled : filled + len(part)] = part
            filled += len(part)
        return tokens

    def documents(self) -> Iterator[PackedDocument]:
        """The documents of this split in the order of their tokens."""
        return (document for document in read_packed(self._folder) if document.split == self._split)

    def document_at(self, offset: int) -> PackedDocument:
        """The document that token `offset` comes from. Raises Invalid (`shards_range`) where there is no such token."""
        if not 0 <= offset < self.num_tokens:
            raise Invalid(f"token {offset} of {self.num_tokens} in {self._split}", code="shards_range")
        if self._lines is None:
            self._lines = _DocumentLines(self._folder, self._split)
        return self._lines.document_at(offset)

    def _counts(self) -> list[int]:
        whole, rest = divmod(self.num_tokens, self.pack.tokens_per_shard)
        return [self.pack.tokens_per_shard] * whole + ([rest] if rest else [])

    def _map(self, number: int, count: int) -> NDArray[Any]:
        path = shard_path(self._folder, self._split, number)
        try:
            size = path.stat().st_size
        except OSError as error:
            raise _damage(f"{path.name}: {error.strerror}") from error
        if size != count * self._dtype.itemsize:
            raise _damage(f"{path.name} has {size} bytes, not {count * self._dtype.itemsize}")
        return np.memmap(path, dtype=self._dtype, mode="r")


class _DocumentLines:
    """Where the lines of one split's documents begin, in 16 bytes a document: for looking up single tokens."""

    def __init__(self, folder: Path, split: Split) -> None:
        self._path = folder / DOCUMENTS
        tokens, offsets, offset = [], [], 0
        with self._path.open("rb") as file:
            for line in file:
                document = read_line(line)
                if document.split == split:
                    tokens.append(document.first_token)
                    offsets.append(offset)
                offset += len(line)
        self._tokens = np.array(tokens, dtype=np.int64)
        self._offsets = np.array(offsets, dtype=np.int64)

    def document_at(self, offset: int) -> PackedDocument:
        number = int(np.searchsorted(self._tokens, offset, side="right")) - 1
        with self._path.open("rb") as file:
            file.seek(int(self._offsets[number]))
            document = read_line(file.readline())
        if not document.first_token <= offset < document.first_token + document.num_tokens:
            raise _damage(f"{DOCUMENTS}: token {offset} belongs to no document")
        return document


def write_line(document: PackedDocument) -> bytes:
    """One line of `documents.jsonl`."""
    return canonical_json(asdict(document)) + b"\n"


def read_packed(folder: Path) -> Iterator[PackedDocument]:
    """Every line of `documents.jsonl`. Raises Invalid (`shards_damaged`) for one that is none."""
    with (folder / DOCUMENTS).open("rb") as file:
        for line in file:
            yield read_line(line)


def read_line(line: bytes) -> PackedDocument:
    """What a line of `documents.jsonl` says. Raises Invalid (`shards_damaged`) where it is none."""
    try:
        document = PackedDocument(**json.loads(line))
    except (ValueError, TypeError) as error:
        raise _damage(f"{DOCUMENTS}: {error}") from error
    if document.split not in SPLITS or type(document.first_token) is not int or type(document.num_tokens) is not int:
        raise _damage(f"{DOCUMENTS}: a line is no document")
    return document


def _damage(why: str) -> Invalid:
    return Invalid(f"the packed corpus cannot be read: {why}", code="shards_damaged", hint="pack it again")
