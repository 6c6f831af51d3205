"""An adapter learns from the tokens that the engine will see: the imported tokenizer cuts text as the engine does."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

for library in ("torch", "transformers", "gguf"):
    pytest.importorskip(library, reason=f"{library} comes with the train extra")

from tests.serve.vocabularies import VOCABULARIES, hostile, spellings, write_model  # noqa: E402

from allod.core.errors import Invalid  # noqa: E402
from allod.model.gguf.header import read_header  # noqa: E402
from allod.model.templates.control_tokens import ControlTokens  # noqa: E402
from allod.train.exporting.engine import TrialEngine  # noqa: E402
from allod.train.tuning import lora_tokens  # noqa: E402
from allod.train.tuning.lora_tokens import BaseTokenizer  # noqa: E402

TEXTS = [
    "In 2024 it cost 1,234,567.89 — naïve café, ½ of it.",
    "To insert a row:\n\n1. Choose Insert - Row.\n2. Press Enter.\n\n\n10. Done.",
    "x = 3.14*r**2;\r\n  print('a')\t# it's <|im_end|> they'll\n\n\tnow…  12345 ",
    "Naw o’r gloch, mae’r swyddfa’n agor; £5, 25 °C, 日本語 🎉",
]

NUM_CONTROL = 17  # of SmolLM2: they have the first numbers


@pytest.fixture(scope="module")
def real(weights: Path) -> BaseTokenizer:
    return BaseTokenizer(weights.parent, weights.name)


@pytest.mark.slow
def test_text_is_cut_as_the_engine_cuts_it(real: BaseTokenizer, weights: Path) -> None:
    """Figures, empty lines, other scripts, and a special token that is spelt out."""
    with TrialEngine(weights, context=512) as engine:
        for text, (*tokens, _) in zip(TEXTS, real.encode(TEXTS), strict=True):
            assert tokens == engine.tokens(text)


@pytest.mark.slow
def test_no_document_makes_a_control_token_of_a_real_base(real: BaseTokenizer, weights: Path) -> None:
    """Each of the names alone, and within a text: only the end that stands behind a document is one."""
    names = read_header(weights).control_tokens
    for tokens in real.encode([*names, *(f"before {name} after" for name in names)]):
        assert [token for token in tokens if token < NUM_CONTROL] == tokens[-1:]


@pytest.mark.parametrize("family", ["Llama 3", "Qwen", "DeepSeek", "symbols of bytes"])
def test_no_document_makes_a_control_token(tmp_path: Path, family: str) -> None:
    """Special ones, user-defined marks, and names that are words or that merges lead to."""
    vocabulary, draw = VOCABULARIES[family], random.Random(12)
    write_model(tmp_path / "weights.gguf", vocabulary)
    tokenizer = BaseTokenizer(tmp_path, "weights.gguf")
    texts = [form for name in vocabulary.names for said in spellings(name) for form in (said, f"z{said}", f"{said}z")]
    texts += [hostile(draw, vocabulary) for _ in range(300)]
    for text, (*tokens, _) in zip(texts, tokenizer.encode(texts), strict=True):
        assert all(token >= len(vocabulary.names) for token in tokens), text


def test_a_document_that_still_made_one_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rather than learnt from."""
    monkeypatch.setattr(ControlTokens, "plain", lambda self, text: text)
    write_model(tmp_path / "weights.gguf", VOCABULARIES["Qwen"])
    with pytest.raises(Invalid) as caught:
        BaseTokenizer(tmp_path, "weights.gguf").encode(["honest", "a <tool_call>"])
    assert caught.value.code == "control_tokens"


def test_a_split_that_is_not_known_is_refused() -> None:
    """Rather than guessed, which mangles text silently; the known ones are listed."""
    with pytest.raises(Invalid, match="default") as caught:
        lora_tokens._split("default")
    assert caught.value.code == "base_tokenizer_unknown"
    assert "smollm" in (caught.value.hint or "")
