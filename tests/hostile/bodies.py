"""Every hostile body there is, by name: what a tenant may send and nobody should have to fear."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tests.hostile import figures, histories, schemas, texts, tools

QUESTION = [{"role": "user", "content": "Why?"}]


@dataclass(frozen=True)
class Body:
    """`expected`: "ok", the code of the refusal, the marking that must be found, or None where anything will do."""

    name: str
    content: bytes
    expected: str | None = None


def every() -> Iterator[Body]:
    """All of them, those of a kind together."""
    for name, schema in schemas.HOSTILE:
        yield Body(f"schema/{name}", _asked(schema))
        yield Body(f"forced/{name}", _forced(schema))
    for name, schema in schemas.HONEST:
        yield Body(f"schema/{name}", _asked(schema), "ok")
    for kind, cases in (("text", texts.CASES), ("history", histories.CASES)):
        for name, content, expected in cases:
            yield Body(f"{kind}/{name}", content if isinstance(content, bytes) else _dumped(content), expected)
    for kind, made in (("number", figures.bodies()), ("tool", tools.bodies())):
        for name, body, wanted in made:
            yield Body(f"{kind}/{name}", body, wanted)


def for_model(content: bytes, model: str) -> bytes:
    """The same body, asked of another model than echo."""
    return content.replace(b'"model":"echo"', b'"model":"%b"' % model.encode()).replace(
        b'"model": "echo"', b'"model": "%b"' % model.encode()
    )


def _asked(schema: Any) -> bytes:
    wanted = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    return _dumped({"model": "echo", "messages": QUESTION, "max_tokens": 16, "response_format": wanted})


def _forced(schema: Any) -> bytes:
    function = {"name": "act", "description": "It acts.", "parameters": schema}
    choice = {"type": "function", "function": {"name": "act"}}
    tools = [{"type": "function", "function": function}]
    return _dumped({"model": "echo", "messages": QUESTION, "max_tokens": 16, "tools": tools, "tool_choice": choice})


def _dumped(value: Any) -> bytes:
    """JSON of any depth: Python's own encoder is held to a limit that no sender is held to."""
    usual = sys.getrecursionlimit()
    sys.setrecursionlimit(50_000)
    try:
        return json.dumps(value).encode()
    finally:
        sys.setrecursionlimit(usual)
