"""A process whose work is done ends as it says, whatever its libraries would do at the end of the interpreter."""

from __future__ import annotations

import subprocess
import sys

import pytest

BADLY = "import atexit, os, sys; from allod.fleet.leaving import leave; atexit.register(os.abort); print('said')"


@pytest.mark.parametrize("status", [0, 75])
def test_its_status_and_last_words_are_its_own(status: int) -> None:
    """Without `leave` this process is ended by SIGABRT."""
    ended = subprocess.run([sys.executable, "-c", f"{BADLY}; leave({status})"], capture_output=True, check=False)
    assert (ended.returncode, ended.stdout) == (status, b"said\n")
