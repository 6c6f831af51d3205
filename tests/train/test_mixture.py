"""A mixture names the sources that rows are taken from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch comes with the train extra")


from allod.core.errors import Invalid
from allod.train.corpus.shards import Pack, PackedDocument, Shards, ShardWriter, write_line, write_pack
from allod.train.stages.pretrain import sections_of


@pytest.fixture
def corpus(tmp_path: Path) -> Shards:
    """Documents of two sources in turn; a token tells its source."""
    lengths = {"novels/one": 40, "plays/one": 10, "novels/two": 25, "plays/two": 30}
    writer = ShardWriter(tmp_path, "train", dtype="uint16", tokens_per_shard=32)
    lines = []
    for name, length in lengths.items():
        first = writer.num_tokens
        lines.append(write_line(PackedDocument(name, "0" * 64, "train", first, length, length)))
        writer.append(np.full(length, 1 if name.startswith("novels") else 2))
    writer.close()
    (tmp_path / "documents.jsonl").write_bytes(b"".join(lines))
    write_pack(tmp_path, Pack("uint16", 300, 0, 32, 4, writer.num_tokens, 105, 0, 0, 0))
    return Shards(tmp_path, "train")


def test_without_a_mixture_all_text_counts_by_its_length(corpus: Shards) -> None:
    """There is one section, of everything."""
    (section,) = sections_of(corpus, ())
    assert section.tokens.num_tokens == 105


def test_a_section_is_all_documents_of_its_source_and_no_other(corpus: Shards) -> None:
    """However they lie between each other, and in the order in which they are named."""
    plays, novels, again = sections_of(corpus, ("plays", "novels", "plays"))
    assert plays == again
    assert (plays.tokens.num_tokens, novels.tokens.num_tokens) == (40, 65)
    assert set(plays.tokens.window(0, 40).tolist()) == {2}
    assert set(novels.tokens.window(0, 65).tolist()) == {1}


def test_a_source_without_text_is_refused(corpus: Shards) -> None:
    """The name is said, and what there is instead."""
    with pytest.raises(Invalid, match="poems") as refused:
        sections_of(corpus, ("novels", "poems"))
    assert refused.value.code == "mixture_unknown"
    assert refused.value.hint is not None
    assert "novels, plays" in refused.value.hint
