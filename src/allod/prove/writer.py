"""Writer: the thread that owns a log's appends. Whatever waits becomes one batch, at once; a lone entry does not wait.

An entry's outcome is delivered after its batch is durable and never before; batches are delivered whole, in order.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from queue import Empty, SimpleQueue

from allod.core.errors import AllodError, Invalid, Unavailable
from allod.core.statements import MAX_STATEMENT_BYTES
from allod.prove.log import Appended, Log

Outcome = Appended | AllodError
Done = Callable[[Outcome], None]
Deliver = Callable[[list[tuple[Done, Outcome]]], None]
_Waiting = tuple[tuple[bytes, str], Done]


@dataclass(frozen=True, slots=True)
class WriterOptions:
    """`max_waiting` bounds memory; the index is brought up to date when idle that long, or that far behind.

    `zeros_ahead`: bytes, as in `SegmentFile.append`: half a millisecond of writing for some 200 lone receipts.
    """

    max_batch: int = 256
    max_waiting: int = 8192
    flush_after_s: float = 0.05
    flush_at: int = 1024
    zeros_ahead: int = 256 * 1024


class LogWriter:
    """Appends from any thread. `deliver` gets a batch's (done, outcome) pairs on the writer's thread.

    An asyncio owner passes `lambda batch: loop.call_soon_threadsafe(call_each, batch)`.
    """

    def __init__(self, log: Log, deliver: Deliver, options: WriterOptions | None = None) -> None:
        self._log, self._deliver, self._options = log, deliver, options or WriterOptions()
        self._queue: SimpleQueue[_Waiting | None] = SimpleQueue()
        self._closing = False
        self._batch: list[_Waiting] = []
        self._gate = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="allod-log-writer", daemon=True)
        self._thread.start()

    def submit(self, leaf: bytes, receipt_id: str, done: Done) -> None:
        """Queue one entry; `done` hears of it once. Never blocks.

        Raises Unavailable (`log_busy`) when too many wait, (`log_closed`) after `close`; Invalid for a leaf too long.
        """
        if len(leaf) > MAX_STATEMENT_BYTES:
            raise Invalid(f"a leaf of {len(leaf)} bytes does not fit the log", code="statement_too_large")
        with self._gate:
            if self._closing:
                raise Unavailable("the log is closed", code="log_closed")
            if self._queue.qsize() >= self._options.max_waiting:
                raise Unavailable("too many receipts wait for the log", code="log_busy", retry_after_s=1.0)
            self._queue.put(((leaf, receipt_id), done))

    def close(self) -> None:
        """Write what waits, deliver it, flush, stop. The log itself stays open for its owner to close."""
        with self._gate:
            if not self._closing:
                self._closing = True
                self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        try:
            self._write_batches()
        finally:  # whatever ended it, nobody is left waiting for an outcome
            with self._gate:
                self._closing = True
            self._refuse_waiting()

    def _write_batches(self) -> None:
        while (first := self._next()) is not None:
            batch = [first]
            for _ in range(min(self._queue.qsize(), self._options.max_batch - 1)):
                waiting = self._queue.get()
                if waiting is None:
                    self._queue.put(None)  # nothing can follow it: `submit` refuses by then
                    break
                batch.append(waiting)
            self._batch = batch
            outcomes = self._append(batch)
            self._batch = []
            self._deliver(outcomes)
            if self._log.num_unflushed >= self._options.flush_at:
                self._log.flush()
        self._log.flush()

    def _next(self) -> _Waiting | None:
        if not self._log.num_unflushed:
            return self._queue.get()
        try:
            return self._queue.get(timeout=self._options.flush_after_s)
        except Empty:
            self._log.flush()
            return self._queue.get()

    def _refuse_waiting(self) -> None:
        waiting = self._batch
        while not self._queue.empty():
            if (one := self._queue.get()) is not None:
                waiting.append(one)
        if waiting:
            stopped = Unavailable("the log writer has stopped", code="log_closed", hint="restart Allod")
            self._deliver([(done, stopped) for _, done in waiting])

    def _append(self, batch: list[_Waiting]) -> list[tuple[Done, Outcome]]:
        try:
            appended = self._log.append([entry for entry, _ in batch], ahead=self._options.zeros_ahead)
        except AllodError as error:
            return [(done, error) for _, done in batch]
        return [(done, place) for (_, done), place in zip(batch, appended, strict=True)]
