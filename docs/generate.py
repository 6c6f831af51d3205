"""Write docs/reference.md from the code: command line, settings, error codes. `make docs` runs it; a test compares."""

from __future__ import annotations

import argparse
import ast
import dataclasses
import inspect
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from allod.cli.main import parser_of_all
from allod.settings import Settings
from allod.train.recipe import Recipe, Source

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
    parts += [
        "## Recipe",
        "A TOML file for `allod train`; each `[[source]]` is one source. No default: it must be said.",
        *_recipe(),
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
    for section in dataclasses.fields(Settings):
        kind = section.default_factory
        if isinstance(kind, type) and dataclasses.is_dataclass(kind):
            rows += [
                f"| `{section.name}.{one.name}` | {one.type} | `{one.default!r}` |" for one in dataclasses.fields(kind)
            ]
    return "\n".join(rows)


def _recipe() -> Iterator[str]:
    yield _table("the top", Recipe)
    yield _table("`[[source]]`", Source)
    for one in dataclasses.fields(Recipe):
        if isinstance(one.default_factory, type):
            yield _table(f"`[{one.name}]`", one.default_factory)


def _table(title: str, part: type) -> str:
    rows = [
        f"| `{one.name}` | {one.type} | {_default(one)} |"
        for one in dataclasses.fields(part)
        if one.name != "sources" and not isinstance(one.default_factory, type)
    ]
    about = inspect.cleandoc(part.__doc__ or "")
    return "\n".join([f"### {title}", "", about, "", "| key | type | default |", "|---|---|---|", *rows])


def _default(one: dataclasses.Field[object]) -> str:
    return "" if one.default is dataclasses.MISSING else f"`{one.default!r}`"


def _codes() -> str:
    found: dict[str, set[str]] = {}
    for file in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call):
                kind = getattr(node.func, "id", "")
                for code in (
                    text for keyword in node.keywords if keyword.arg == "code" for text in texts(keyword.value)
                ):
                    found.setdefault(code, set()).update({kind} & KINDS)
    rows = ["| code | kind |", "|---|---|"]
    return "\n".join([*rows, *(f"| `{code}` | {', '.join(sorted(kinds))} |" for code, kinds in sorted(found.items()))])


def texts(value: ast.expr) -> Iterator[str]:
    """The texts that an expression may come to, as far as it says them; a part that is put in is named in `<>`."""
    match value:
        case ast.Constant(value=str() as text):
            yield text
        case ast.JoinedStr(values=parts):
            yield "".join(_part(part) for part in parts)
        case ast.IfExp(body=body, orelse=other):
            yield from (*texts(body), *texts(other))
        case ast.BoolOp(values=values):
            yield from (text for one in values for text in texts(one))


def _part(part: ast.expr) -> str:
    return f"<{ast.unparse(part.value)}>" if isinstance(part, ast.FormattedValue) else "".join(texts(part))


if __name__ == "__main__":
    (DOCS / "reference.md").write_text(reference())
    sys.exit(0)
