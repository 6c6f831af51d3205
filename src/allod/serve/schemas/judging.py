"""The gateway's end of the schema process: started when needed, asked one thing at a time, ended when it is silent."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from allod.core.errors import Unavailable

_SOURCE = Path(__file__).parents[3]
_OTHERS = (0, -signal.SIGKILL, -signal.SIGTERM)  # how it ends when somebody else ends it


class TooDear(Exception):
    """The question took more CPU time than one may, or broke the process. It would again."""


class JudgingProcess:
    """Blocking: to be called from one thread at a time."""

    def __init__(self, *, cpu_s: float, memory_bytes: int, answer_s: float) -> None:
        self._words = [str(cpu_s), str(memory_bytes)]
        self._answer_s = answer_s
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None

    def answer(self, question: bytes) -> Any:
        """The answer to one line. Raises TooDear, and Unavailable (`schema_unchecked`) when there is no process."""
        is_new = self._process is None or self._process.poll() is not None
        try:
            return self._ask(question)
        except EOFError:
            status = self.end()
        if status not in _OTHERS and (is_new or status == -signal.SIGPROF):
            raise TooDear
        try:
            return self._ask(question)  # what it had kept of others may have been too much; or it was ended by others
        except EOFError as error:
            if self.end() in _OTHERS:
                raise _unchecked_error("it was ended") from error
            raise TooDear from error

    def end(self) -> int | None:
        """End it, if there is one. Its exit status."""
        process, connection = self._process, self._socket
        self._process = self._socket = None
        if connection is not None:
            connection.close()  # it ends when it reads this, unless it ended before
        if process is None:
            return None
        try:
            return process.wait(1)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()

    def _ask(self, question: bytes) -> Any:
        if self._process is None:
            self._start()
        connection = self._socket
        assert connection is not None
        try:
            connection.sendall(question)
            return json.loads(_line(connection))
        except TimeoutError as error:
            self.end()
            raise _unchecked_error(f"no answer in {self._answer_s:g} s") from error
        except OSError as error:
            raise EOFError from error

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._socket = ours
            ours.settimeout(self._answer_s)
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "allod.serve.schemas.process", *self._words],
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                stderr=subprocess.DEVNULL,  # a library's last words may quote a client's
                env={"PYTHONPATH": str(_SOURCE)},
                process_group=0,  # no session of its own: Linux gives each the same share, whatever `nice` says
            )
        try:
            _line(ours)
        except (OSError, EOFError) as error:
            raise _unchecked_error(f"it does not start (status {self.end()})") from error


def _line(connection: socket.socket) -> bytes:
    parts = b""
    while not parts.endswith(b"\n"):
        part = connection.recv(1 << 16)
        if not part:
            raise EOFError
        parts += part
    return parts


def _unchecked_error(why: str) -> Unavailable:
    return Unavailable(f"the process that checks schemas: {why}", code="schema_unchecked", retry_after_s=1)
