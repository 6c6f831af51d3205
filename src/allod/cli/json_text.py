"""What `--json` prints, written as it is over HTTP: the same bytes for the same object, where its words are ASCII."""

from __future__ import annotations

import json
from typing import Any


def json_text(value: Any) -> str:
    """One line, whatever the terminal's encoding: other characters are escaped."""
    return json.dumps(value, separators=(",", ":"))
