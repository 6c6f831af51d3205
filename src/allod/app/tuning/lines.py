"""The settings' file with other values in its `[model]` table, and everything else as it was, byte for byte."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

from allod.core.errors import Invalid
from allod.core.files.whole import write_whole
from allod.settings.files import parse_toml

Values = Mapping[str, int | str]

_HEAD = re.compile(r"[ \t]*\[[ \t]*model[ \t]*\][ \t]*(#.*)?\r?\n?")
_ANY_HEAD = re.compile(r"[ \t]*\[")
_VALUE = r"""(?:"[^"\\]*"|'[^']*'|[^\s#"'\[{]+)"""


def model_lines(values: Values) -> str:
    """The table as one would write it."""
    return "".join(["[model]\n", *(f"{key} = {_literal(value)}\n" for key, value in values.items())])


def put_values(text: str, values: Values, *, where: str = "allod.toml") -> str:
    """The file's text with these keys of `[model]` set: their lines are replaced, or added below the table's head.

    Raises Invalid (`settings_unwritable`) where the result would say anything else than that.
    """
    wanted = parse_toml(text, where)
    wanted["model"] = {**_table_of(wanted, where), **values}
    changed = _edit(text, values)
    try:
        is_so = parse_toml(changed, where) == wanted
    except Invalid:
        is_so = False
    if not is_so:
        raise _refusal(where)
    return changed


def write_values(file: Path, values: Values) -> None:
    """Do so in the file, which may be missing; a reader meets the old one or the new one. Raises Invalid, OSError."""
    target = file.resolve()  # a link stays one
    try:
        text = target.read_bytes().decode() if target.exists() else ""
    except UnicodeDecodeError as error:
        raise _refusal(str(file)) from error
    write_whole(target, put_values(text, values, where=str(file)))


def _edit(text: str, values: Values) -> str:
    lines = re.findall(r"[^\n]*\n|[^\n]+\Z", text)
    newline = "\r\n" if lines and lines[0].endswith("\r\n") else "\n"
    head = next((at for at, line in enumerate(lines) if _HEAD.fullmatch(line)), None)
    if head is None:
        gap = newline if lines else ""
        ending = newline if lines and not lines[-1].endswith("\n") else ""
        return text + ending + gap + model_lines(values).replace("\n", newline)
    end = next((at for at in range(head + 1, len(lines)) if _ANY_HEAD.match(lines[at])), len(lines))
    added = []
    for key, value in values.items():
        said = re.compile(rf"([ \t]*{key}[ \t]*=[ \t]*){_VALUE}([ \t]*(?:#[^\n]*?)?\r?\n?)")
        found = next((at for at in range(head + 1, end) if said.fullmatch(lines[at])), None)
        if found is None:
            added.append(f"{key} = {_literal(value)}{newline}")
        else:
            lines[found] = said.sub(lambda parts, value=value: parts[1] + _literal(value) + parts[2], lines[found])  # type: ignore[misc]
    if added and not lines[head].endswith("\n"):
        lines[head] += newline
    return "".join([*lines[: head + 1], *added, *lines[head + 1 :]])


def _literal(value: int | str) -> str:
    """As TOML writes it: its basic strings are JSON's."""
    return str(value) if isinstance(value, int) else json.dumps(value, ensure_ascii=False)


def _table_of(parsed: Mapping[str, object], where: str) -> dict[str, object]:
    table = parsed.get("model", {})
    if not isinstance(table, dict):
        raise _refusal(where)
    return table


def _refusal(where: str) -> Invalid:
    return Invalid(
        f"{where} is written in a way in which its [model] table cannot be changed safely",
        code="settings_unwritable",
        hint="put the lines that are printed into it by hand",
    )
