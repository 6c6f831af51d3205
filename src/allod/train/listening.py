"""What a stage's process says, read as hostile input: it has seen the corpus."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from allod.core.errors import AllodError, Denied, Invalid, Unavailable
from allod.train.work import Facts, Report

_MAX_LINE_BYTES = 1 << 20
_KINDS: dict[str, Callable[..., AllodError]] = {"Invalid": Invalid, "Denied": Denied, "Unavailable": Unavailable}


class Listener:
    """Takes output as it comes. `facts` and `error` are what it ended with, and None until then."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._rest = b""
        self.facts: Facts | None = None
        self.error: AllodError | None = None
        self.max_rss = 0

    def hear(self, data: bytes) -> None:
        """Take the next bytes. Raises Unavailable (`stage_died`) for what is no message."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > _MAX_LINE_BYTES:
            raise _nonsense()
        for line in lines:
            try:
                self._take(json.loads(line))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise _nonsense() from error

    def _take(self, message: dict[str, Any]) -> None:
        if "progress" in message:
            what, done, total = message["progress"]
            self._report(str(what), int(done), int(total))
        elif "facts" in message:
            self.facts = {str(name): _fact(value) for name, value in message["facts"].items()}
            self.max_rss = int(message["max_rss"])
        else:
            said = message["error"]
            hint = None if said["hint"] is None else str(said["hint"])
            self.error = _KINDS[said["kind"]](str(said["message"]), code=str(said["code"]), hint=hint)


def _fact(value: Any) -> int | float | str | None:
    if value is not None and not isinstance(value, (int, float, str)):
        raise TypeError("no fact")
    return value


def _nonsense() -> Unavailable:
    return Unavailable("the stage said something that is no message", code="stage_died")
