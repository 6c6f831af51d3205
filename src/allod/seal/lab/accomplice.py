"""The accomplice: a process outside that wants to hear from a sealed one, and does what it can to help.

It watches its own processors, the names of all processes, a setting of the kernel, and the locks of a file that both
may read; what it reads there it records as the honeypot does. Runs for ever in a forked child; the lab ends it.
"""

from __future__ import annotations

import fcntl
import os
import re
import struct
import time
from contextlib import suppress
from pathlib import Path

from allod.seal.escapes.covert import GET_LOCK, LOCK, SETTING, write_setting
from allod.seal.escapes.probe import TAG, tag_of
from allod.seal.lab.honeypot import ContactRecorder

_MESSAGE_BYTES = 22  # a token
_EVERY_S, _LOOKS_ROUND_EVERY_S = 0.001, 0.02
_WRITE_LOCK, _NO_LOCK = 1, 2  # F_WRLCK F_UNLCK
_TAG, _TAG_MASK = re.compile(TAG), (1 << 40) - 1


def be_accomplice(recorder: ContactRecorder, shared_file: Path) -> None:
    """Listen for ever, and record what comes."""
    everywhere = os.sched_getaffinity(0)
    bits, looked = "", 0.0
    with shared_file.open("r+b") as file:
        recorder.mark("accomplice-ready")
        while True:
            if (where := os.sched_getaffinity(0)) != everywhere and len(where) == 1:
                bits = (bits + str(sorted(everywhere).index(where.pop())))[-8 * _MESSAGE_BYTES :]
                recorder.search(_as_bytes(bits))
                os.sched_setaffinity(0, everywhere)
            if time.monotonic() - looked > _LOOKS_ROUND_EVERY_S:
                _read_names(recorder)
                _read_setting(recorder)
                _read_lock(recorder, file.fileno())
                looked = time.monotonic()
            time.sleep(_EVERY_S)


def _as_bytes(bits: str) -> bytes:
    """Bits as they were sent, the lowest of each byte first; an odd end is left out."""
    return bytes(int(bits[at : at + 8][::-1], 2) for at in range(0, len(bits) - 7, 8))


def _read_names(recorder: ContactRecorder) -> None:
    for process in Path("/proc").glob("[0-9]*"):  # with `/comm` the glob itself would fail where one ends meanwhile
        with suppress(OSError):  # it has ended
            if _TAG.fullmatch(name := (process / "comm").read_text(errors="replace").strip()):
                recorder.mark(name)


def _read_setting(recorder: ContactRecorder) -> None:
    with suppress(OSError):  # not for us to read, as an ordinary user; or no IPv4
        if number := int(Path(SETTING).read_text().replace("-", ""), 16):
            recorder.mark(tag_of(number & _TAG_MASK))
            write_setting(0)


def _read_lock(recorder: ContactRecorder, descriptor: int) -> None:
    answer = fcntl.fcntl(descriptor, GET_LOCK, struct.pack(LOCK, _WRITE_LOCK, os.SEEK_SET, 0, 0, 0))
    kind, _, start, _, _ = struct.unpack(LOCK, answer)
    if kind != _NO_LOCK:
        recorder.mark(tag_of(start))
