"""A gateway that says how long its event loop stood still: `python -P tests/hostile/watched.py STALLS --home DIR ...`.

STALLS gets a line of JSON for each stall of 20 ms and more: seconds, and where the loop's thread was.
A stall is the shorter of the time by the clock and of the CPU time of the whole process: what others on the machine do
is not ours.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import threading
import time
import traceback
from pathlib import Path

from allod.app.gateway.realm import Realm
from allod.web import __main__ as gateway
from allod.web import server

BEAT_S = 0.005
WORTH_A_LOOK_S = 0.02


class Watch:
    """Beats in the event loop, and looks from a thread beside it at what is running when a beat is late."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._thread = threading.get_ident()
        self._beat_s = time.monotonic()
        self._seen = ""

    async def beat(self) -> None:
        while True:
            begin_s, computed_s = time.monotonic(), time.process_time()
            self._beat_s, self._seen = begin_s, ""
            await asyncio.sleep(BEAT_S)
            stall_s = min(time.monotonic() - begin_s - BEAT_S, time.process_time() - computed_s)
            if stall_s > WORTH_A_LOOK_S:
                with self._path.open("a") as file:  # a line, a few times in all
                    file.write(json.dumps({"stall_s": round(stall_s, 4), "where": self._seen}) + "\n")

    def look(self) -> None:
        while True:
            time.sleep(BEAT_S)
            if time.monotonic() - self._beat_s > WORTH_A_LOOK_S and not self._seen:
                frame = sys._current_frames().get(self._thread)
                self._seen = "".join(traceback.format_stack(frame)[-4:])


def main() -> int:
    """As `python -m allod.web`, watched."""
    path = Path(sys.argv.pop(1))
    answer = server.answer

    async def watched(realm: Realm, listener: socket.socket) -> None:
        watch = Watch(path)
        threading.Thread(target=watch.look, daemon=True).start()
        beating = asyncio.create_task(watch.beat())
        try:
            await answer(realm, listener)
        finally:
            beating.cancel()

    server.answer = watched
    return gateway.main()


if __name__ == "__main__":
    sys.exit(main())
