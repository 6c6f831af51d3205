"""A client of our own gateway, on the standard library alone: what the command line needs."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from allod.app.gateway.model_choice import AUTO, is_at_hand, is_file_name, name_of_file
from allod.app.home import Home
from allod.cli.running import find_gateway
from allod.cli.starting import gateway_command, get_model
from allod.core.digests import hex_of
from allod.core.errors import AllodError, Denied, Invalid, Unavailable
from allod.core.requests import chat_answer
from allod.settings.tree import Settings

ANSWER_TIMEOUT_S = 1800
START_TIMEOUT_S = 900
STOP_TIMEOUT_S = 20


@dataclass(frozen=True, slots=True)
class ClientAnswer:
    """An answer and what its receipt needs: the exact body that was sent."""

    text: str
    finish: str
    receipt_id: str
    request_body: str
    usage: dict[str, Any]


class Client:
    """Talks to the gateway at `url` with the key in that file."""

    def __init__(self, url: str, key: Path) -> None:
        where = urllib.parse.urlsplit(url)
        self._connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=ANSWER_TIMEOUT_S)
        self._headers = {"authorization": f"Bearer {key.read_text().strip()}"}

    def model(self, name: str | None = None) -> dict[str, Any]:
        """The model that `--model NAME` means, as `GET /v1/models` describes it; the first where nothing is said.

        Raises Denied (`no_model`) where none may be used, and Invalid (`model_not_found`).
        """
        described: list[dict[str, Any]] = self.read("/v1/models")["data"]
        if not described:
            raise Denied("the local key may use no model that is served here", code="no_model")
        if name is None or name == AUTO:
            return described[0]
        wanted = name_of_file(Path(name)) if is_file_name(name) else name
        for model in described:
            if wanted == model["id"] or hex_of(wanted) == hex_of(model["allod"]["digest"]):
                return model
        there_are = ", ".join(model["id"] for model in described)
        raise Invalid(
            f"the gateway that runs does not serve {wanted!r}",
            code="model_not_found",
            param="--model",
            hint=f"there is {there_are}; another is served once `allod up` is ended",
        )

    def chat(self, body: dict[str, Any], *, show: Callable[[str], None]) -> ClientAnswer:
        """A streamed answer; `show` is given each piece as it comes. Raises what the gateway answers."""
        sent = json.dumps(body)
        response = self._request("POST", "/v1/chat/completions", sent.encode())
        texts: list[str] = []
        finish, usage = "", dict[str, Any]()
        for event in _events(response):
            if "error" in event:
                raise _error(event["error"], 503)
            usage = event.get("usage") or usage
            for choice in event["choices"]:
                finish = choice["finish_reason"] or finish
                if text := choice["delta"].get("content"):
                    texts.append(text)
                    show(text)
        if not finish:
            raise Unavailable(
                "the answer broke off", code="stream_ended", hint="ask again; `allod up` shows the reason"
            )
        return ClientAnswer("".join(texts), finish, response.headers["x-allod-receipt"], sent, usage)

    def bundle(self, answer: ClientAnswer) -> bytes:
        """The answer's bundle with everything that opens it."""
        bundle = json.loads(self._get(f"/v1/receipts/{answer.receipt_id}"))
        bundle["opening"]["request"] = answer.request_body
        bundle["opening"]["answer"] = chat_answer(answer.text).decode()
        return json.dumps(bundle, ensure_ascii=False).encode()

    def read(self, path: str) -> Any:
        """What the gateway says there."""
        return json.loads(self._get(path))

    def change(self, path: str, wanted: dict[str, Any]) -> Any:
        """What the gateway says of what it was asked to do there."""
        return json.loads(self._request("POST", path, json.dumps(wanted).encode()).read())

    def close(self) -> None:
        self._connection.close()

    def _get(self, path: str) -> bytes:
        return self._request("GET", path, None).read()

    def _request(self, method: str, path: str, body: bytes | None) -> http.client.HTTPResponse:
        try:
            self._connection.request(method, path, body, self._headers)
            response = self._connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            raise Unavailable(f"the gateway does not answer: {error}", code="gateway_lost") from error
        if response.status != 200:
            raise _error(json.loads(response.read())["error"], response.status, response.headers["retry-after"])
        return response


def _events(response: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
    try:
        for line in response:
            if line.startswith(b"data: {"):
                yield json.loads(line[6:])
    except (OSError, http.client.HTTPException) as error:
        raise Unavailable(f"the gateway went away: {error}", code="gateway_lost") from error


def _error(error: dict[str, Any], status: int, retry_after: str | None = None) -> AllodError:
    """`retry_after` is the header's seconds."""
    kind: type[AllodError] = Unavailable if status >= 429 else Denied if status in (401, 403) else Invalid
    hint = f"try again in {retry_after} s" if retry_after else None
    return kind(error["message"], code=error["code"], param=error.get("param"), hint=hint)


@contextmanager
def find_or_start_gateway(settings: Settings) -> Iterator[str]:
    """The URL of this realm's gateway; of one started for the call, and known to nobody else, where none runs."""
    home = Home(settings.home)
    if url := find_gateway(home):
        yield url
        return
    print("starting a gateway for this call (`allod up` keeps one running)", file=sys.stderr)
    if not is_at_hand(settings):
        get_model(settings)
    alone = replace(settings, server=replace(settings.server, port=0), model=replace(settings.model, replicas=1))
    command = gateway_command(alone)
    log = home.path / "gateway.log"
    with log.open("wb") as output:
        process = subprocess.Popen([*command, "--private"], stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        yield _wait_until_ready(log, process)
    finally:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_ready(log: Path, process: subprocess.Popen[bytes]) -> str:
    """The URL that the gateway says it answers at. Raises Unavailable with the reason when it ends instead."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        has_ended = process.poll() is not None
        text = log.read_text(errors="replace")
        for line in text.splitlines():
            if line.startswith("ready http"):
                return line.removeprefix("ready ")
        if has_ended:
            message, _, hint = text.strip().rpartition("error: ")[2].partition("\nhint: ")
            why = f"the gateway did not start: {message or 'it left no reason'}"
            raise Unavailable(why, code="gateway_not_started", hint=hint or None)
        time.sleep(0.05)
    raise Unavailable(f"the gateway was not ready in {START_TIMEOUT_S} s", code="gateway_not_started")
