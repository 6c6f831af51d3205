"""Write docs/reference.md from the code: command line, settings, error codes. `make docs` runs it; a test compares."""

from __future__ import annotations

import argparse
import ast
import dataclasses
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from allod.cli.main import parser_of_all
from allod.settings import Model, Realm, Server

DOCS = Path(__file__).parent
SOURCE = DOCS.parent / "src" / "allod"
KINDS = {"Invalid", "Denied", "Unavailable", "AllodError"}


def reference() -> str:
    """The whole page."""
    os.environ["COLUMNS"] = "100"
    parts = ["# Reference", "Made by `make docs` from the code. Do not edit.", "## Command line", *_verbs()]
    parts += [
        "## Settings",
        "In `ALLOD_HOME/allod.toml`. An unknown key or a wrong type is an error at start.",
        _settings(),
    ]
    parts += ["## Error codes", "The `code` of an error, over HTTP and in `--json`.", _codes()]
    return "\n\n".join(parts) + "\n"


def _verbs() -> Iterator[str]:
    for parser in _leaves(parser_of_all()):
        yield f"### {parser.prog}\n\n```\n{parser.format_help().strip()}\n```"


def _leaves(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for child in action.choices.values():
                yield from _leaves(child)
            return
    yield parser


def _settings() -> str:
    rows = ["| setting | type | default |", "|---|---|---|"]
    for section, kind in (("realm", Realm), ("server", Server), ("model", Model)):
        for item in dataclasses.fields(kind):
            rows.append(f"| `{section}.{item.name}` | {item.type} | `{item.default!r}` |")
    return "\n".join(rows)


def _codes() -> str:
    found: dict[str, set[str]] = {}
    for file in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.Call) or getattr(node.func, "id", "") not in KINDS:
                continue
            for keyword in node.keywords:
                if keyword.arg == "code" and isinstance(keyword.value, ast.Constant):
                    found.setdefault(str(keyword.value.value), set()).add(node.func.id)  # type: ignore[attr-defined]
    rows = ["| code | kind |", "|---|---|"]
    return "\n".join([*rows, *(f"| `{code}` | {', '.join(sorted(kinds))} |" for code, kinds in sorted(found.items()))])


if __name__ == "__main__":
    (DOCS / "reference.md").write_text(reference())
    sys.exit(0)
