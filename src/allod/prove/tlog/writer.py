"""Writer: the thread that owns a log's appends. Whatever waits becomes one batch, at once; a lone entry does not wait.

A batch has one outcome, which is delivered after it is durable and never before, whole and in order. After a failure
the thread finds out by itself when there is room again, so that nobody's entry has to.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from allod.core.errors import AllodError, Invalid, Unavailable
from allod.core.statements.receipt import MAX_STATEMENT_BYTES
from allod.prove.tlog.log import AppendedBatch, Log

Outcome = AppendedBatch | AllodError
Done = Callable[[Outcome], None]
Deliver = Callable[[list[Done], Outcome], None]
_Waiting = tuple[bytes, str, Done]
ROOM_BYTES = 2 * MAX_STATEMENT_BYTES  # that a log which failed must have before it takes entries again


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
    retry_s: float = 1.0  # after a failure, before it is tried again


class LogWriter:
    """Appends from any thread. `deliver` gets those who wait for a batch, and its outcome, on the writer's thread.

    An asyncio owner passes `lambda waiting, outcome: loop.call_soon_threadsafe(call_each, waiting, outcome)`.
    """

    def __init__(self, log: Log, deliver: Deliver, options: WriterOptions | None = None) -> None:
        self._log, self._deliver, self._options = log, deliver, options or WriterOptions()
        self._waiting: list[_Waiting] = []
        self._batch: list[_Waiting] = []
        self._closing = False
        self._failure: Unavailable | None = None  # what the log failed with, unless it has worked since
        self._gate = threading.Lock()
        self._woken = threading.Condition(self._gate)
        self._thread = threading.Thread(target=self._run, name="allod-log-writer", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise Unavailable, with the reason, while an entry would not be written. Never blocks; from any thread."""
        self._check_open()
        if (failure := self._failure) is not None:
            raise self._to_retry(failure)

    def submit(self, leaf: bytes, receipt_id: str, done: Done) -> None:
        """Queue one entry; `done` hears of it once. Never blocks.

        Raises Unavailable (`log_busy`) when too many wait, (`log_closed`) after `close`; Invalid for a leaf too long.
        """
        if len(leaf) > MAX_STATEMENT_BYTES:
            raise Invalid(f"a leaf of {len(leaf)} bytes does not fit the log", code="statement_too_large")
        with self._gate:
            self._check_open()
            waiting = self._waiting
            waiting.append((leaf, receipt_id, done))
            if len(waiting) == 1:
                self._woken.notify()

    def close(self) -> None:
        """Write what waits, deliver it, flush, stop. The log itself stays open for its owner to close."""
        with self._gate:
            self._closing = True
            self._woken.notify()
        self._thread.join()

    def _check_open(self) -> None:
        if self._closing:
            raise self._stop_error()
        if len(self._waiting) >= self._options.max_waiting:
            raise self._to_retry(Unavailable("too many receipts wait for the log", code="log_busy"))

    def _stop_error(self) -> Unavailable:
        return self._to_retry(Unavailable("the log writer has stopped", code="log_closed", hint="restart Allod"))

    def _to_retry(self, error: Unavailable) -> Unavailable:
        return Unavailable(error.message, code=error.code, hint=error.hint, retry_after_s=self._options.retry_s)

    def _run(self) -> None:
        try:
            self._write_batches()
        finally:  # whatever ended it, nobody is left waiting for an outcome
            with self._gate:
                self._closing = True
            self._refuse_waiting()

    def _write_batches(self) -> None:
        while batch := self._next():
            self._batch = batch
            outcome = self._append(batch)
            self._batch = []
            self._deliver([done for _, _, done in batch], outcome)
            if self._log.num_unflushed >= self._options.flush_at:
                self._log.flush()
        self._log.flush()

    def _next(self) -> list[_Waiting]:
        """What waits, or at most a batch of it; nothing once the writer is closed and all is written."""
        while self._failure is not None and not self._wait(self._options.retry_s):
            self._look_for_room()
        if self._log.num_unflushed and not self._wait(self._options.flush_after_s):
            self._log.flush()
        self._wait(None)
        with self._gate:
            batch = self._waiting[: self._options.max_batch]
            del self._waiting[: len(batch)]
        return batch

    def _wait(self, seconds: float | None) -> bool:
        """Whether there is something to do, within that time if any."""
        with self._gate:
            return self._woken.wait_for(lambda: bool(self._waiting) or self._closing, seconds)

    def _look_for_room(self) -> None:
        try:
            self._log.make_room(ROOM_BYTES)
        except Unavailable as error:
            self._failure = error
        else:
            self._failure = None

    def _refuse_waiting(self) -> None:
        with self._gate:
            batch, self._waiting = self._batch + self._waiting, []
        if batch:
            self._deliver([done for _, _, done in batch], self._stop_error())

    def _append(self, batch: list[_Waiting]) -> Outcome:
        try:
            appended = self._log.append(batch, ahead=self._options.zeros_ahead)
        except Unavailable as error:
            self._failure = error
            return self._to_retry(error)
        self._failure = None
        return appended
