"""One request as it travels the main path: who asks, for what, and under which label."""

from __future__ import annotations

from dataclasses import dataclass

from allod.core.labels import Label
from allod.core.requests import Chat, Embed
from allod.engine.giving_way import LONG_BYTES, give_way
from allod.govern.tenancy.keys import Caller


@dataclass(frozen=True, slots=True)
class Request:
    """Its `id` is its receipt's, too; `body` holds the exact bytes that the client sent.

    Raises TypeError where there is no label: none is assumed, for what is made of it must carry one.
    """

    id: str
    caller: Caller
    label: Label
    task: Chat | Embed
    body: bytes
    start_ms: int

    def __post_init__(self) -> None:
        if not isinstance(self.label, Label):
            raise TypeError("a request without a label")

    async def give_way_if_long(self) -> None:
        """Between two steps over it: others have their turn where it is long."""
        if len(self.body) > LONG_BYTES:
            await give_way()
