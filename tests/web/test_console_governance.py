"""The console's pages for governance in a real browser: shares, policy, audit, and the key that they need."""

from __future__ import annotations

import json
import re
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest
from tests.conftest import Gateway, run_gateway
from tests.web.browsing import IN_A_BROWSER, Visit, expect

pytestmark = IN_A_BROWSER

TOP_SECRET_REASON = "The request is classified higher than this site is accredited for."


@dataclass
class Office:
    """A gateway with its administrator, for tests that need tenants of their own."""

    gateway: Gateway
    admin_key: str

    def send(self, path: str, body: Any, *, key: str | None = None, tier: str = "") -> Any:
        """POST as the administrator, or with another key; the answer, which may be an error's."""
        headers = {"authorization": f"Bearer {key or self.admin_key}", **({"x-allod-tier": tier} if tier else {})}
        request = urllib.request.Request(f"{self.gateway.url}{path}", json.dumps(body).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=20) as response:
                return json.load(response)
        except HTTPError as error:
            return json.load(error)

    def tenant(self, name: str, **terms: Any) -> tuple[str, str]:
        """A new tenant's id, and a key of it that has asked once."""
        project = self.send("/v1/organization/projects", {"name": name, "allod": terms})
        account = self.send(f"/v1/organization/projects/{project['id']}/service_accounts", {"name": "desk"})
        key = account["api_key"]["value"]
        for _ in range(100):
            if "usage" in self.ask(key, "one"):
                return project["id"], key
            time.sleep(0.05)
        raise AssertionError("the key does not work within five seconds")

    def ask(self, key: str, text: str, *, tier: str = "") -> Any:
        body = {"model": "echo", "messages": [{"role": "user", "content": text}], "max_tokens": 50}
        return self.send("/v1/chat/completions", body, key=key, tier=tier)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """One for this module: its log and its tenants are counted here."""
    with run_gateway(tmp_path_factory.mktemp("governed-home"), "echo") as running:
        yield running


@pytest.fixture(scope="module")
def office(gateway: Gateway) -> Office:
    return Office(gateway, (gateway.home / "admin.key").read_text().strip())


def card(visit: Visit, name: str) -> Any:
    return visit.page.locator(".tenant", has=visit.page.get_by_role("heading", name=name, exact=True))


def entries(visit: Visit, text: str) -> Any:
    return visit.page.locator(".entry", has_text=text)


def change(visit: Visit, path: str, alter: Callable[[Any], None]) -> None:
    """Let answers from `path` reach the page altered."""

    def handle(route: Any) -> None:
        answer = route.fetch().json()
        alter(answer)
        route.fulfill(json=answer)

    visit.page.route(re.compile(re.escape(path)), handle)


# Which key


@pytest.mark.parametrize("title", ["Tenants", "Policy", "Audit"])
def test_a_key_for_use_is_told_that_an_admin_key_is_needed(visit: Visit, title: str) -> None:
    """In words, at the field; the chat goes on."""
    visit.enter()
    visit.page.get_by_role("link", name=title).click()
    field = visit.page.get_by_label("Admin key", exact=True)
    expect(field).to_be_focused()
    field.fill(visit.key)
    visit.page.get_by_role("button", name="Open").click()
    told = visit.page.get_by_role("alert").filter(has_text="This is a key for use, which opens the chat.")
    expect(told).to_contain_text("Missing is the admin key: the text in the file admin.key.")
    visit.page.get_by_role("link", name="Chat").click()
    expect(visit.ask().get_by_text("Verified in this browser")).to_be_visible()


def test_an_admin_key_is_told_that_a_key_for_use_is_needed(visit: Visit, office: Office) -> None:
    """The same the other way round; and nothing of the admin key stays in the browser."""
    visit.page.goto(visit.origin + "/")
    visit.page.get_by_label("Key", exact=True).fill(office.admin_key)
    visit.page.get_by_role("button", name="Open").click()
    expect(visit.page.get_by_role("alert").filter(has_text="Missing is a key for use")).to_be_visible()
    assert visit.page.evaluate("sessionStorage.length") == 0


