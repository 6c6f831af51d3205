"""Documents as tokens on their way into shards: written as they come, read back in another order."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from allod.train.corpus.shards import PackedDocument, Split, read_line, write_line


class Spill:
    """One split's documents in two files below `folder`; in memory, 24 bytes a document.

    `num_tokens` and `num_bytes` are of all that was appended.
    """

    def __init__(self, folder: Path, split: Split, *, dtype: str) -> None:
        self.split: Split = split
        self.num_tokens = 0
        self.num_bytes = 0
        self._dtype = np.dtype(dtype)
        self._tokens = (folder / f"{split}.tokens").open("w+b")
        self._lines = (folder / f"{split}.lines").open("w+b")
        self._line_offsets = array("Q")
        self._ranks = array("Q")

    def __len__(self) -> int:
        return len(self._ranks)

    def append(self, id: str, digest: str, tokens: list[int], *, num_bytes: int, rank: int) -> None:
        """Add a document with its tokens, to be read back by `rank` (below 2^64)."""
        document = PackedDocument(id, digest, self.split, self.num_tokens, len(tokens), num_bytes)
        self._line_offsets.append(self._lines.tell())
        self._ranks.append(rank)
        self._lines.write(write_line(document))
        self._tokens.write(np.array(tokens, dtype=self._dtype).tobytes())
        self.num_tokens += document.num_tokens
        self.num_bytes += num_bytes

    def read(self) -> Iterator[tuple[PackedDocument, NDArray[Any]]]:
        """Every document with its tokens, by rank; those of one rank as they came. `first_token` is of that order."""
        if not len(self):
            return
        self._tokens.flush()
        tokens = np.memmap(self._tokens, dtype=self._dtype, mode="r")
        first_token = 0
        for number in np.argsort(np.array(self._ranks, dtype=np.uint64), kind="stable"):
            self._lines.seek(self._line_offsets[number])
            document = read_line(self._lines.readline())
            start, end = document.first_token, document.first_token + document.num_tokens
            yield replace(document, first_token=first_token), tokens[start:end]
            first_token += document.num_tokens

    def close(self) -> None:
        """Close both files."""
        self._tokens.close()
        self._lines.close()
