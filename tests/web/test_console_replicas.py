"""The console's page of replicas in a real browser, over real engines: what it shows, and what is done to one."""

from __future__ import annotations

import json
import re
import time
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.conftest import Gateway, run_gateway
from tests.serve.tiny_model import write_tiny_model
from tests.web.browsing import IN_A_BROWSER, Visit, expect

pytestmark = [*IN_A_BROWSER, pytest.mark.slow]
PATH = "/v1/governance/replicas"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """With two replicas that are up."""
    folder = tmp_path_factory.mktemp("replicas-page")
    model = write_tiny_model(folder / "tiny.gguf", template="{% for m in messages %}{{ m['content'] }}{% endfor %}")
    with run_gateway(folder / "home", str(model), "--replicas=2") as running:
        for _ in range(100):
            if [row["state"] for row in rows_of(running)] == ["up", "up"]:
                break
            time.sleep(0.1)
        yield running


@pytest.fixture
def admin_key(gateway: Gateway) -> str:
    return admin_key_of(gateway)


def admin_key_of(gateway: Gateway) -> str:
    return (gateway.home / "admin.key").read_text().strip()


def send(gateway: Gateway, path: str, body: Any = None) -> Any:
    headers = {"authorization": f"Bearer {admin_key_of(gateway)}"}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(gateway.url.rstrip("/") + path, data, headers)
    with urllib.request.urlopen(request, timeout=30) as response:
        return json.load(response)


def rows_of(gateway: Gateway) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = send(gateway, PATH)["data"]
    return rows


def card(visit: Visit, number: int) -> Any:
    return visit.page.get_by_role("list", name="Replicas").get_by_role("listitem").nth(number - 1)


def test_each_replica_says_how_it_is(visit: Visit, gateway: Gateway, admin_key: str) -> None:
    """State in words beside a sign, its evidence in full, and how it answers once it has."""
    visit.open("Replicas", admin_key)
    expect(visit.page.get_by_text("2 of 2 replicas are asked. They work on 0 requests.")).to_be_visible()
    for number, row in enumerate(rows_of(gateway), start=1):
        shown = card(visit, number)
        expect(shown.get_by_role("heading")).to_have_text(f"tiny, replica {number}")
        expect(shown).to_contain_text("✓ up")
        expect(shown).to_contain_text(row["seal_proof"])
        expect(shown).to_contain_text(f"Process{row['pid']}")
        expect(shown).to_contain_text("Sealsealed")
    send(gateway, PATH, {"model": "tiny", "replica": 2, "action": "drain"})
    expect(card(visit, 2)).to_contain_text("– draining")
    expect(card(visit, 1)).to_contain_text("First tokennot measured")
    visit.enter()
    visit.ask("hello")
    for _ in range(100):
        if rows_of(gateway)[0]["pace"]["first_token_ms_p50"] is not None:
            break
        time.sleep(0.1)
    visit.page.reload()
    visit.open("Replicas", admin_key)
    expect(card(visit, 1)).to_contain_text("1 answered, 0 failed")
    expect(card(visit, 1)).to_contain_text(re.compile("First tokenhalf within"))
    expect(card(visit, 2)).to_contain_text("First tokennot measured")
    expect(card(visit, 2)).to_contain_text("Why: an administrator asked for it")
    send(gateway, PATH, {"model": "tiny", "replica": 2, "action": "resume"})
    expect(card(visit, 2)).to_contain_text("✓ up")
    assert (visit.messages, visit.foreign) == ([], [])


def test_one_is_drained_resumed_and_restarted_by_keyboard(visit: Visit, gateway: Gateway, admin_key: str) -> None:
    """The button keeps the place and changes its word; a restart is asked for twice, and Escape leaves it."""
    page = visit.page
    visit.open("Replicas", admin_key)
    page.get_by_role("button", name="Drain: tiny, replica 1").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Resume: tiny, replica 1")).to_be_focused()
    expect(page.locator("#status")).to_have_text("tiny, replica 1 is drained: it is sent nothing new.")
    assert [row["state"] for row in rows_of(gateway)] == ["draining", "up"]
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Drain: tiny, replica 1")).to_be_focused()
    assert [row["state"] for row in rows_of(gateway)] == ["up", "up"]

    before = rows_of(gateway)[0]
    restart = page.get_by_role("button", name="Restart: tiny, replica 1")
    restart.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog", name="Start tiny, replica 1 again?")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(restart).to_be_focused()
    assert rows_of(gateway)[0]["pid"] == before["pid"]
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Start it again").focus()
    page.keyboard.press("Enter")
    expect(card(visit, 1)).to_contain_text(f"came up {before['num_starts'] + 1} times", timeout=30_000)
    expect(card(visit, 1)).to_contain_text("✓ up")
    expect(card(visit, 1)).not_to_contain_text(before["seal_proof"])
    page.get_by_role("link", name="Audit").click()
    expect(page.locator(".entry", has_text="Replica drained, to be started again")).to_contain_text("admin.key")


def test_what_the_gateway_refuses_is_said_in_words(visit: Visit, gateway: Gateway, admin_key: str) -> None:
    """At the replica that it concerns; nothing else changes, and the page goes on."""
    visit.open("Replicas", admin_key)
    card(visit, 1).get_by_role("button", name="Drain").click()
    expect(card(visit, 1)).to_contain_text("– draining")
    card(visit, 2).get_by_role("button", name="Drain").click()
    told = card(visit, 2).get_by_role("alert")
    expect(told).to_contain_text("The gateway did not drain it: replica 2 is the last that answers")
    assert rows_of(gateway)[1]["state"] == "up"
    card(visit, 1).get_by_role("button", name="Resume").click()
    expect(card(visit, 1)).to_contain_text("✓ up")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_and_narrow_screens_fit(
    visit_with: Callable[..., Visit], gateway: Gateway, admin_key: str, axe: str, scheme: str
) -> None:
    """In every state that there is, with the question open, and where nothing can be read."""
    visit = visit_with(color_scheme=scheme, bypass_csp=True, viewport={"width": 320, "height": 640})
    (row, _) = rows_of(gateway)
    states = ["up", "suspect", "draining", "starting", "down"]
    long = {"model": "unbreakable" * 12, "site": "a site", "why": "because " * 20}
    rows = [{**row, **long, "replica": number, "state": state} for number, state in enumerate(states, start=1)]
    visit.page.route(f"**{PATH}", lambda route: route.fulfill(json={"object": "list", "data": rows}))
    visit.open("Replicas", admin_key)
    expect(card(visit, 5)).to_contain_text("✗ down")
    assert visit.broken_rules(axe) == [], "states"
    assert visit.width_needed() == 320
    card(visit, 1).get_by_role("button", name="Restart").click()
    expect(visit.page.get_by_role("dialog")).to_be_visible()
    assert visit.broken_rules(axe) == [], "question"
    error = {"error": {"message": "out of order", "code": "x"}}
    visit.page.route(f"**{PATH}", lambda route: route.fulfill(status=503, json=error))
    expect(visit.page.get_by_role("alert").filter(has_text="The replicas cannot be read: out of order")).to_be_visible()
    assert visit.broken_rules(axe) == [], "no replicas"
