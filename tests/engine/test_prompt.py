"""Prompts that are made plain and encoded: a large one in a thread of its own."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest

from allod.engine.adapters.prompt import INLINE_BYTES, plain_json
from allod.model.templates.control_tokens import BREAK, ControlTokens

CONTROL = ControlTokens(["<s>"])


async def test_what_is_encoded_spells_no_control_token() -> None:
    """Messages and texts, short and long."""
    for many in (1, INLINE_BYTES):
        assert json.loads(await plain_json(CONTROL.plain_texts, ["<s>"] * many)) == [f"<{BREAK}s>"] * many
    messages = [{"role": "user", "content": "<s>"}]
    assert await plain_json(CONTROL.plain_messages, messages) == f'[{{"role":"user","content":"<{BREAK}s>"}}]'.encode()


@pytest.mark.parametrize("texts", [["<" * INLINE_BYTES], ["<"] * INLINE_BYTES, [{"<" * INLINE_BYTES: 1}]])
async def test_a_large_prompt_is_not_made_plain_on_the_loop(texts: list[Any]) -> None:
    """One long text, many short ones, or a key: by what they have in all."""
    assert await where(texts) is not threading.main_thread()
    assert await where(["<" * 100]) is threading.main_thread()


async def where(texts: list[Any]) -> threading.Thread:
    """The thread that makes `texts` plain."""
    found: list[threading.Thread] = []

    def make_plain(value: list[Any]) -> list[Any]:
        found.append(threading.current_thread())
        return value

    await plain_json(make_plain, texts)
    return found[0]
