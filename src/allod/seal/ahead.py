"""A sealed process that is started while its launcher still finds out what it is to be told."""

from __future__ import annotations

import threading

from allod.core.errors import AllodError
from allod.seal.launch import SealedProcess, SealOptions, start


class Ahead:
    """Starts at once, in a thread. Whoever made it closes it, taken or not."""

    def __init__(self, options: SealOptions) -> None:
        self.options = options
        self._process: SealedProcess | None = None
        self._error: AllodError | OSError | None = None
        self._thread = threading.Thread(target=self._start, name="allod-ahead", daemon=True)
        self._thread.start()

    def take(self) -> SealedProcess:
        """The process, from now on the caller's to end. Raises what `start` did."""
        self._thread.join()  # as long as `start` waits, at most
        if self._error is not None:
            raise self._error
        assert self._process is not None
        process, self._process = self._process, None
        return process

    def close(self) -> None:
        """End it, unless it was taken."""
        self._thread.join()
        if self._process is not None:
            self._process.terminate()
            self._process = None

    def _start(self) -> None:
        try:
            self._process = start(self.options)
        except (AllodError, OSError) as error:
            self._error = error
