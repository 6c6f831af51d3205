"""A replica: one engine process under the seal, started, watched, and started again when it ends.

It says which engine is up, if one is, and tells whoever made it when that changes. Requests come by its pool
(`engine/replicas/pool.py`).
"""

from __future__ import annotations

import asyncio
import logging
import re
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from math import ceil
from pathlib import Path
from typing import Protocol

from allod.core.canonical import JsonValue, canonical_json, digest_of
from allod.core.deadlines import Deadlines
from allod.core.digests import digest_of_hex, hex_of
from allod.core.errors import AllodError, Invalid, Unavailable
from allod.core.files.plain import names_in
from allod.core.files.whole import write_whole
from allod.core.shown_text import make_plain
from allod.core.times import now_ms
from allod.engine.engine import Engine, EngineInfo, Perimeter
from allod.engine.replicas.health import Health, WatchedEngine
from allod.engine.replicas.passing import in_passing
from allod.model.store import check_digest, digest_of_file, silent
from allod.seal.ahead import Ahead
from allod.seal.endings import MEMORY_HINT, how_it_ended, may_be_memory
from allod.seal.evidence import proof_of
from allod.seal.launch import SealedProcess, SealOptions, start

READY_POLL_S = 0.01  # while a start waits for it, and somebody for the start
LEAST_RETRY_S = 2.0  # until somebody who was told that an engine is being started asks again
GRACE_S = 0.5  # for an engine at fault to end by itself
LOG_BYTES = 1 << 20  # in which the reason of a failed start is looked for
MOST_LOG_BYTES = 256 << 20  # of one process: receipts need the disk, too
_AN_ERROR = re.compile(r"error|fail|exception|invalid|unsupported|unknown|cannot|unable|not enough|out of memory", re.I)
_A_WARNING = re.compile(r"warning|\bwarn\b", re.I)  # which may speak of errors, and is none
logger = logging.getLogger(__name__)


class StartedEngine(Engine, WatchedEngine, Protocol):
    """What asks a process that was started."""

    info: EngineInfo

    async def is_ready(self) -> bool:
        """Whether it answers by now."""
        ...


MakeEngine = Callable[[EngineInfo, str, Deadlines], StartedEngine]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaOptions:
    """What to start, what then asks it at `socket_path`, and how long to be patient.

    `info` lacks only what a start adds: the seal, and the digest of `library`, the engine's own file, as its build.
    `make_engine` is called in a thread, while the process loads what it was told to.
    """

    seal: SealOptions
    socket_path: str
    make_engine: MakeEngine
    info: EngineInfo
    message: bytes = b""  # what the process is told, if it hears
    ahead: Ahead | None = None  # taken for the first start, if it is what `seal` says
    pinned: tuple[tuple[Path, str], ...] = ()  # files and the SHA-256 (hex) that `info` says they have
    pinned_folder: Path | None = None  # which holds those files, and no others
    library: Path | None = None
    config: JsonValue = None  # what `info.config` is the digest of
    evidence_dir: Path | None = None  # where what receipts give digests of is kept; None: nowhere
    deadlines: Deadlines = field(default_factory=Deadlines)
    spare_bytes: int = 2 << 30  # of memory that the engine may take beyond what it has when it is ready
    has_accelerators: bool = False  # to compute on
    ready_timeout_s: float = 300.0
    poll_s: float = 0.1
    restart_wait_s: float = 0.5
    max_restart_wait_s: float = 30.0


