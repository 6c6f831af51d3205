"""What a command writes for whoever started it, who may have left, or have no room for it: how it ends is its own."""

from __future__ import annotations

import os
from typing import TextIO


def tell(stream: TextIO | None, text: str = "") -> None:
    """Write the text, and whatever waited before it, if that can be done; None is a stream that was closed before."""
    if stream is None:
        return
    try:
        stream.write(text)
        stream.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())  # what still waits is written at the end, and what fails then is the status
        os.close(nowhere)