def test_the_admin_key_is_kept_in_memory_only(visit: Visit, office: Office) -> None:
    """One entry opens all three pages; a reload asks for it again, and the chat still has its own key."""
    visit.enter()
    visit.open("Tenants", office.admin_key)
    for title in ("Policy", "Audit"):
        visit.page.get_by_role("link", name=title).click()
        expect(visit.page.get_by_role("heading", name=title, exact=True)).to_be_visible()
    stored = visit.page.evaluate("JSON.stringify([{ ...sessionStorage }, { ...localStorage }, document.cookie])")
    assert office.admin_key not in stored
    visit.page.reload()
    expect(visit.page.get_by_label("Admin key", exact=True)).to_be_focused()
    visit.page.get_by_role("link", name="Chat").click()
    expect(visit.page.get_by_label("Your question")).to_be_visible()


def test_an_admin_key_that_ends_is_asked_for_again(visit: Visit, office: Office) -> None:
    """Revoked while the page is open: back to the field with the reason, and the chat's key is untouched."""
    made = office.send("/v1/organization/admin_api_keys", {"name": "auditor"})
    time.sleep(1)
    visit.enter()
    visit.open("Tenants", made["value"])
    request = urllib.request.Request(
        f"{visit.origin}/v1/organization/admin_api_keys/{made['id']}",
        headers={"authorization": f"Bearer {office.admin_key}"},
        method="DELETE",
    )
    urllib.request.urlopen(request, timeout=20).close()
    expect(visit.page.get_by_role("alert").filter(has_text="no longer takes this key")).to_be_visible()
    expect(visit.page.get_by_label("Admin key", exact=True)).to_be_focused()
    assert visit.page.evaluate("sessionStorage.length") == 1


# Tenants


def test_shares_move_when_a_tenant_asks(visit: Visit, office: Office) -> None:
    """Within seconds, without a reload: what it had, what it used today, and how much of its limits that is."""
    _, key = office.tenant("Reading room", weight=3, budgets={"day": {"tokens": 1000}})
    visit.open("Tenants", office.admin_key)
    room = card(visit, "Reading room")
    expect(room).to_contain_text("weight 3")
    expect(room).to_contain_text("Used today: 1 answer and 2 tokens (1 read, 1 written)")
    expect(room).to_contain_text("2 of 1,000, under 1 %")
    assert office.ask(key, "word " * 450)["usage"]["prompt_tokens"] == 450
    # An engine that needed a millisecond is charged it, and then it is said, too.
    expect(room).to_contain_text(re.compile(r"2 answers(,| and) 502 tokens \(451 read, 51 written\)"))
    expect(room).to_contain_text("502 of 1,000, 50 %")
    expect(room).to_contain_text("100 % of the work done")


def test_a_limit_that_is_reached_is_said_in_words(visit: Visit, office: Office) -> None:
    """Not by the bar's colour alone; and an own limit stands beside that of all tenants together."""
    tenant_id, _ = office.tenant("Small desk", quota={"concurrent": 2})
    office.send(f"/v1/organization/projects/{tenant_id}", {"allod": {"budgets": {"day": {"tokens": 2}}}})
    office.send("/v1/organization/spend_limit", {"currency": "GBP", "interval": "month", "threshold_amount": 500})
    visit.open("Tenants", office.admin_key)
    expect(card(visit, "Small desk")).to_contain_text("2 of 2, 100 % ✗ reached")
    expect(card(visit, "Small desk")).to_contain_text("Requests at a time0 of 2, 0 %")
    expect(card(visit, "All tenants together")).to_contain_text("£0.00 of £5.00, 0 %")


def test_a_busy_engine_is_shown_by_tenant(visit: Visit, office: Office) -> None:
    """Who runs, who waits, and what is due to each."""

    def busy(answer: Any) -> None:
        only = answer["data"][0]
        heavy = {**only, "id": "heavy", "name": "Heavy", "num_running": 3, "num_waiting": 40, "share": 0.5, "weight": 2}
        light = {
            **only,
            "id": "light",
            "name": "Light",
            "num_running": 1,
            "num_waiting": 0,
            "share": 0.5,
            "priority": 1,
        }
        answer.update(data=[heavy, light], num_tenants=10_000)

    change(visit, "/v1/governance/shares", busy)
    visit.open("Tenants", office.admin_key)
    expect(visit.page.get_by_text("The engine works on 4 requests, 40 wait. It works on up to 4")).to_be_visible()
    expect(card(visit, "Heavy")).to_contain_text("3 running, 40 waiting · weight 2")
    expect(card(visit, "Heavy")).to_contain_text("50 % of the work")
    expect(card(visit, "Light")).to_contain_text("batch: after the others")
    expect(visit.page.get_by_text("Shown are 2 of 10,000 tenants")).to_be_visible()


