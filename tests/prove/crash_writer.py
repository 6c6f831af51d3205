"""Append to the log in argv[1] until stopped; print each id once acknowledged, or `refused` and stop when it is not."""

from __future__ import annotations

import sys
import uuid
from pathlib import Path
from threading import Semaphore

from allod.prove.formats.signing_key import SigningKey
from allod.prove.tlog.log import AppendedBatch, open_log
from allod.prove.tlog.writer import Done, LogWriter, Outcome

KEY = SigningKey("realm.example/receipts/a", bytes([3]) * 32)


def tell(waiting: list[Done], outcome: Outcome) -> None:
    for done in waiting:
        done(outcome)


def main() -> None:
    room, refused = Semaphore(64), False

    def heard(name: str) -> Done:
        def done(outcome: Outcome) -> None:
            nonlocal refused
            is_in = isinstance(outcome, AppendedBatch)
            refused = refused or not is_in
            sys.stdout.write(f"{name}\n" if is_in else "refused\n")
            sys.stdout.flush()
            room.release()

        return done

    log = open_log(Path(sys.argv[1]), KEY)
    writer = LogWriter(log, tell)
    while not refused:
        room.acquire()
        name = uuid.uuid4().hex
        writer.submit(b'{"predicate":{"id":"%s"}}' % name.encode(), name, heard(name))
    writer.close()
    log.close()


main()
