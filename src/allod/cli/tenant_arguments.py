"""Command-line arguments for a tenant's label, scope, share, quotas and budgets, and how these are printed."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from allod.app.administration.terms import LABEL_WORDS, Json
from allod.core.errors import Invalid
from allod.govern.metering.windows import BUDGET_UNITS

QUOTA_UNITS = ("requests_per_minute", "tokens_per_minute", "concurrent")
SCOPE_WORDS = ("models", "clearance")
NO_WORDS = ("any", "none")


def add_changes(part: argparse.ArgumentParser) -> None:
    """Add the arguments for everything that can be set."""
    label = part.add_argument_group("what its requests carry if they say nothing (lists: A,B; any)")
    label.add_argument("--tier", help="as the nation calls it")
    label.add_argument("--markings", type=_some_words, metavar="A,B")
    label.add_argument("--jurisdictions", type=words_or_any, metavar="GB,FR")
    label.add_argument("--purposes", type=words_or_any, metavar="A,B")
    scope = part.add_argument_group("what it may use (lists: A,B; any)")
    scope.add_argument("--models", type=words_or_any, metavar="A,B")
    scope.add_argument("--clearance", type=word_or_any, metavar="TIER", help="the highest tier it may ask at")
    share = part.add_argument_group("its share (numbers; none lifts a limit)")
    share.add_argument("--weight", type=int, help="its share when engines are busy, 1 to 1000")
    share.add_argument("--priority", type=int, choices=(0, 1), help="0 goes first, 1 is for batches")
    for unit in QUOTA_UNITS:
        share.add_argument(f"--{unit.replace('_', '-')}", type=_limit, metavar="N")
    per_model = "'MODEL requests-per-minute=N ...'"
    share.add_argument("--model-quota", action="append", metavar=per_model, help="or 'MODEL none'")
    share.add_argument("--budget", action="append", metavar="'day tokens=N ...'", help="or 'month ...', or 'day none'")


def changes_of(said: Mapping[str, Any]) -> Json:
    """What was said, and nothing else, as a change of terms."""
    changes: Json = {name: said[name] for name in ("weight", "priority") if name in said}
    for part, names in (("label", LABEL_WORDS), ("scope", SCOPE_WORDS), ("quota", QUOTA_UNITS)):
        found = {name: said[name] for name in names if name in said}
        if found:
            changes[part] = found
    if "budget" in said:
        changes["budgets"] = dict(_limits("--budget", text, BUDGET_UNITS) for text in said["budget"])
    if "model_quota" in said:
        changes["model_quotas"] = dict(_limits("--model-quota", text, QUOTA_UNITS) for text in said["model_quota"])
    return changes


def format_restriction(words: frozenset[str] | None) -> str:
    """A restriction as text."""
    return "any" if words is None else ", ".join(sorted(words)) or "none"


def words_or_any(text: str) -> frozenset[str] | None:
    """`A,B` as a set; `any` as no restriction. Words may have blanks inside."""
    if text in NO_WORDS:
        return None
    words = frozenset(word.strip() for word in text.split(","))
    if "" in words:
        raise argparse.ArgumentTypeError("say A,B or any")
    return words


def word_or_any(text: str) -> str | None:
    """The word; `any` as no restriction."""
    return None if text in NO_WORDS else text


def _some_words(text: str) -> frozenset[str]:
    return words_or_any(text) or frozenset()


def _limit(text: str) -> int | None:
    return None if text in NO_WORDS else int(text)


def _limits(option: str, text: str, units: Sequence[str]) -> tuple[str, dict[str, int | None] | None]:
    """Whose limits these are, and all of them: those that are not named are lifted. `none` lifts every one."""
    whose, limits = _part(text)
    if limits == ["none"]:
        return whose, None
    return whose, {**dict.fromkeys(units), **_amounts(option, limits, units)}


def _part(text: str) -> tuple[str, list[str]]:
    """`a model's name tokens=5 engine-ms=7` as the name and the limits."""
    words = text.split()
    first = next((index for index, word in enumerate(words) if "=" in word or word == "none"), len(words))
    return " ".join(words[:first]), words[first:]


def _amounts(option: str, limits: list[str], known: Sequence[str]) -> dict[str, int]:
    """`tokens=5 engine-ms=7` as numbers."""
    amounts = {}
    for word in limits:
        name, _, number = word.partition("=")
        name = name.replace("-", "_")
        if name not in known or not number.isdecimal():
            names = ", ".join(f"{unit.replace('_', '-')}=N" for unit in known)
            raise Invalid(f"{option}: {word!r} is not understood", code="invalid", param=option, hint=f"say {names}")
        amounts[name] = int(number)
    if not amounts:
        names = ", ".join(f"{unit.replace('_', '-')}=N" for unit in known)
        raise Invalid(f"{option} names no limit", code="invalid", param=option, hint=f"say {names}, or none to lift it")
    return amounts