class Replica:
    """Start it with `start`, end it with `close`.

    `info` is of the engine that was up last. `engine` is None while none is up, and then `is_coming` says whether one
    is worth waiting for: its start has not failed. `on_change` is called when any of the three has changed. Starts that
    share a `gate` are made a few at a time: each reads its whole model.
    """

    def __init__(
        self,
        options: ReplicaOptions,
        on_change: Callable[[], None] = lambda: None,
        gate: asyncio.Semaphore | None = None,
    ) -> None:
        self._options = options
        self._on_change = on_change
        self._gate = gate or asyncio.Semaphore()
        self._ahead = options.ahead
        self.info = options.info
        self.engine: StartedEngine | None = None
        self.is_coming = True
        self.process: SealedProcess | None = None
        self.started_ms = 0
        self._evidence: JsonValue = None
        self._keeps_evidence = False
        self.reason = "the engine is starting"  # why none is up
        self.num_starts = 0
        self._wanted: str | None = None  # why an end is wanted of it
        self._start_s = LEAST_RETRY_S  # what a start takes
        self._watcher: asyncio.Task[None] | None = None
        self._health: Health | None = None
        self._library_digest: str | None = None  # the same at every start
        self._log_start = 0  # where in the log the process that was started last begins

    async def start(self) -> None:
        """Return once the engine answers. Raises Unavailable when it cannot be started, sealed or readied."""
        await self._launch()
        self._watcher = asyncio.create_task(self._watch())

    def start_beside(self) -> None:
        """Start it while others serve: a start that fails is said in the log, and tried again."""
        self._watcher = asyncio.create_task(self._start_and_watch())

    def keep_evidence(self) -> None:
        self._keeps_evidence = True
        if self._evidence is not None:  # else it is kept as soon as it is known
            self._keep()

    def restart(self, reason: str) -> None:
        """End the process and start another; calls under way are lost."""
        self._wanted = reason

    async def close(self) -> None:
        """End the process; calls under way fail with Unavailable."""
        if self._watcher is not None:
            self._watcher.cancel()
            with suppress(asyncio.CancelledError):
                await self._watcher
        await self._end()
        self.is_coming = False  # whoever waits for one is told so now
        self._on_change()

    def check_ready(self) -> None:
        """Raise Unavailable, with the reason, unless the engine is up."""
        if self.engine is None:
            raise self._not_up()

    def evidence(self) -> Perimeter:
        """What can be seen of its perimeter. Blocks. Raises Unavailable while there is nothing to look at."""
        if (process := self.process) is None:
            raise self._not_up()
        found = process.evidence()
        missing = tuple(f"{part}: {reason}" for part, reason in process.missing.items())
        return Perimeter(process.kind, proof_of(found), missing, found, self._evidence, process.pid, self.started_ms)

    def _not_up(self) -> Unavailable:
        return Unavailable(self.reason, code="engine_starting", retry_after_s=ceil(self._start_s))

    def _mark_down(self, reason: str) -> None:
        self.engine = None
        self.reason = reason
        self._on_change()

    async def _launch(self) -> None:
        """Start the process, wait until it answers, and only then call it up."""
        async with self._gate:
            await self._launch_now()

    async def _launch_now(self) -> None:
        began_s = time.monotonic()
        try:
            process, engine = await asyncio.to_thread(self._start_process)
            self.process = process
        except Unavailable as error:
            if error.code in ("engine_gone", "engine_not_started"):
                await in_passing(self._check_pinned)  # if it is that, this is the reason
            raise
        try:
            checking = in_passing(self._check_pinned)
            try:
                await self._wait_until_ready(engine, process)
            finally:
                await checking  # a file that is not what it should be is a better reason than what came of it
        except BaseException:
            await self._end()
            raise
        if self._library_digest is not None:
            engine.info = replace(engine.info, build=digest_of_hex(self._library_digest))  # before anybody can ask it
        self.info = engine.info
        self.started_ms = now_ms()
        self.engine, self.is_coming = engine, True
        self._wanted = None  # who asked for another meanwhile has it
        self.num_starts += 1
        self._start_s = max(LEAST_RETRY_S, time.monotonic() - began_s)
        options = self._options
        self._health = Health(
            engine,
            process.pid,
            options.deadlines,
            spare_bytes=options.spare_bytes,
            has_accelerators=options.has_accelerators,
        )
        self._on_change()

    def _start_process(self) -> tuple[SealedProcess, StartedEngine]:
        """Started on files that are checked meanwhile; what asks it is loaded while it reads its weights."""
        Path(self._options.socket_path).unlink(missing_ok=True)  # the one before may have left it
        _empty(self._options.seal.scratch_dir)
        process = self._take_ahead() or start(self._options.seal)
        self._log_start = process.log_start
        try:
            if self._options.seal.hears:
                process.tell(self._options.message)
            self._evidence = process.evidence()["stable"]
            if self._keeps_evidence:
                self._keep()
            info = replace(self._options.info, seal=process.kind, seal_proof=digest_of(self._evidence))
            engine = self._options.make_engine(info, self._options.socket_path, self._options.deadlines)
        except BaseException as error:
            if (status := process.poll()) is not None:
                raise self._never_ready(status) from error
            process.terminate()
            raise
        return process, engine

    def _keep(self) -> None:
        """The configuration and the evidence, each in a file that its digest names."""
        if (directory := self._options.evidence_dir) is None:
            return
        directory.mkdir(mode=0o700, exist_ok=True)
        for value in (self._options.config, self._evidence):
            name = hex_of(digest_of(value))
            write_whole(directory / f"{name}.json", canonical_json(value).decode())

    def _take_ahead(self) -> SealedProcess | None:
        """What was started ahead, once, unless something else is needed."""
        ahead, self._ahead = self._ahead, None
        if ahead is None:
            return None
        if ahead.options == self._options.seal:
            return ahead.take()
        ahead.close()
        return None

    def _check_pinned(self) -> None:
        """What runs is what receipts name, at a restart too. It takes no longer than the engine's own reading does."""
        if (folder := self._options.pinned_folder) is not None:
            _check_names(folder, {path.relative_to(folder).as_posix() for path, _ in self._options.pinned})
        for path, digest in self._options.pinned:
            check_digest(path, digest, silent)
        library = self._options.library
        if library is not None and self._library_digest is not None:
            check_digest(library, self._library_digest, silent)
        elif library is not None:
            self._library_digest = digest_of_file(library, silent)

    async def _wait_until_ready(self, engine: StartedEngine, process: SealedProcess) -> None:
        timeout_s = self._options.ready_timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                while not await engine.is_ready():
                    if (status := process.poll()) is not None:
                        raise await asyncio.to_thread(self._never_ready, status)
                    await asyncio.sleep(READY_POLL_S)
        except TimeoutError:
            raise Unavailable(f"the engine was not ready in {timeout_s} s", code="engine_not_started") from None

    def _never_ready(self, status: int) -> Unavailable:
        """Why, as the process that ended with `status` said."""
        why = f"it {how_it_ended(status)}: {self._first_words()}"
        hint = MEMORY_HINT if may_be_memory(status) else None
        return Unavailable(f"the engine was never ready; {why}", code="engine_not_started", hint=hint)

    async def _start_and_watch(self) -> None:
        await self._start_until_up()
        await self._watch()

    async def _watch(self) -> None:
        """Notice that the process ended or is of no use, and start another."""
        while True:
            await asyncio.sleep(self._options.poll_s)
            if (fault := await self._fault()) is not None:
                await asyncio.to_thread(self._log_fault, fault)
                await self._end(fault)
                await self._start_until_up()
                logger.warning("the engine %s and was started again", fault)

    async def _start_until_up(self) -> None:
        """Start it, more patiently each time that this fails."""
        wait_s = self._options.restart_wait_s
        while True:
            try:
                return await self._launch()
            except (AllodError, OSError) as error:
                self.reason, self.is_coming = f"the engine does not start: {error}", False
                self._on_change()  # whoever waits need not wait longer
                logger.error("the engine does not start: %s", error)
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, self._options.max_restart_wait_s)

    async def _fault(self) -> str | None:
        """Why the engine is of no use, or no longer wanted, if so."""
        if self._wanted is not None:
            return self._wanted
        if self.process is not None and (status := self.process.poll()) is not None:
            return how_it_ended(status)
        if self.process is None or self.engine is None or self._health is None:
            return "ended"
        if await asyncio.to_thread(self._log_bytes) > MOST_LOG_BYTES:
            return f"wrote more than {MOST_LOG_BYTES >> 20} MiB of log"
        return await self._health.fault()

    def _log_bytes(self) -> int:
        """What this process has written."""
        path = self._options.seal.log_path
        with suppress(OSError):
            return path.stat().st_size - self._log_start if path is not None else 0
        return 0

    def _log_fault(self, fault: str) -> None:
        """In the gateway's log, and after the engine's own last words in its log."""
        status = None if self.process is None else self.process.poll()
        hint = f" ({MEMORY_HINT})" if status is not None and may_be_memory(status) else ""
        logger.warning("the engine %s and is being started again%s", fault, hint)
        if (path := self._options.seal.log_path) is not None:
            with suppress(OSError), path.open("a") as log:
                log.write(f"allod: the engine {fault}\n")

    async def _end(self, fault: str | None = None) -> None:
        """End the process; one at `fault` is not asked twice."""
        engine, process = self.engine, self.process
        self._wanted = None
        self._mark_down(f"the engine {fault} and is being started again" if fault else "the engine is stopped")
        self.process = None
        if self._health is not None:
            self._health.close()
        if engine is not None:
            await engine.close()
        if process is not None:
            await asyncio.to_thread(process.terminate, *((GRACE_S,) if fault else ()))

    def _first_words(self) -> str:
        """The first error in what this process wrote, for the error that reports its failure: what follows from it
        comes after it."""
        path = self._options.seal.log_path
        if path is None or not path.exists():
            return "it left no log"
        with path.open("rb") as file:
            file.seek(self._log_start)
            lines = file.read(LOG_BYTES).decode(errors="replace").strip().splitlines()
        told = [line for line in lines if line.strip() and not line.startswith(("Traceback", " "))]
        errors = [line for line in told if _AN_ERROR.search(line) and not _A_WARNING.search(line)]
        return make_plain((errors or told[-1:] or ["it left no log"])[0], limit=500)


def _check_names(folder: Path, pinned: set[str]) -> None:
    """Raise Invalid (`model_digest`) where there is another file than those: an engine may prefer it."""
    if other := set(names_in(folder)) ^ pinned:
        message = f"{min(other)} was added to {folder} or taken away since the gateway was started"
        raise Invalid(message, code="model_digest", hint="start the gateway again, and it is another model")


def _empty(scratch: Path | None) -> None:
    """What the process before has left there is not for the next to read."""
    if scratch is not None:
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(mode=0o700, exist_ok=True)
