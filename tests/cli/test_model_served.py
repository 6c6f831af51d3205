"""A released model in a real, sealed engine: from `allod up` by name to the documents behind an answer."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from tests.app import finished_runs
from tests.conftest import Gateway

from allod.app.home import load_settings
from allod.app.release import release
from allod.model.store import silent


def with_derivation(weights: bytes, derivation: str) -> bytes:
    """The same GGUF file with one text more; the texts' length is a multiple of the alignment, so all else stays."""

    def pair(key: str, value: str) -> bytes:
        return struct.pack("<Q", len(key)) + key.encode() + struct.pack("<IQ", 8, len(value)) + value.encode()

    said = pair("allod.derivation", derivation)
    said += pair("allod.padding", "-" * (-(len(said) + len(pair("allod.padding", ""))) % 32))
    (num_keys,) = struct.unpack_from("<Q", weights, 16)
    return weights[:16] + struct.pack("<Q", num_keys + 2) + said + weights[24:]


@pytest.mark.slow
def test_an_answer_of_a_released_model_leads_to_its_documents(
    start_gateway: Callable[..., AbstractContextManager[Gateway]],
    weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`allod up --model NAME`, `allod ask --receipt`, `allod verify --lineage` in one realm."""
    home, data = tmp_path / "home", weights.read_bytes()

    def real_gguf(texts: dict[str, str], *, is_model: bool = True) -> bytes:
        return with_derivation(data, texts["allod.derivation"])

    monkeypatch.setattr(finished_runs, "gguf_bytes", real_gguf)
    run = finished_runs.model_run(tmp_path / "run", "village")
    home.mkdir()
    (home / "store").mkdir()
    made = release(load_settings(home=home), run.folder, now_ms=5_000, report=silent)
    with start_gateway("village") as gateway:
        file = tmp_path / "r.json"
        asked = gateway.allod("ask", "--receipt", str(file), "Hello.")
        assert asked.returncode == 0, asked.stderr
        checked = gateway.allod("verify", "--lineage", "--json", str(file))
        assert checked.returncode == 0, checked.stdout + checked.stderr
        told = json.loads(checked.stdout)
        assert [step["number"] for step in told["steps"]] == list(range(1, 14))
        assert told["lineage"][0]["digest"] == made.digest
        assert [source["name"] for source in told["lineage"][0]["sources"]] == ["novels", "plays"]