def test_shares_are_read_only_while_somebody_looks(visit: Visit, office: Office) -> None:
    """A hidden tab, and another page, ask the gateway for nothing."""
    asked: list[str] = []

    def note(request: Any) -> None:
        if "/governance/shares" in request.url:
            asked.append(request.url)

    visit.page.on("request", note)
    visit.open("Tenants", office.admin_key)
    expect(visit.page.get_by_text("Read at")).to_be_visible()
    visit.page.evaluate("Object.defineProperty(document, 'hidden', { get: () => window.isHidden ?? false })")
    visit.page.evaluate("window.isHidden = true")
    visit.page.wait_for_timeout(500)
    before = len(asked)
    visit.page.wait_for_timeout(3500)
    assert len(asked) == before
    visit.page.evaluate("window.isHidden = false")
    visit.page.wait_for_timeout(3500)
    assert len(asked) > before
    visit.page.get_by_role("link", name="Audit").click()
    visit.page.wait_for_timeout(500)
    before = len(asked)
    visit.page.wait_for_timeout(3500)
    assert len(asked) == before


# Policy


def test_each_rule_stands_in_words_beside_its_text(visit: Visit, office: Office) -> None:
    """With the version in force, since when and by whom, and what the check found."""
    visit.open("Policy", office.admin_key)
    rules = visit.page.get_by_role("region", name="The rules").get_by_role("listitem")
    expect(rules).to_have_count(7)
    rule = rules.filter(has_text="above-accreditation")
    expect(rule).to_contain_text(TOP_SECRET_REASON)
    expect(rule.locator("pre")).to_contain_text("context.label.rank > context.site.accredited.rank")
    expect(visit.page.get_by_text("In force: version 1")).to_be_visible()
    expect(
        visit.page.get_by_role("row", name=re.compile("Version 1 .*Allod itself, when it first started"))
    ).to_be_visible()
    expect(visit.page.get_by_text("Nothing found that nobody can have meant")).to_be_visible(timeout=30_000)


def test_explain_shows_the_rule_for_top_secret(visit: Visit, office: Office) -> None:
    """The decision, the rule in words and as text, and what would have to change; OFFICIAL would be permitted."""
    visit.open("Policy", office.admin_key)
    answer = visit.page.locator("#explained")
    visit.page.get_by_label("How sensitive it is").select_option("TOP SECRET")
    visit.page.get_by_role("button", name="Ask why").click()
    expect(answer).to_contain_text("It would be refused")
    expect(answer.get_by_role("listitem").filter(has_text="above-accreditation")).to_contain_text(TOP_SECRET_REASON)
    expect(answer).to_contain_text("A sealed engine and a site accredited for TOP SECRET")
    visit.page.get_by_label("How sensitive it is").select_option("OFFICIAL")
    visit.page.get_by_role("button", name="Ask why").click()
    expect(answer).to_contain_text("It would be permitted")
    visit.page.get_by_label("UK EYES ONLY", exact=False).first.check()
    visit.page.get_by_role("button", name="Ask why").click()
    expect(answer).to_contain_text("Places")
    expect(answer).to_contain_text("outside-jurisdiction")


def test_a_policy_that_cannot_be_relied_on_is_not_shown(visit: Visit, office: Office) -> None:
    """Fail closed, in words: the reason, and that nothing is permitted meanwhile."""
    error = {"message": "no policy can be relied on: the log is damaged", "code": "policy_unavailable"}
    visit.page.route("**/v1/governance/policy?*", lambda route: route.fulfill(status=503, json={"error": error}))
    visit.open("Policy", office.admin_key)
    told = visit.page.get_by_role("alert").filter(has_text="the log is damaged")
    expect(told).to_contain_text("nothing is permitted")
    expect(visit.page.get_by_text("In force")).to_have_count(0)


