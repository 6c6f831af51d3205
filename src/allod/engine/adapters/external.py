"""Somebody's server that speaks OpenAI's interface, as an engine: nothing that it says of itself is believed.

It runs in no seal, promises no replay, and shows no evidence: where it is, what it serves and under which licence is
what its operator's settings say (a claim), and receipts say so by `seal` none and by digests of that claim. Policy is
told the same, and by default permits it nothing above the lowest tier. It is asked for a sign of life now and then, so
that nobody is let in while there is none.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

import msgspec

from allod.core.canonical import JsonValue, digest_of
from allod.core.deadlines import Deadlines
from allod.core.errors import Invalid, Unavailable
from allod.core.shown_text import make_plain
from allod.engine.adapters.openai import Dialect, OpenAiEngine
from allod.engine.adapters.openai_wire import decode, read_refusal
from allod.engine.engine import EngineInfo, EnginePlace
from allod.engine.http import EngineHttp, Response
from allod.model.templates.control_tokens import KNOWN_NAMES, ControlTokens

NAME = "external"  # in receipts
LISTS_NONE = (404, 405)  # a status of a server that has no list of its models
MAX_LIST_BYTES = 1 << 20
MAX_SHOWN = 20  # of the models that it lists


class _Listed(msgspec.Struct):
    id: str


class _List(msgspec.Struct):
    data: list[_Listed]


_list = msgspec.json.Decoder(_List)


def external_info(
    model_digest: str, place: EnginePlace, *, config: JsonValue, context_tokens: int, slots: int, can_embed: bool
) -> EngineInfo:
    """What a receipt says of it: digests of what is said, for there is nothing else to take one of."""
    return EngineInfo(
        name=NAME,
        build=digest_of({"external": "build not known"}),
        config=digest_of(config),
        replay="none",
        model_digest=model_digest,
        template_digest=None,
        context_tokens=context_tokens,
        slots=slots,
        can_chat=not can_embed,
        can_embed=can_embed,
        place=place,
        control_tokens=ControlTokens(KNOWN_NAMES),  # its vocabulary is not known, and these are in many
    )


class ExternalEngine(OpenAiEngine):
    """Begin with `start`. It is not ready from when a sign of life stays out until the next that comes."""

    def __init__(self, info: EngineInfo, http: EngineHttp, dialect: Dialect, deadlines: Deadlines) -> None:
        super().__init__(info, http, dialect, deadlines)
        self._watcher: asyncio.Task[None] | None = None
        self._fault: Unavailable | None = None

    async def start(self) -> None:
        """Return once it has answered, and lists the model if it lists any. Raises Unavailable, and Invalid
        (`model_unknown`) where it serves others."""
        await self._check_list()
        self._watcher = asyncio.create_task(self._watch())

    def check_ready(self) -> None:
        super().check_ready()
        if self._fault is not None:
            raise self._fault.restate()

    async def probe(self) -> None:
        """Ask for a sign of life. Raises Unavailable where none comes in time, or it is one of no use."""
        await self._ask_for_list(self._deadlines.hung_s)

    async def close(self) -> None:
        if self._watcher is not None:
            self._watcher.cancel()
            with suppress(asyncio.CancelledError):
                await self._watcher
        await super().close()

    async def _check_list(self) -> None:
        response = await self._ask_for_list(self._deadlines.connect_s)
        if response.status in LISTS_NONE:
            return
        names = [each.id for each in decode(_list, response.body).data]
        if self._dialect.model not in names:
            shown = ", ".join(make_plain(name, limit=1000) for name in names[:MAX_SHOWN])
            raise Invalid(
                f"the server does not list the model {self._dialect.model!r}",
                code="model_unknown",
                hint=f"it lists: {shown or 'none'}; name_there in its settings says which is meant",
            )

    async def _ask_for_list(self, patience_s: float) -> Response:
        response = await self._http.request(
            "GET", self._dialect.probe_path, first_s=patience_s, limit_bytes=MAX_LIST_BYTES
        )
        if response.status not in (200, *LISTS_NONE):
            raise Unavailable(read_refusal(response).message, code="engine_failed", retry_after_s=5)
        return response

    async def _watch(self) -> None:
        """Ask whenever nothing was heard for a while."""
        now_s, pause_s = asyncio.get_running_loop().time, self._deadlines.probe_s
        while True:
            await asyncio.sleep(pause_s)
            if self._fault is None and now_s() - self.heard_s < pause_s:
                continue
            try:
                await self.probe()
                self._fault = None
            except Unavailable as error:
                self._fault = error
