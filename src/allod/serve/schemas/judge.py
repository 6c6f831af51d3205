"""What clients' schemas are worth, within bounds: a tenant's questions one at a time, none without end, none twice.

All that may cost more than reading a schema's size is done in processes. Measured: `jsonschema_rs` holds Python's lock
while it compiles (1.6 s for 40 patterns) and while it validates (0.5 s for one pattern and 4,000 characters), and
LLGuidance while it reads an answer (1 s for 900 kB), though not while it compiles: no thread keeps the event loop free.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Literal, NamedTuple
from weakref import WeakValueDictionary

import msgspec

from allod.core.errors import Invalid, Unavailable
from allod.core.requests import Json
from allod.engine.schemas.refusal import refusal
from allod.serve.schemas.judging import JudgingProcess, TooDear

Verdict = Literal["kept", "broken", "cut", "not enforced", "too dear"]


@dataclass(frozen=True, slots=True)
class JudgeLimits:
    """What judging may take."""

    cpu_s: float = 1.0  # of one question; most take a millisecond or two
    memory_bytes: int = 2 << 30  # address space of a process
    processes: int = 2  # so that one tenant's dear schema is not another's wait
    answer_s: float = 20.0  # by the clock, the start of the process included: a machine may be busy
    turn_s: float = 20.0  # until a question is asked
    num_in_line: int = 64  # schemas of one tenant
    num_remembered: int = 4096  # schemas


class SchemaQuestion(NamedTuple):
    """A schema of a request: where it stands there, whether the engine is to hold the model to it, and whether it is of
    a tool's arguments."""

    schema: Json
    param: str
    is_grammar: bool
    is_arguments: bool = False


class Judge:
    """Starts its processes when they are first needed; end them with `close`."""

    def __init__(self, limits: JudgeLimits | None = None) -> None:
        self._limits = limits = limits or JudgeLimits()
        self._processes = [
            JudgingProcess(cpu_s=limits.cpu_s, memory_bytes=limits.memory_bytes, answer_s=limits.answer_s)
            for _ in range(limits.processes)
        ]
        self._free = list(self._processes)  # the last one used is used next
        self._turn = asyncio.Semaphore(limits.processes)
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._faults: OrderedDict[bytes, str | None] = OrderedDict()  # of schemas, by digest
        self._seeking: dict[bytes, asyncio.Task[str | None]] = {}
        self._in_line: Counter[str] = Counter()  # of schemas, by tenant
        self._asking: set[asyncio.Task[Any]] = set()

    async def check(self, tenant: str, schemas: Sequence[SchemaQuestion]) -> None:
        """Raise Invalid (`invalid_schema`) for the first that asks for too much, or that no engine can be held to.

        Each tenant's are remembered apart: how long an answer takes tells nobody what another has asked.
        """
        for asked in schemas:
            question = asked._asdict()
            del question["param"]
            line = _line(question)
            digest = sha256(tenant.encode() + b"\n" + line).digest()
            fault = self._faults[digest] if digest in self._faults else await self._find_fault(tenant, line, digest)
            if fault is not None:
                raise Invalid(fault, code="invalid_schema", param=asked.param)

    async def verdict(self, tenant: str, schema: Json, text: str, is_grammar: bool) -> Verdict:
        """Whether `text` is JSON that keeps `schema`, and if not, whether the grammar would let it pass."""
        line = _line({"schema": schema, "is_grammar": is_grammar, "text": text})
        try:
            found: Verdict = await self._answer(tenant, line)
        except TooDear:
            return "too dear"
        return found

    async def close(self) -> None:
        """End the processes once they have answered what they were asked."""
        await asyncio.gather(*self._asking, *self._seeking.values(), return_exceptions=True)
        for process in self._processes:
            await asyncio.to_thread(process.end)

    async def _find_fault(self, tenant: str, line: bytes, digest: bytes) -> str | None:
        """The schema's fault, remembered; who asks while it is sought waits for the same answer."""
        task = self._seeking.get(digest)
        if task is None:
            if self._in_line[tenant] >= self._limits.num_in_line:
                raise _overload()
            self._in_line[tenant] += 1
            task = self._seeking[digest] = asyncio.create_task(self._fault(tenant, line))
            task.add_done_callback(lambda _: self._sought(tenant, digest))
        fault = await asyncio.shield(task)
        self._faults[digest] = fault
        if len(self._faults) > self._limits.num_remembered:
            self._faults.popitem(last=False)
        return fault

    def _sought(self, tenant: str, digest: bytes) -> None:
        del self._seeking[digest]
        self._in_line[tenant] -= 1
        if not self._in_line[tenant]:
            del self._in_line[tenant]

    async def _fault(self, tenant: str, line: bytes) -> str | None:
        try:
            fault: str | None = await self._answer(tenant, line)
        except TooDear:
            reason = f"compiling it takes more than {self._limits.cpu_s:g} s of CPU time, or too much memory"
            return refusal(reason).message
        return fault

    async def _answer(self, tenant: str, line: bytes) -> Any:
        """A client that leaves does not end the process that others use: its question is answered, and dropped."""
        task = asyncio.create_task(self._ask(tenant, line))
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)
        return await asyncio.shield(task)

    async def _ask(self, tenant: str, line: bytes) -> Any:
        async with self._turn_of(tenant) as process:
            return await asyncio.to_thread(process.answer, line)

    @asynccontextmanager
    async def _turn_of(self, tenant: str) -> AsyncGenerator[JudgingProcess, None]:
        """Who asks much waits for itself: of each tenant one question is in line for a process."""
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
            raise _overload() from None
        process = self._free.pop()
        try:
            yield process
        finally:
            self._free.append(process)
            self._turn.release()
            own.release()


def _line(question: Json) -> bytes:
    return msgspec.json.encode(question) + b"\n"


def _overload() -> Unavailable:
    return Unavailable("too many schemas wait", code="overloaded", retry_after_s=1)
