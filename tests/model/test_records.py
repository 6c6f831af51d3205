"""Records were written by processes that read the corpus: one that is none is refused, whatever it would do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from allod.core.errors import Invalid
from allod.model.releases.records import read_dropped, read_records, read_sources

SOURCE = {
    "name": "a", "kind": "text", "licence": "MIT", "jurisdiction": "GB", "origin": "b", "date": "2026", "package": "",
    "sha256": "0" * 64, "num_documents": 1, "num_bytes": 1,
}  # fmt: skip


@pytest.mark.parametrize(
    "changed",
    [
        {"id": "a/\x1b[2J"},
        {"id": "a/\u202eb"},
        {"id": "a/b\nc"},
        {"split": "Train"},
        {"split": None},
        {"num_tokens": float("inf")},
        {"num_bytes": float("nan")},
        {"sha256": 5},
    ],
)
def test_a_document_that_is_none(tmp_path: Path, changed: dict[str, Any]) -> None:
    """Names that steer a terminal, splits that nobody knows, numbers that are none."""
    row = {"id": "a/b", "sha256": "0" * 64, "split": "train", "num_tokens": 1, "num_bytes": 1, **changed}
    (tmp_path / "documents.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(Invalid) as caught:
        list(read_records(tmp_path / "documents.jsonl"))
    assert caught.value.code == "bad_record"


@pytest.mark.parametrize("changed", [{"origin": "\x9b2J"}, {"licence": 5}, {"num_bytes": float("inf")}])
def test_a_source_that_is_none(tmp_path: Path, changed: dict[str, Any]) -> None:
    """What it says of itself is printed for operators and for the public."""
    (tmp_path / "sources.json").write_text(json.dumps([{**SOURCE, **changed}]))
    with pytest.raises(Invalid) as caught:
        read_sources(tmp_path / "sources.json")
    assert caught.value.code == "bad_record"


def test_a_rule_that_steers_a_terminal(tmp_path: Path) -> None:
    """Rules end up in the public summary."""
    (tmp_path / "report.json").write_text(json.dumps({"dropped": [{"id": "a", "rule": "\x1b]0;x"}]}))
    with pytest.raises(Invalid):
        read_dropped(tmp_path / "report.json")
