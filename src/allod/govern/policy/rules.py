"""The rules in a policy's text: each with its name, its reason and its source, within bounds that Cedar's parser lacks.

The bounds come first: Cedar's parser recurses without one, and a text that nests deeply ends the process.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import cedarpy

from allod.core.errors import Invalid

MAX_TEXT_BYTES = 65_536
MAX_RULES = 64  # as many as a receipt can name
MAX_TOKENS = 1_000  # of one rule
MAX_DEPTH = 32  # of brackets in brackets

_TOKEN = re.compile(r'"(?:\\.|[^"\\])*"|//[^\n\r]*|\w+|\S')
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
_REASON = re.compile(r"[^\x00-\x1f\x7f\ud800-\udfff]{1,256}")  # what a receipt may carry


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule. `reason` is a sentence for the person whom it refuses; `mentions` are the entities (type, id) that it
    names, and its texts as ("String", text)."""

    name: str
    effect: str  # "permit" or "forbid"
    reason: str
    source: str
    mentions: frozenset[tuple[str, str]]


def rules_in(text: str) -> tuple[Rule, ...]:
    """The rules in the order of the text. Raises Invalid with the code of what is wrong."""
    _check_characters(text)
    sources = list(_sources(text))
    if not sources:
        raise Invalid("it has no rule", code="policy_empty", hint="to forbid everything, write a rule that does")
    if len(sources) > MAX_RULES:
        raise Invalid(f"more than {MAX_RULES} rules", code="policy_too_long")
    parsed = [_parse_rule(source, number) for number, source in enumerate(sources, start=1)]
    if _statements(text, "it") != parsed:  # what Cedar reads in the whole is what is explained rule by rule
        raise Invalid("its rules cannot be told apart", code="policy_syntax")
    rules = tuple(_rule(statement, source) for statement, source in zip(parsed, sources, strict=True))
    names = [rule.name for rule in rules]
    for name in names:
        if names.count(name) > 1:
            raise Invalid(f"more than one rule is called {name!r}", code="policy_duplicate_id")
    return rules


def _check_characters(text: str) -> None:
    """What is read must be what is meant: no character that is invisible or turns the text around.

    A policy decides, so it holds none of Unicode's control, format, private or unassigned characters at all: more than
    `core/shown_text.py` refuses in a name.
    """
    if len(text.encode("utf-8", "surrogatepass")) > MAX_TEXT_BYTES:
        raise Invalid(f"longer than {MAX_TEXT_BYTES} bytes", code="policy_too_long")
    for character in set(text) - set("\n\r\t"):
        if unicodedata.category(character)[0] == "C" or character in "\u2028\u2029":
            raise Invalid(f"it holds the invisible character U+{ord(character):04X}", code="policy_characters")


def _sources(text: str) -> Iterator[str]:
    """The text of each rule, from its first word to its semicolon, and of what is left after the last."""
    start, end, depth, num_tokens = None, 0, 0, 0
    for token in _TOKEN.finditer(text):
        if token[0].startswith("//"):
            continue
        start, end = token.start() if start is None else start, token.end()
        num_tokens += 1
        depth += (token[0] in "([{") - (token[0] in ")]}")
        if num_tokens > MAX_TOKENS:
            raise Invalid(f"a rule has more than {MAX_TOKENS} words", code="policy_too_deep")
        if depth > MAX_DEPTH:
            raise Invalid(f"brackets are nested more than {MAX_DEPTH} deep", code="policy_too_deep")
        if token[0] == ";":
            yield text[start:end]
            start, depth, num_tokens = None, 0, 0
    if start is not None:
        yield text[start:end]


def _parse_rule(source: str, number: int) -> dict[str, Any]:
    statements = _statements(source, f"rule {number}")
    if len(statements) != 1:
        raise Invalid(f"rule {number} is not one rule", code="policy_syntax")
    return statements[0]


def _statements(text: str, where: str) -> list[dict[str, Any]]:
    """Cedar's own syntax trees, in the order of the text."""
    try:
        parsed = json.loads(cedarpy.policies_to_json_str(text))
    except ValueError as error:
        raise Invalid(f"{where} does not parse: {error}", code="policy_syntax") from error
    except RecursionError as error:
        raise Invalid(f"{where} is nested too deeply", code="policy_too_deep") from error
    if parsed["templates"]:
        raise Invalid(f"{where} has a slot (`?principal`): it is a template", code="policy_template")
    rules: dict[str, dict[str, Any]] = parsed["staticPolicies"]
    return [rules[name] for name in sorted(rules, key=lambda name: int(name.removeprefix("policy")))]


def _rule(statement: dict[str, Any], source: str) -> Rule:
    annotations = statement.get("annotations", {})
    name, reason = annotations.get("id"), annotations.get("reason")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise Invalid(
            f'a rule needs a name, as in @id("no-secrets"), of small letters, digits and dashes:\n{source}',
            code="policy_no_id",
        )
    unknown = sorted(annotations.keys() - {"id", "reason"})
    if unknown:
        raise Invalid(f"{name}: unknown annotation @{unknown[0]}", code="policy_annotation", hint="known: @id, @reason")
    if not isinstance(reason, str) or not _REASON.fullmatch(reason):
        raise Invalid(
            f"{name} needs a @reason: a sentence of at most 256 characters for the person whom it refuses",
            code="policy_no_reason",
        )
    return Rule(name, statement["effect"], reason, source, frozenset(_mentions(statement)))


def _mentions(statement: dict[str, Any]) -> Iterator[tuple[str, str]]:
    waiting: list[Any] = [statement["principal"], statement["action"], statement["resource"], statement["conditions"]]
    while waiting:
        node = waiting.pop()
        if isinstance(node, list):
            waiting += node
        elif isinstance(node, dict):
            if isinstance(node.get("Value"), str):
                yield ("String", node["Value"])
            if isinstance(node.get("type"), str) and isinstance(node.get("id"), str):
                yield (node["type"], node["id"])
            waiting += node.values()
