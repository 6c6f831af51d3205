"""The browser's verifier comes to the same verdict, at the same step, as this one."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_the_browser_verifier_agrees_on_every_vector() -> None:
    """The same files are read by `verify.js` under node, whose WebCrypto is the browser's."""
    ran = subprocess.run(
        ["node", "--test", HERE / "verify_test.mjs"], capture_output=True, text=True, timeout=120, check=False
    )
    assert ran.returncode == 0, ran.stdout[-4000:] + ran.stderr[-2000:]
