"""What `allod ask` says of a gateway's refusals."""

from __future__ import annotations

import json
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from allod.app.home import Home
from allod.cli.client import Client
from allod.core.errors import Unavailable, explain


@pytest.mark.parametrize(
    ("status", "headers", "hint"),
    [
        (503, {"retry-after": "7"}, "try again in 7 s"),
        (429, {"retry-after": "3600"}, "try again in 3600 s"),
        (503, {}, None),
    ],
)
def test_it_is_said_when_to_try_again(tmp_path: Path, status: int, headers: dict[str, str], hint: str | None) -> None:
    """By the header, and nothing where there is none."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(json.dumps({"error": {"message": "not now", "code": "overloaded"}}).encode())

        def log_message(self, *_: object) -> None: ...

    (tmp_path / "local.key").write_text("secret")
    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.handle_request, daemon=True)
        thread.start()
        with (
            closing(Client(f"http://127.0.0.1:{server.server_port}", Home(tmp_path))) as client,
            pytest.raises(Unavailable) as caught,
        ):
            client.model()
        thread.join(10)
    assert caught.value.hint == hint
    assert explain(caught.value) == "error: not now" + (f"\n\nhint: {hint}" if hint else "")