# Audit


def test_audit_shows_a_created_key_and_a_refusal_whose_receipt_verifies(visit: Visit, office: Office) -> None:
    """Both in one list, in words; the receipt is checked in the browser and stays closed to the administrator."""
    _, key = office.tenant("Cellar")
    office.ask(key, "a question that must not be seen", tier="TOP SECRET")
    visit.open("Audit", office.admin_key)
    expect(entries(visit, "Key created").first).to_contain_text("By the key in admin.key, for Cellar")
    refusal = entries(visit, "Refused by policy").first
    expect(refusal).to_contain_text(TOP_SECRET_REASON)
    expect(refusal).to_contain_text("TOP SECRET Cellar")
    refusal.get_by_text("Receipt", exact=True).click()
    expect(refusal.get_by_text("Receipt verified in this browser")).to_be_visible()
    refusal.get_by_text("6 of 7 steps passed").click()
    expect(refusal.get_by_text("left out: the texts stay closed")).to_be_visible()
    expect(refusal).to_contain_text("refused one question")
    assert "must not be seen" not in visit.page.content()
    with visit.page.expect_download() as caught:
        refusal.get_by_role("button", name="Download receipt").click()
    assert "opening" not in json.loads(Path(caught.value.path()).read_text())


def test_filters_and_older_entries(visit: Visit, office: Office) -> None:
    """One tenant's answers, page by page, each once and newest first; then what administrators did to it."""
    _, key = office.tenant("Archive")
    for number in range(24):
        office.ask(key, "word " * (number + 1))
    visit.open("Audit", office.admin_key)
    visit.page.get_by_label("Tenant", exact=True).select_option(label="Archive")
    visit.page.get_by_label("Show", exact=True).select_option(label="Answers")
    shown = visit.page.locator(".entry")
    expect(shown).to_have_count(20)
    visit.page.get_by_role("button", name="Show older entries").click()
    expect(shown).to_have_count(25)
    counts = [int(re.search(r"(\d+) tokens? in", text)[1]) for text in shown.all_inner_texts()]  # type: ignore[index]
    assert counts == [*range(24, 0, -1), 1]
    visit.page.get_by_label("Show", exact=True).select_option(label="Refusals")
    expect(visit.page.get_by_text("There is nothing of that kind.")).to_be_visible()
    visit.page.get_by_label("Show", exact=True).select_option(label="Administration")
    expect(shown).to_have_count(3)
    expect(shown.last).to_contain_text("Tenant created")
    shown.last.get_by_text("Details").click()
    expect(shown.last).to_contain_text("project.created")


def test_a_tampered_receipt_is_not_called_verified(visit: Visit, office: Office) -> None:
    """The step that failed is named, also where the text stays closed."""
    office.ask(visit.key, "anything")
    change(
        visit, "/v1/receipts/", lambda bundle: bundle.update(statement=bundle["statement"].replace("permit", "forbid"))
    )
    visit.open("Audit", office.admin_key)
    visit.page.get_by_label("Show", exact=True).select_option(label="Answers")
    entry = visit.page.locator(".entry").first
    entry.get_by_text("Receipt", exact=True).click()
    expect(entry.get_by_text("Not verified: step 4, inclusion")).to_be_visible()
    expect(entry.get_by_text("Receipt verified")).to_have_count(0)


# All pages


def test_governance_by_keyboard(visit: Visit, office: Office) -> None:
    """The key, why a request is refused, and a receipt, without a mouse."""
    page = visit.page
    office.ask(visit.key, "anything")
    page.goto(visit.origin + "/#policy")
    expect(page.get_by_label("Admin key", exact=True)).to_be_focused()
    page.keyboard.type(office.admin_key)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Policy", exact=True)).to_be_focused()
    page.get_by_label("How sensitive it is").focus()
    page.keyboard.type("TOP")
    page.get_by_role("button", name="Ask why").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#explained")).to_contain_text("It would be refused")
    expect(page.locator("#status")).to_have_text("It would be refused.")
    page.get_by_role("link", name="Audit").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Audit", exact=True)).to_be_focused()
    page.get_by_label("Show", exact=True).focus()
    page.keyboard.type("Answers")
    expect(entries(visit, "Tenant created")).to_have_count(0)
    page.locator(".entry summary").first.focus()
    page.keyboard.press("Enter")
    expect(page.locator(".entry").first.get_by_text("Receipt verified in this browser")).to_be_visible()


