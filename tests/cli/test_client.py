"""What `allod ask` says of a gateway's refusals."""

from __future__ import annotations

import json
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from allod.cli.client import Client
from allod.core.errors import Invalid, Unavailable, explain


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
            closing(Client(f"http://127.0.0.1:{server.server_port}", tmp_path / "local.key")) as client,
            pytest.raises(Unavailable) as caught,
        ):
            client.model()
        thread.join(10)
    assert caught.value.hint == hint
    assert explain(caught.value) == "error: not now" + (f"\n\nhint: {hint}" if hint else "")


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        (None, "one"),
        ("auto", "one"),
        ("two", "two"),
        ("a/two.gguf", "two"),
        (f"sha256:{'2' * 64}", "two"),
        ("2" * 64, "two"),
        ("three", None),
    ],
)
def test_of_several_models_the_one_that_is_said_is_asked(tmp_path: Path, said: str | None, meant: str | None) -> None:
    """And none in the place of one that the gateway does not serve."""
    (tmp_path / "local.key").write_text("secret")
    client = Client("http://127.0.0.1:1", tmp_path / "local.key")
    served = [{"id": name, "allod": {"digest": f"sha256:{digit * 64}"}} for name, digit in (("one", "1"), ("two", "2"))]
    client._get = lambda path: json.dumps({"data": served}).encode()  # type: ignore[method-assign]
    if meant is not None:
        assert client.model(said)["id"] == meant
        return
    with pytest.raises(Invalid) as caught:
        client.model(said)
    assert (caught.value.code, caught.value.hint) == (
        "model_not_found",
        "there is one, two; another is served once `allod up` is ended",
    )
