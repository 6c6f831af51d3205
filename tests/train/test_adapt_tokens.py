"""An adapter learns from the tokens that the engine will see: the imported tokenizer cuts text as the engine does."""

from __future__ import annotations

from pathlib import Path

import pytest

for library in ("torch", "transformers", "gguf"):
    pytest.importorskip(library, reason=f"{library} comes with the train extra")

from allod.core.errors import Invalid  # noqa: E402
from allod.train.exporting.engine import Engine  # noqa: E402
from allod.train.tuning import lora_tokens  # noqa: E402
from allod.train.tuning.lora_tokens import BaseTokenizer  # noqa: E402

TEXTS = [
    "In 2024 it cost 1,234,567.89 — naïve café, ½ of it.",
    "To insert a row:\n\n1. Choose Insert - Row.\n2. Press Enter.\n\n\n10. Done.",
    "x = 3.14*r**2;\r\n  print('a')\t# it's <|im_end|> they'll\n\n\tnow…  12345 ",
    "Naw o’r gloch, mae’r swyddfa’n agor; £5, 25 °C, 日本語 🎉",
]


@pytest.mark.slow
def test_text_is_cut_as_the_engine_cuts_it(weights: Path) -> None:
    """Figures, empty lines, other scripts, and a special token that is spelt out."""
    tokenizer = BaseTokenizer(weights.parent, weights.name)
    engine = Engine(weights, context=512)
    try:
        for text, (*tokens, _) in zip(TEXTS, tokenizer.encode(TEXTS), strict=True):
            assert tokens == engine.tokens(text)
    finally:
        engine.close()


def test_a_split_that_is_not_known_is_refused() -> None:
    """Rather than guessed, which mangles text silently; the known ones are listed."""
    with pytest.raises(Invalid, match="default") as caught:
        lora_tokens._split("default")
    assert caught.value.code == "base_tokenizer_unknown"
    assert "smollm" in (caught.value.hint or "")
