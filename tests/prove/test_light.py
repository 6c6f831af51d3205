"""Verifying is light: it takes neither the writer, nor a database, nor a clock or the network with it."""

from __future__ import annotations

import subprocess
import sys


def test_verification_imports_only_what_it_needs() -> None:
    """`allod.prove.verify` must work where a log never could: in a small tool, offline."""
    code = "import sys, allod.prove.verify; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={})
    loaded = set(ran.stdout.split())
    heavy = {
        "sqlite3",
        "asyncio",
        "socket",
        "http",
        "ssl",
        "fcntl",
        "subprocess",
        "allod.prove.tlog.log",
        "allod.prove.tlog.writer",
    }
    assert "allod.prove.verify" in loaded
    assert not loaded & heavy
