"""Texts that hide an identifier, or only seem to: (name, body of a chat, the marking that must be found or "ok")."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

Case = tuple[str, dict[str, Any], str]
PERSONAL = "PERSONAL DATA"
GROUPS = ("943", "476", "5919")  # an NHS number, reserved for tests
SEPARATORS = {
    "nothing": "",
    "space": " ",
    "hyphen": "-",
    "slash": "/",
    "full stop": ".",
    "underscore": "_",
    "plus": "+",
    "hyphen in spaces": " - ",
    "line end": "\r\n",
    "tab": "\t",
    "no-break space": "\u00a0",
    "narrow space": "\u202f",
    "ideographic space": "\u3000",
    "en dash": "\u2013",
    "minus": "\u2212",
    "middle dot": "\u00b7",
    "full-width slash": "\uff0f",
    "zero-width space": "\u200b",
    "joiner": "\u200d",
    "soft hyphen": "\u00ad",
    "byte order mark": "\ufeff",
    "combining acute": "\u0301",
    "half-width dot": "\uff65",
    "ideographic full stop": "\u3002",
}
ENCODED_SEPARATORS = {
    "entity": "&nbsp;",
    "entity twice": "&amp;nbsp;",
    "percent": "%20",
    "percent twice": "%2520",
    "percent of Windows-1252": "%A0",
    "Markdown's hyphen": r"\-",
    "Markdown's underscore": r"\_",
    "TeX's thin space": r"\,",
    "any space of an expression": r"\s",
}
DIGITS = {  # where zero is, or would be
    "ASCII": 0x30,
    "Arabic": 0x660,
    "Persian": 0x6F0,
    "Devanagari": 0x966,
    "full-width": 0xFF10,
    "bold": 0x1D7CE,
    "circled": 0x245F,
    "negative circled": 0x2775,
    "bracketed": 0x2473,
    "before a full stop": 0x2487,
    "before a comma": 0x1F101,
    "tag": 0xE0030,
}
ENCODINGS: dict[str, Callable[[str], str]] = {
    "plain": str,
    "JSON": lambda text: json.dumps({"text": text}),
    "JSON in UTF-8": lambda text: json.dumps({"text": text}, ensure_ascii=False),
    "JSON in JSON": lambda text: json.dumps(json.dumps({"text": text})),
    "entities": lambda text: "".join(f"&#{ord(character)};" for character in text),
    "entities twice": lambda text: "".join(f"&amp;#{ord(character)};" for character in text),
    "percent twice": lambda text: quote(quote(text)),
    "coloured": lambda text: f"\x1b[01;31m\x1b[K{text}\x1b[m",
    "coloured in JSON": lambda text: json.dumps(f"\x1b[1m{text}\x1b[0m"),
    "escapes": lambda text: "".join(
        f"\\u{ord(character):04x}" if ord(character) < 0x10000 else character for character in text
    ),
}
SURROUNDINGS = (
    *("{}", "\n{}", "\t{}.", "\u201c{}\u201d", "number {}, please", "\u53f7{}", "id_{}_x"),
    *("NHS\u200b{}", "e\u0301{}\u00adand", "\u2116{}", "2024\u2060{}\u20602025"),  # parted by what shows nothing
)


def number(separator: str = " ", zero: int = 0x30) -> str:
    """The identifier, its groups apart by `separator`, in digits that begin at `zero`."""
    groups = ("".join(chr(zero + int(digit)) for digit in group) for group in GROUPS)
    return separator.join(groups)


def chat(content: Any = "Why?", **changes: Any) -> dict[str, Any]:
    """A body of POST /v1/chat/completions."""
    return {"model": "echo", "messages": [{"role": "user", "content": content}], "max_tokens": 1, **changes}


def tool(description: str = "does f", name: str = "f", parameters: Any = None) -> dict[str, Any]:
    """A tool that offers one function."""
    function = {"name": name, "description": description, "parameters": parameters or {"type": "object"}}
    return {"type": "function", "function": function}


def called(arguments: str, name: str = "f") -> list[dict[str, Any]]:
    """A history in which `name` was called."""
    call = {"id": "call_1", "type": "function", "function": {"name": name, "arguments": arguments}}
    return [
        {"role": "user", "content": "Why?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "done"},
    ]


def schema(value: Any) -> dict[str, Any]:
    """A response format that says `value` somewhere."""
    made = {"type": "object", "properties": {"a": {"type": "string", **value}}}
    return {"type": "json_schema", "json_schema": {"name": "n", "schema": made}}


PLACES: dict[str, Callable[[str], dict[str, Any]]] = {
    "content": chat,
    "system": lambda text: chat(messages=[{"role": "system", "content": text}, {"role": "user", "content": "Why?"}]),
    "part": lambda text: chat([{"type": "text", "text": text}]),
    "parts": lambda text: chat([{"type": "text", "text": half} for half in (text[:5], text[5:])]),
    "tool's description": lambda text: chat(tools=[tool(text)]),
    "parameter's description": lambda text: chat(
        tools=[tool(parameters={"type": "object", "properties": {"a": {"description": text}}})]
    ),
    "parameter's name": lambda text: chat(tools=[tool(parameters={"type": "object", "properties": {text: {}}})]),
    "arguments": lambda text: chat(messages=called(json.dumps({"a": text}))),
    "arguments in UTF-8": lambda text: chat(messages=called(json.dumps({"a": text}, ensure_ascii=False))),
    "tool's result": lambda text: chat(messages=[*called("{}")[:2], {**called("{}")[2], "content": text}]),
    "schema": lambda text: chat(response_format=schema({"description": text})),
    "enum": lambda text: chat(response_format=schema({"enum": [text, "b"]})),
    "stop sequence": lambda text: chat(stop=["b", text]),
}


def _cases() -> Iterator[Case]:
    for place, put in PLACES.items():
        yield f"after a line end in {place}", put(f"line\n{number()}"), PERSONAL
        yield f"after a tab, in curly quotes, in {place}", put(f"\t\u201c{number(chr(0xA0))}\u201d"), PERSONAL
    for name, separator in (SEPARATORS | ENCODED_SEPARATORS).items():
        yield f"with {name} between groups", chat(f"It is {number(separator)}."), PERSONAL
        yield f"with {name} in a tool", chat(tools=[tool(f"It is\n{number(separator)}.")]), PERSONAL
    for name, zero in DIGITS.items():
        yield f"in {name} digits", chat(f"It is {number(zero=zero)}."), PERSONAL
        yield f"in {name} digits in arguments", chat(messages=called(json.dumps({"a": number(zero=zero)}))), PERSONAL
    for name, encode in ENCODINGS.items():
        yield f"as {name}", chat(f"This was sent: {encode(chr(10) + number())}"), PERSONAL
    for name, text in {
        "a zero-width space before full-width digits": f"NHS\u200b{number('', DIGITS['full-width'])}",
        "a zero-width space's escape": rf"NHS\u200b{number()}",
        "a zero-width space of an address": f"NHS%E2%80%8B{number()}",
        "a zero-width space's entity": f"NHS&ZeroWidthSpace;{number(zero=DIGITS['Arabic'])}",
        "a colour before full-width digits": f"NHS\x1b[1m{number(zero=DIGITS['full-width'])}\x1b[0mand",
        "a number sign": f"\u2116{number(zero=DIGITS['full-width'])}",
        "zero-width spaces everywhere": "NHS\u200b" + "\u200b".join(number("")) + "\u200bis it",
        "an address in JSON": r"\u0025E2\u002580\u00258B" + number(zero=DIGITS["bold"]),
        "a colour in entities": f"&#27;[1m{number(zero=DIGITS['circled'])}",
    }.items():
        yield f"behind {name}", chat(text), PERSONAL
    yield "in colour", chat(f"It is {ENCODINGS['coloured'](number())}"), PERSONAL
    yield "as a number in a schema", chat(response_format=schema({"enum": [9434765919]})), PERSONAL
    yield "as a number with an exponent", chat(response_format=schema({"enum": [9.434765919e9]})), PERSONAL
    yield "as a number in arguments", chat(messages=called('{"a": 9434765919}')), PERSONAL
    yield "in a tool's name", chat(tools=[tool(name="nhs_943-476-5919")]), PERSONAL
    yield "National Insurance, full-width", chat("\uff2e\uff23\uff11\uff12\uff13\uff14\uff15\uff16\uff23"), PERSONAL
    yield "National Insurance after an escape", chat(r"{\"ni\":\"\nNC123456C\"}"), PERSONAL
    honest = {
        "a wrong check digit": "943/476/5918",
        "years in a table": "| 2001 | 2002 | 2003 | 2004 |",
        "a path": r"C:\new\table\943",
        "emoji": "\U0001f468\u200d\U0001f469\u200d\U0001f467 9\ufe0f\u20e3",
        "times": "12:30:45.943 476",
        "percentages": "94%, 34%, 76%, 59%, 19%",
        "Chinese": "\u8bf7\u544a\u8bc9\u6211\u53f7\u7801\u7684\u683c\u5f0f 2024 \u5e74",
        "escapes without digits": r"\n\t\\\u00e9\"",
        "a share": "100%25 of 943 & 476; R\\&D, 5919",
        "a word in full width": "\uff21" + number("", DIGITS["full-width"]),
        "a product's code": f"A{number('')}, A\u200bB{number('')}\u200b, {number('')}A",
        "signs and accents": "\u2116 12, \u2116\uff11\uff13; 20\u00ad24\u20602025; e\u03011234 567 891",
        "an escape in another": r"\u0026#57;43 \u002547 %5Cu0035919, 100\u0025 of 943",
        "keys of a telephone": "9\ufe0f\u20e3 4\ufe0f\u20e3 3\ufe0f\u20e3",
        "escapes of nothing": r"\u12 \x \u{110000} &#9999999; &nothing; %zz %ff",
    }
    for name, text in honest.items():
        yield f"honest: {name}", chat(text), "ok"
    yield "honest: years in an enum", chat(response_format=schema({"enum": ["2001", "2002", "2003", "2005"]})), "ok"


CASES: list[Case] = list(_cases())
