"""`python -m allod.seal.escapes NAME TARGET_JSON`: try one escape, and say on standard output that it was tried."""

from __future__ import annotations

import errno
import json
import os
import sys

from allod.seal.escapes.every import EVERY
from allod.seal.escapes.probe import Target


def main(name: str, target_json: str) -> None:
    """Write `trying`, then `done` or the error's name and text. The honeypot judges, not these words."""
    os.write(1, b"trying\n")
    try:
        EVERY[name].run(Target(**json.loads(target_json)))
    except OSError as error:
        name_of_error = errno.errorcode.get(error.errno or 0, type(error).__name__)
        os.write(1, f"{name_of_error} {error.strerror or error}\n".encode())
    else:
        os.write(1, b"done\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
