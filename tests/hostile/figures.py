"""Numbers, and what is none, in every field of a chat that wants one; and shapes where another shape belongs."""

from __future__ import annotations

import json
from collections.abc import Iterator

FIELDS = (
    "max_tokens",
    "max_completion_tokens",
    "temperature",
    "top_p",
    "seed",
    "n",
    "top_logprobs",
    "frequency_penalty",
    "presence_penalty",
)
# As they stand in JSON: what Python's own encoder would not write is among them.
VALUES = (
    "-1",
    "0",
    "-0.0",
    "1e999",
    "-1e999",
    "1e-999",
    "0.1e+400",
    f"1{'0' * 30}",
    f"1{'0' * 5000}",
    "9223372036854775807",
    "-9223372036854775809",
    "18446744073709551616",
    "0x10",
    "01",
    "1_000",
    "NaN",
    "Infinity",
    "true",
    '"7"',
    "[1]",
    '{"a":1}',
    f"{'[' * 2000}{']' * 2000}",
)
SHAPES = {
    "messages": ("null", "{}", "[]", "[[]]", "[null]", '"hello"', "7", f"{'[' * 5000}{']' * 5000}"),
    "stop": ("7", "[7]", "{}", '[""]', '["a","b","c","d","e"]', f'"{"x" * 257}"'),
    "stream": ("1", '"yes"', "[]"),
    "stream_options": ("7", '{"include_usage":7}', '{"nothing":true}'),
    "logit_bias": ("7", '{"1":"x"}', '{"1":1e999}', '{"50256":-100}'),
    "response_format": (
        "7",
        "{}",
        '{"type":"xml"}',
        '{"type":"json_schema"}',
        '{"type":"json_schema","json_schema":7}',
    ),
    "tools": ("7", "{}", "[7]", "[{}]", '[{"type":"function"}]', '[{"type":"custom","custom":{"name":"a"}}]'),
    "tool_choice": ("7", "[]", "{}", '"nobody"', '{"type":"function","function":{"name":"nobody"}}', '"required"'),
    "model": ("null", "7", '""', '"nobody"', f'"{"m" * 100_000}"', '"echo\\u0000"', '"../../etc/passwd"'),
}
MESSAGE = {"model": "echo", "messages": [{"role": "user", "content": "Why?"}], "max_tokens": 8}


def with_field(name: str, value: str) -> bytes:
    """A chat whose field `name` is this JSON text."""
    plain = {key: json.dumps(text) for key, text in MESSAGE.items()} | {name: value}
    return ("{" + ",".join(f'"{key}":{text}' for key, text in plain.items()) + "}").encode()


def bodies() -> Iterator[tuple[str, bytes, str | None]]:
    """Each with its name; what is expected of all of them is an answer or a refusal in our words."""
    for name in FIELDS:
        for number, value in enumerate(VALUES):
            yield f"{name}-{number}", with_field(name, value), None
    for name, values in SHAPES.items():
        for number, value in enumerate(values):
            yield f"{name}-{number}", with_field(name, value), None
    yield from ((name, body, None) for name, body in BROKEN.items())


BROKEN = {
    "empty": b"",
    "blank": b" " * 1_000_000,
    "null": b"null",
    "text": b"hello",
    "list": b"[" + b"{}," * 1000 + b"{}]",
    "cut": json.dumps(MESSAGE).encode()[:-1],
    "twice": json.dumps(MESSAGE).encode() * 2,
    "comment": b'{/*a*/"model":"echo"}',
    "trailing-comma": b'{"model":"echo",}',
    "byte-order-mark": b"\xef\xbb\xbf" + json.dumps(MESSAGE).encode(),
    "utf-16": json.dumps(MESSAGE).encode("utf-16"),
    "not-utf-8": b'{"model":"echo","messages":[{"role":"user","content":"\xff\xfe"}]}',
    "overlong": b'{"model":"echo","messages":[{"role":"user","content":"\xc0\xaf"}]}',
    "deep-lists": b"[" * 1_000_000,
    "deep-objects": b'{"a":' * 300_000,
    "deep-field": b'{"model":"echo","messages":[],"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "many-keys": b"{" + b",".join(b'"k%d":1' % number for number in range(100_000)) + b"}",
    "same-key": b"{" + b",".join(b'"model":"echo"' for _ in range(100_000)) + b"}",
    "long-key": b'{"' + b"k" * 2_000_000 + b'":1}',
    "escapes": b'{"model":"echo","messages":[{"role":"user","content":"' + b"\\u0061" * 300_000 + b'"}]}',
    "many-messages": b'{"model":"echo","messages":[' + b'{"role":"user","content":"a"},' * 20_000 + b"{}]}",
    "many-parts": b'{"model":"echo","messages":[{"role":"user","content":['
    + b'{"type":"text","text":"a"},' * 50_000
    + b'{"type":"text","text":"a"}]}]}',
    "long-text": b'{"model":"echo","messages":[{"role":"user","content":"' + b"word " * 600_000 + b'"}]}',
    "one-long-word": b'{"model":"echo","messages":[{"role":"user","content":"' + b"a" * 3_000_000 + b'"}]}',
    "figures": b'{"model":"echo","messages":[{"role":"user","content":"' + b"943476591" * 300_000 + b'"}]}',
    "backslashes": b'{"model":"echo","messages":[{"role":"user","content":"' + b"\\\\" * 500_000 + b'"}]}',
    "opening-braces": b'{"model":"echo","messages":[{"role":"user","content":"' + b"{[" * 700_000 + b'"}]}',
}
