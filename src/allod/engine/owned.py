"""Who may ask an engine that knows no salts: the gateway that started it, and nobody else.

Such an engine's slots are chosen by its gateway, which believes that they hold what it put there. Another that asks the
same engine moves what they hold: a tenant of the first then finds there what a tenant of the other has asked. So who
starts an engine locks the folder of its socket, and whoever would ask a server at a socket looks at the lock.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from fcntl import LOCK_EX, LOCK_NB, LOCK_SH, flock
from pathlib import Path

from allod.core.errors import Invalid


@contextmanager
def own_folders(*folders: Path) -> Iterator[None]:
    """Engines' sockets will lie in these, and nobody else may ask them until this ends."""
    with ExitStack() as locks:
        for folder in folders:
            locks.enter_context(_lock_folder(folder, LOCK_EX))
        yield


def check_not_owned(socket: Path) -> None:
    """Raise Invalid (`engine_owned`) for the socket of an engine that a gateway started for itself. Not noticed is one
    that is reached by another way: a hard link, or a relay."""
    folder = socket.resolve().parent
    try:
        with _lock_folder(folder, LOCK_SH):
            return
    except BlockingIOError as error:
        raise Invalid(
            f"a gateway's own engine listens at {socket}: nobody else may ask it",
            code="engine_owned",
            hint="ask that gateway, at its own address",
        ) from error
    except OSError:
        return  # there is no server there, or none that we may reach: asking it will say so


@contextmanager
def _lock_folder(folder: Path, kind: int) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        flock(descriptor, kind | LOCK_NB)
        yield
    finally:
        os.close(descriptor)
