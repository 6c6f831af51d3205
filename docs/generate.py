"""Write docs/reference.md from the code: command line, settings, error codes. `make docs` runs it; a test compares."""

from __future__ import annotations

import argparse
import ast
import dataclasses
import inspect
import os
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from allod.cli.main import parser_of_all
from allod.core.stages import ROWS
from allod.settings.external import ExternalOptions
from allod.settings.tree import Settings
from allod.train.recipe import Recipe, Source

DOCS = Path(__file__).parent
SOURCE = DOCS.parent / "src" / "allod"
KINDS = {"Invalid", "Denied", "Unavailable", "AllodError", "VerificationError"}
CODES = """The `code` of an error, over HTTP and in `--json`. A verb that is given `--json` and ends in an error prints
`{"error": {"code": ..., "message": ..., "hint": ...}}` on stdout, beside the words on stderr; `hint` may be null. What
was asked and answered with no (`verify`, `log fsck`, `seal test`) is its own report, and no error."""
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


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
    parts += ["## Error codes", CODES, _codes()]
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
    rows = ["| setting | type | default | what it is |", "|---|---|---|---|"]
    for section in dataclasses.fields(Settings):
        kind = section.default_factory
        if isinstance(kind, type) and dataclasses.is_dataclass(kind):
            rows += _rows_of(section.name, kind)
    return "\n".join([*rows, *_rows_of("external.NAME", ExternalOptions)])


def _rows_of(section: str, kind: type[Any]) -> Iterator[str]:
    said = comments_of("\n".join(inspect.getsource(part) for part in kind.__mro__[:-1]))
    for one in dataclasses.fields(kind):
        default = one.default_factory() if callable(one.default_factory) else one.default
        shown = "must be said" if default is dataclasses.MISSING else repr(default)
        yield f"| `{section}.{one.name}` | {one.type} | `{shown}` | {said.get(one.name, '')} |"


def comments_of(source: str) -> dict[str, str]:
    """What stands beside the fields of a class, by field: the comment on its line."""
    return dict(re.findall(r"^    (\w+): .*?  # (.+)$", source, re.MULTILINE))


def _recipe() -> Iterator[str]:
    yield _table("the top", Recipe)
    yield _table("`[[source]]`", Source)
    for one in dataclasses.fields(Recipe):
        if isinstance(one.default_factory, type) and one.name != "tables":
            yield _table(f"`[{one.name}]`", one.default_factory)
    for row in ROWS.values():
        if row.options:
            yield _table(f"`[{row.name}]`", row.options)


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
    trees = [ast.parse(file.read_text()) for file in sorted(SOURCE.rglob("*.py"))]
    said = sentences()
    rows = [
        f"| `{code}` | {', '.join(sorted(kinds))} | {said.get(code, '')} |"
        for code, kinds in sorted(codes_in(trees).items())
    ]
    return "\n".join(["| code | kind | what it means |", "|---|---|---|", *rows])


def sentences() -> dict[str, str]:
    """What each code means, by code."""
    return tomllib.loads((DOCS / "error_codes.toml").read_text())


def codes_in(trees: Iterable[ast.AST]) -> dict[str, set[str]]:
    """Every code that an error may have, with its kinds; also where a function passes on a code that it is given."""
    nodes = [(number, node) for number, tree in enumerate(trees) for node in ast.walk(tree)]
    kinds: Kinds = {(None, kind): {kind} for kind in KINDS}
    places: dict[tuple[int | None, str], int] = {}  # of `code` among what a function is given without names
    values: list[tuple[ast.expr, set[str]]] = []
    for number, node in nodes:
        if isinstance(node, _FUNCTIONS) and (passed := _passed_on(node)):
            name = _scoped(number, node.name)
            kinds.setdefault(name, set()).update(passed)
            names = [one.arg for one in node.args.args if one.arg != "self"]
            places |= {name: names.index("code")} if "code" in names else {}
            values += [(value, passed) for value in (*_defaults(node.args), *_said(node))]
        elif isinstance(node, ast.ClassDef) and node.name in KINDS:
            values += [(value, {node.name}) for value in _said(node)]
    for number, node in nodes:
        if isinstance(node, ast.Call) and (made := kinds.get(name := _scoped(number, _called(node)))):
            values += [(one.value, made) for one in node.keywords if one.arg == "code"]
            values += [(one, made) for one in node.args[places[name] :][:1]] if name in places else []
    made_by = _made_by(nodes, kinds)
    for number, node in nodes:
        if isinstance(node, ast.Try):
            values += _made_again(number, node, kinds, made_by)
    found: dict[str, set[str]] = {}
    for value, made in values:
        for code in texts(value):
            found.setdefault(code, set()).update(made)
    return found


Kinds = dict[tuple[int | None, str], set[str]]


def _made_by(nodes: Iterable[tuple[int, ast.AST]], kinds: Kinds) -> dict[str, list[ast.expr]]:
    """The codes of the errors that functions of each name raise themselves."""
    made_by: dict[str, list[ast.expr]] = {}
    for number, node in nodes:
        if isinstance(node, _FUNCTIONS):
            raised = [one for each in ast.walk(node) if isinstance(each, ast.Raise) for one in ast.walk(each)]
            calls = [one for one in raised if isinstance(one, ast.Call) and _scoped(number, _called(one)) in kinds]
            codes = [one.value for call in calls for one in call.keywords if one.arg == "code"]
            made_by.setdefault(node.name, []).extend(codes)
    return made_by


def _made_again(
    number: int, attempt: ast.Try, kinds: Kinds, made_by: dict[str, list[ast.expr]]
) -> Iterator[tuple[ast.expr, set[str]]]:
    """What is tried may fail with a code that is caught, and goes on under another kind."""
    tried = {_called(one) for part in attempt.body for one in ast.walk(part) if isinstance(one, ast.Call)}
    for handler in attempt.handlers:
        for call in (one for one in ast.walk(handler) if isinstance(one, ast.Call)):
            given = [*call.args, *(one.value for one in call.keywords)]
            if any(ast.unparse(one) == f"{handler.name}.code" for one in given):
                made = kinds.get(_scoped(number, _called(call)), set())
                yield from ((code, made) for name in tried for code in made_by.get(name, ()))


def _scoped(number: int, name: str) -> tuple[int | None, str]:
    """A name that begins with _ is its file's own."""
    return (number if name.startswith("_") else None, name)


def _called(call: ast.Call) -> str:
    return str(getattr(call.func, "id", getattr(call.func, "attr", "")))


def _passed_on(function: ast.FunctionDef | ast.AsyncFunctionDef) -> set[str]:
    """The kinds of the errors that a function makes with a code that is a name in it."""
    calls = [node for node in ast.walk(function) if isinstance(node, ast.Call)]
    named = [
        one for one in calls if any(each.arg == "code" and isinstance(each.value, ast.Name) for each in one.keywords)
    ]
    return set(map(_called, named)) & KINDS


def _defaults(given: ast.arguments) -> Iterator[ast.expr]:
    for one, value in zip(given.kwonlyargs, given.kw_defaults, strict=True):
        if one.arg == "code" and value is not None:
            yield value


def _said(part: ast.AST) -> Iterator[ast.expr]:
    """What `code` is said to be in a function or a class."""
    for node in ast.walk(part):
        if isinstance(node, ast.Assign) and any(getattr(one, "id", "") == "code" for one in node.targets):
            yield node.value


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
