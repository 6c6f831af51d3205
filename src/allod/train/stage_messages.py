"""What a stage's process says, read as hostile input: it has seen the corpus."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any

from allod.core.canonical import JsonValue
from allod.core.errors import AllodError, Denied, Invalid, Unavailable
from allod.core.shown_text import make_plain
from allod.train.stage_task import StageFacts, StageProgress, as_stated

_MAX_LINE_BYTES = 1 << 20
_MAX_TEXT, _MAX_FACT_TEXT = 2000, 256
_MAX_FACTS = 1000
_MAX_NUMBER = 10**30  # FLOPs of a large run have about 25 digits
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,99}")
_CODE = re.compile(r"[a-z][a-z0-9_]{0,63}")
_KINDS: dict[str, Callable[..., AllodError]] = {"Invalid": Invalid, "Denied": Denied, "Unavailable": Unavailable}


class Listener:
    """Takes output as it comes. `facts` and `error` are what it ended with, and None until then."""

    def __init__(self, report: StageProgress) -> None:
        self._report = report
        self._rest = b""
        self.facts: StageFacts | None = None
        self.error: AllodError | None = None
        self.max_rss = 0
        self.observed: dict[str, JsonValue] = {}

    def hear(self, data: bytes) -> None:
        """Take the next bytes. Raises Unavailable (`stage_died`) for what is no message."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > _MAX_LINE_BYTES:
            raise _nonsense()
        for line in lines:
            try:
                self._take(json.loads(line))
            except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError) as error:
                raise _nonsense() from error

    def _take(self, message: dict[str, Any]) -> None:
        if "progress" in message:
            what, done, total = message["progress"]
            self._report(_text(what), _count(done), _count(total))
        elif "facts" in message:
            self.facts = _facts(message["facts"])
            self.max_rss = _count(message["max_rss"])
            self.observed = _read_observed(message.get("observed", {}))
        else:
            said = message["error"]
            hint = None if said["hint"] is None else _text(said["hint"])
            self.error = _KINDS[said["kind"]](_text(said["message"]), code=_match(_CODE, said["code"]), hint=hint)


def _facts(told: dict[str, Any]) -> StageFacts:
    if len(told) > _MAX_FACTS:
        raise ValueError("too many facts")
    return {_match(_NAME, name): _fact(value) for name, value in told.items()}


def _read_observed(told: dict[str, Any]) -> dict[str, JsonValue]:
    """The machine as the stage saw it: facts, and lists of names."""
    if len(told) > _MAX_FACTS:
        raise ValueError("too much was observed")
    return {_match(_NAME, name): _read_fact(value) for name, value in told.items()}


def _read_fact(value: Any) -> JsonValue:
    if isinstance(value, list):
        if len(value) > _MAX_FACTS or not all(isinstance(item, str) for item in value):
            raise TypeError("no list of names")
        return [make_plain(item, limit=_MAX_FACT_TEXT) for item in value]
    return as_stated({"seen": _fact(value)})["seen"]


def _fact(value: Any) -> int | float | str | None:
    if isinstance(value, str):
        return make_plain(value, limit=_MAX_FACT_TEXT)
    if isinstance(value, (int, float)) and not (math.isfinite(value) and abs(value) < _MAX_NUMBER):
        raise ValueError("a number beyond all bounds")
    if value is not None and not isinstance(value, (int, float)):
        raise TypeError("no fact")
    return value


def _text(value: Any) -> str:
    return make_plain(str(value), limit=_MAX_TEXT)


def _count(value: Any) -> int:
    if not 0 <= value < _MAX_NUMBER:
        raise ValueError("no count")
    return int(value)


def _match(pattern: re.Pattern[str], value: str) -> str:
    if pattern.fullmatch(value) is None:
        raise ValueError("no name")
    return value


def _nonsense() -> Unavailable:
    return Unavailable("the stage said something that is no message", code="stage_died")
