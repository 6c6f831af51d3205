"""What travels the main path."""

from __future__ import annotations

import pytest
from tests.serve.conftest import request


def test_a_request_without_a_label_cannot_be_made() -> None:
    """So nothing can be routed, recorded or answered without one."""
    with pytest.raises(TypeError):
        request(label=None)
