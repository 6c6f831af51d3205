"""What clients' schemas are worth, within bounds: a tenant's questions one at a time, none without end, none twice.

Measured: both libraries hold Python's lock while they compile (90 ms for one pattern of 30 characters) and while they
validate (0.5 s for a short one against 3,000), so that no thread would keep the event loop free.
"""

from __future__ import annotations

import asyncio
import json
from collections import OrderedDict
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Literal, NamedTuple
from weakref import WeakValueDictionary

from allod.core.errors import Unavailable
from allod.core.requests import Json
from allod.serve.schemas.bounds import refused
from allod.serve.schemas.grammar import grammar_of
from allod.serve.schemas.judging import JudgingProcess, TooDear

Verdict = Literal["kept", "broken", "cut", "not enforced", "too dear"]


@dataclass(frozen=True, slots=True)
class JudgeLimits:
    """What judging may take."""

    cpu_s: float = 1.0  # of one question; most take a millisecond or two
    memory_bytes: int = 2 << 30  # address space of the process
    answer_s: float = 20.0  # by the clock, the start of the process included: a machine may be busy
    turn_s: float = 20.0  # until a question is asked
    num_remembered: int = 4096  # schemas


class Asked(NamedTuple):
    """A schema of a request: where it stands there, and whether the engine is to hold the model to it."""

    schema: Json
    param: str
    is_grammar: bool


class Judge:
    """Starts its process when it is first needed; end it with `close`."""

    def __init__(self, limits: JudgeLimits | None = None) -> None:
        self._limits = limits = limits or JudgeLimits()
        self._process = JudgingProcess(cpu_s=limits.cpu_s, memory_bytes=limits.memory_bytes, answer_s=limits.answer_s)
        self._faults: OrderedDict[bytes, str | None] = OrderedDict()  # of schemas, by digest
        self._seeking: dict[bytes, asyncio.Task[str | None]] = {}
        self._turn = asyncio.Lock()
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._asking: set[asyncio.Task[Any]] = set()

    async def check(self, tenant: str, schemas: Sequence[Asked]) -> None:
        """Raise Invalid (`invalid_schema`) for the first that is no JSON Schema, or that no engine can be held to."""
        for asked in schemas:
            digest = sha256(json.dumps([asked.schema, asked.is_grammar]).encode()).digest()
            fault = self._faults[digest] if digest in self._faults else await self._found(tenant, asked, digest)
            if fault is not None:
                raise refused(fault, param=asked.param)

    async def verdict(self, tenant: str, schema: Json, text: str, is_grammar: bool) -> Verdict:
        """Whether `text` is JSON that keeps `schema`, and if not, whether the grammar would let it pass."""
        question = {"schema": schema, "grammar": grammar_of(schema) if is_grammar else None, "text": text}
        try:
            found: Verdict = await self._answer(tenant, question)
        except TooDear:
            return "too dear"
        return found

    async def close(self) -> None:
        """End the process once it has answered what it was asked."""
        await asyncio.gather(*self._asking, *self._seeking.values(), return_exceptions=True)
        await asyncio.to_thread(self._process.end)

    async def _found(self, tenant: str, asked: Asked, digest: bytes) -> str | None:
        """The schema's fault, remembered; who asks while it is sought waits for the same answer."""
        task = self._seeking.get(digest)
        if task is None:
            task = self._seeking[digest] = asyncio.create_task(self._fault(tenant, asked))
            task.add_done_callback(lambda _: self._seeking.pop(digest))
        fault = await asyncio.shield(task)
        self._faults[digest] = fault
        if len(self._faults) > self._limits.num_remembered:
            self._faults.popitem(last=False)
        return fault

    async def _fault(self, tenant: str, asked: Asked) -> str | None:
        question = {"schema": asked.schema, "grammar": grammar_of(asked.schema) if asked.is_grammar else None}
        try:
            fault: str | None = await self._answer(tenant, question)
        except TooDear:
            return f"compiling it takes more than {self._limits.cpu_s:g} s of CPU time, or too much memory"
        return fault

    async def _answer(self, tenant: str, question: Json) -> Any:
        """A client that leaves does not end the process that others use: its question is answered, and dropped."""
        task = asyncio.create_task(self._asked(tenant, json.dumps(question).encode() + b"\n"))
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)
        return await asyncio.shield(task)

    async def _asked(self, tenant: str, line: bytes) -> Any:
        async with self._turn_of(tenant):
            return await asyncio.to_thread(self._process.answer, line)

    @asynccontextmanager
    async def _turn_of(self, tenant: str) -> AsyncGenerator[None, None]:
        """Who asks much waits for itself: of each tenant one question is in line for the process."""
        own = self._turns.setdefault(tenant, asyncio.Lock())
        try:
            async with asyncio.timeout(self._limits.turn_s):
                await own.acquire()
                try:
                    await self._turn.acquire()
                except BaseException:
                    own.release()
                    raise
        except TimeoutError:
            raise Unavailable("too many schemas wait", code="overloaded", retry_after_s=1) from None
        try:
            yield
        finally:
            self._turn.release()
            own.release()
