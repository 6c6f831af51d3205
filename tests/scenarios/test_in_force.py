"""A change has returned only when it is in force: no sleep stands between a key's making, or its end, and its use."""

from __future__ import annotations

import http.client
import json
import urllib.parse
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from tests.conftest import Gateway

NUM_ROUNDS = 50


class Front:
    """One connection to a gateway's front door."""

    def __init__(self, gateway: Gateway) -> None:
        where = urllib.parse.urlsplit(gateway.url)
        self._connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=30)
        self._admin = (gateway.home / "admin.key").read_text().strip()

    def ask(self, method: str, path: str, body: Any = None, key: str | None = None) -> tuple[int, Any]:
        headers = {"authorization": f"Bearer {key or self._admin}"}
        self._connection.request(method, path, None if body is None else json.dumps(body), headers)
        response = self._connection.getresponse()
        return response.status, json.loads(response.read())

    def change(self, method: str, path: str, body: Any = None) -> Any:
        status, said = self.ask(method, f"/v1/organization/{path}", body)
        assert status == 200, said
        return said

    def opens(self, key: str) -> bool:
        return self.ask("GET", "/v1/models", key=key)[0] == 200

    def close(self) -> None:
        self._connection.close()


@pytest.fixture
def front(gateway: Gateway) -> Iterator[Front]:
    with closing(Front(gateway)) as made:
        yield made


def test_a_service_accounts_key_opens_when_it_is_made_and_not_when_it_is_ended(front: Front) -> None:
    """Fifty times: one key through its account's making, another beside it, each ended in its own way."""
    project = front.change("POST", "projects", {"name": "In force at once"})["id"]
    for number in range(NUM_ROUNDS):
        accounts = f"projects/{project}/service_accounts"
        account = front.change("POST", accounts, {"name": f"program {number}"})
        first = account["api_key"]["value"]
        assert front.opens(first)
        second = front.change("POST", f"{accounts}/{account['id']}/api_keys", {"name": "second"})
        assert front.opens(second["value"])
        front.change("DELETE", f"projects/{project}/api_keys/{second['id']}")
        assert not front.opens(second["value"])
        front.change("DELETE", f"{accounts}/{account['id']}")
        assert not front.opens(first)


def test_an_admin_key_and_a_projects_end_are_in_force_at_once(front: Front) -> None:
    """The same for administration, and for all the keys of a project that is archived."""
    for number in range(NUM_ROUNDS):
        made = front.change("POST", "admin_api_keys", {"name": f"admin {number}"})
        assert front.ask("GET", "/v1/organization/projects", key=made["value"])[0] == 200
        front.change("DELETE", f"admin_api_keys/{made['id']}")
        assert front.ask("GET", "/v1/organization/projects", key=made["value"])[0] == 401
    project = front.change("POST", "projects", {"name": "Ends at once"})["id"]
    key = front.change("POST", f"projects/{project}/service_accounts", {"name": "program"})["api_key"]["value"]
    front.change("POST", f"projects/{project}/archive", {})
    assert not front.opens(key)


def test_the_command_lines_keys_are_in_force_when_it_has_ended(gateway: Gateway, front: Front) -> None:
    """It is another process, and asks the gateway that runs here to take up what it wrote."""
    for number in range(3):
        made = json.loads(gateway.allod("key", "add", "--name", f"key {number}", "--json").stdout)
        assert front.opens(made["value"])
        assert gateway.allod("key", "revoke", made["id"]).returncode == 0
        assert not front.opens(made["value"])


def test_a_key_is_told_of_the_models_that_it_may_use(front: Front) -> None:
    """No list, look-up or error names the others; a model outside its scope is looked up as one that there is not."""
    project = front.change("POST", "projects", {"name": "Other models"})["id"]
    terms = {"name": "program", "allod": {"scope": {"models": ["another"]}}}
    key = front.change("POST", f"projects/{project}/service_accounts", terms)["api_key"]["value"]
    assert front.ask("GET", "/v1/models", key=key)[1]["data"] == []
    assert front.ask("GET", "/v1/models/echo", key=key)[0] == 404
    body = {"model": "nothing", "messages": [{"role": "user", "content": "x"}]}
    status, said = front.ask("POST", "/v1/chat/completions", body, key=key)
    assert status == 404
    assert "echo" not in json.dumps(said)