def test_a_visit_is_quiet_and_asks_one_origin(visit: Visit, office: Office) -> None:
    """All three pages: no message, no breach of the content security policy, no other address."""
    office.ask(visit.key, "anything")
    visit.open("Tenants", office.admin_key)
    expect(card(visit, "This machine")).to_be_visible()
    visit.page.get_by_role("link", name="Policy").click()
    visit.page.get_by_role("button", name="Ask why").click()
    expect(visit.page.locator("#explained .notice")).to_be_visible()
    visit.page.get_by_role("link", name="Audit").click()
    visit.page.locator(".entry summary").first.click()
    expect(visit.page.locator(".entry").first).to_contain_text(re.compile("verified|Event"))
    assert visit.messages == []
    assert visit.foreign == []


def test_narrow_screens_scroll_one_way_only(visit_with: Callable[..., Visit], office: Office) -> None:
    """At 320 pixels no page for governance is wider than the screen, whatever names tenants have."""
    _, key = office.tenant("Unbreakable" * 12, quota={"requests_per_minute": 100})
    office.ask(key, "anything", tier="SECRET")
    visit = visit_with(viewport={"width": 320, "height": 640})
    visit.open("Tenants", office.admin_key)
    expect(visit.page.locator("#tenant-list .tenant").first).to_be_visible()
    assert visit.width_needed() == 320
    visit.page.get_by_role("link", name="Policy").click()
    visit.page.get_by_label("How sensitive it is").select_option("SECRET")
    visit.page.get_by_role("button", name="Ask why").click()
    expect(visit.page.locator("#explained .notice")).to_be_visible()
    assert visit.width_needed() == 320
    visit.page.get_by_role("link", name="Audit").click()
    for entry in (entries(visit, "Refused").first, entries(visit, "Tenant created").first):
        entry.locator("summary").first.click()
    expect(entries(visit, "Receipt verified in this browser")).to_have_count(1)
    visit.page.get_by_text("steps passed").click()
    assert visit.width_needed() == 320


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(visit_with: Callable[..., Visit], office: Office, axe: str, scheme: str) -> None:
    """No page for governance, in its good and its bad states, breaks a rule that axe-core can see."""
    office.ask(visit_with().key, "anything", tier="SECRET")
    visit = visit_with(color_scheme=scheme, bypass_csp=True)
    page = visit.page
    page.goto(visit.origin + "/#tenants")
    page.get_by_label("Admin key", exact=True).fill(visit.key)
    page.get_by_role("button", name="Open").click()
    expect(page.get_by_text("Missing is the admin key")).to_be_visible()
    assert visit.broken_rules(axe) == [], "key needed"
    visit.open("Tenants", office.admin_key)
    expect(page.locator("#tenant-list .tenant").first).to_be_visible()
    assert visit.broken_rules(axe) == [], "tenants"
    page.get_by_role("link", name="Policy").click()
    page.get_by_label("How sensitive it is").select_option("SECRET")
    page.get_by_role("button", name="Ask why").click()
    expect(page.locator("#explained .notice")).to_be_visible()
    expect(page.get_by_text("made-up questions")).to_be_visible(timeout=30_000)
    assert visit.broken_rules(axe) == [], "policy"
    page.get_by_role("link", name="Audit").click()
    refusal = entries(visit, "Refused").first
    refusal.locator("summary").first.click()
    refusal.get_by_text("6 of 7 steps passed").click()
    entries(visit, "created").first.locator("summary").first.click()
    assert visit.broken_rules(axe) == [], "audit"
    page.route("**/v1/governance/shares?*", lambda route: route.fulfill(status=503, json={}))
    page.get_by_role("link", name="Tenants").click()
    expect(page.get_by_text("The shares cannot be read")).to_be_visible()
    assert visit.broken_rules(axe) == [], "no shares"
