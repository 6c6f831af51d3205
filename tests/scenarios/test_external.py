"""A gateway that serves a model from somebody's server: what policy permits it, and what its receipts say."""

from __future__ import annotations

import http.client
import json
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import Gateway, run_gateway
from tests.contracts.external import write_gateway


@pytest.fixture(scope="module")
def far(tmp_path_factory: pytest.TempPathFactory, gateway: Gateway) -> Iterator[Gateway]:
    """A gateway at a site that may handle SECRET, whose model is served from another gateway in Wales."""
    home: Path = tmp_path_factory.mktemp("far-home")
    write_gateway(home, gateway, licence="Apache-2.0", country="GB")
    with (home / "allod.toml").open("a") as settings:
        settings.write('[realm]\nsite = "here"\njurisdiction = "GB"\ntier = "SECRET"\n')
    with run_gateway(home, "far") as running:
        yield running


def asked(gateway: Gateway, path: str, body: Any = None, **headers: str) -> tuple[int, Any, str]:
    """The status, the body and the receipt's id."""
    where = urllib.parse.urlsplit(gateway.url)
    connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=30)
    try:
        connection.request("POST" if body else "GET", path, json.dumps(body), {**gateway.headers, **headers})
        response = connection.getresponse()
        return response.status, json.loads(response.read()), response.getheader("x-allod-receipt") or ""
    finally:
        connection.close()


def chat(gateway: Gateway, **headers: str) -> tuple[int, Any, dict[str, Any]]:
    """The status, the answer, and what its receipt says."""
    messages = [{"role": "user", "content": "Where is Cardiff?"}]
    path, body = "/v1/chat/completions", {"model": "far", "messages": messages}
    status, answer, receipt = asked(gateway, path, body, **headers)
    found, bundle, _ = asked(gateway, f"/v1/receipts/{receipt}")
    assert found == 200, bundle
    return status, answer, json.loads(bundle["statement"])["predicate"]


def test_an_answer_names_where_it_was_made_and_no_seal(far: Gateway) -> None:
    """The engine's kind, the place of the settings, and no promise."""
    status, answer, said = chat(far)
    assert status == 200, answer
    assert (answer["choices"][0]["message"]["content"], answer["model"]) == ("Where is Cardiff?", "far")
    assert said["seal"] == {"kind": "none", "proof": None}
    assert (said["engine"]["name"], said["engine"]["replay"]) == ("external", "none")
    assert said["site"] == {"id": "far", "jurisdiction": "GB-WLS"}
    assert (said["model"]["name"], said["model"]["template"]) == ("far", None)


@pytest.mark.parametrize(
    ("label", "rules"),
    [
        ({"x-allod-tier": "SECRET"}, {"above-accreditation", "needs-a-sealed-engine"}),
        ({"x-allod-markings": "SENSITIVE"}, {"needs-a-sealed-engine"}),
    ],
)
def test_nothing_above_the_lowest_tier_is_permitted_it(far: Gateway, label: dict[str, str], rules: set[str]) -> None:
    """By the policy that a realm has by default, though its own site may handle more; a receipt tells of it."""
    status, answer, said = chat(far, **label)
    assert (status, answer["error"]["code"]) == (403, "policy_denied")
    assert (said["policy"]["decision"], rules <= set(said["policy"]["rules"])) == ("forbid", True)


def test_the_seal_that_is_shown_is_none(far: Gateway) -> None:
    """No rows of evidence: nobody can look."""
    status, seal, _ = asked(far, "/v1/seal?model=far")
    assert status == 200, seal
    assert (seal["kind"], seal["proof"], seal["rows"]) == ("none", None, [])
