"""On the small file system at argv[1]: fill the log until it is refused, make room, go on, check; say so on the way.

argv[2] is how many zeros are written ahead.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

from allod.core.errors import Unavailable
from allod.prove.formats.signing_key import SigningKey
from allod.prove.tlog.fsck import fsck
from allod.prove.tlog.log import Entry, open_log

KEY = SigningKey("realm.example/receipts/a", bytes([3]) * 32)


def main() -> None:
    root, ahead = Path(sys.argv[1]), int(sys.argv[2])
    (root / "ballast").write_bytes(bytes(100_000))
    log, number = open_log(root / "log", KEY), 0

    def append() -> None:
        nonlocal number
        leaf = b'{"predicate":{"id":"r%d"},"filler":"%s"}' % (number, b"x" * 1000)
        log.append([Entry(leaf, f"r{number}")], ahead=ahead)
        number += 1

    with suppress(Unavailable):
        while number < 1000:
            append()
    print("refused" if number < 1000 else "never full")
    assert log.head.size == number
    (root / "ballast").unlink()
    append()
    print("went-on")
    log.close()
    report = fsck(root / "log", KEY.verifier)
    assert report.head.size == number
    print("sound" if report.is_sound else report.findings)


main()
