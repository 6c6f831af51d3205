"""The console in a real browser: what a visitor sees, can do by keyboard alone, and must never see."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.web.browsing import IN_A_BROWSER, QUESTION, Visit, expect

from allod.web import static
from allod.web.static import Console

pytestmark = IN_A_BROWSER

SEALED: dict[str, Any] = {
    "kind": "sealed",
    "missing": [],
    "proof": "sha256:" + "5e" * 32,
    "engine": {"name": "llama.cpp", "pid": 4242, "started_ms": 1_770_000_000_000},
    "rows": [
        {"name": "Namespace: net", "value": "its own", "expected": "its own", "ok": True},
        {"name": "Network interfaces", "value": "lo", "expected": "lo", "ok": True},
        {"name": "Bytes over any interface", "value": 0, "expected": 0, "ok": True},
        {"name": "Routes", "value": 0, "expected": 0, "ok": True},
        {"name": "Capabilities", "value": "none", "expected": "none", "ok": True},
    ],
}
UNSEALED = {
    **SEALED,
    "kind": "none",
    "missing": ["network namespace: not permitted here"],
    "rows": [{"name": "Routes", "value": 3, "expected": 0, "ok": False}, *SEALED["rows"][4:]],
}
# Lets the answer's bytes through one event a turn of 60 ms, so that a test can act while an answer is under way.
SLOW_ANSWERS = """
const plainFetch = window.fetch;
window.fetch = async (path, options) => {
  const response = await plainFetch(path, options);
  if (!String(path).includes("chat/completions") || !response.ok) return response;
  const events = (await response.text()).split(/(?<=\\n\\n)/).map((text) => new TextEncoder().encode(text));
  const body = new ReadableStream({
    start(controller) {
      options.signal.addEventListener("abort", () => controller.error(options.signal.reason));
    },
    async pull(controller) {
      await new Promise((resume) => setTimeout(resume, 60));
      if (options.signal.aborted) return;
      const event = events.shift();
      if (event) controller.enqueue(event);
      else controller.close();
    },
  });
  return new Response(body, { headers: response.headers });
};
"""


def test_answer_streams_and_is_verified_in_the_browser(visit: Visit) -> None:
    """After an answer the page shows all seven steps passed, without being asked to."""
    visit.enter()
    answer = visit.ask()
    expect(answer).to_contain_text(QUESTION)
    expect(answer.get_by_text("Verified in this browser")).to_be_visible()
    expect(answer.get_by_text("OFFICIAL", exact=True)).to_be_visible()
    answer.get_by_text("7 of 7 steps passed").click()
    expect(answer.locator(".steps li")).to_have_count(7)
    expect(answer.get_by_text("✓ passed")).to_have_count(7)
    expect(answer).to_contain_text("It is logged, not witnessed")


def test_second_turn_carries_the_first(visit: Visit) -> None:
    """A conversation has memory: the second request holds the first question and its answer."""
    visit.enter()
    expect(visit.ask("first").get_by_text("Verified in this browser")).to_be_visible()
    with visit.page.expect_request("**/v1/chat/completions") as caught:
        visit.ask("second")
    sent = [(message["role"], message["content"]) for message in caught.value.post_data_json["messages"]]
    assert sent == [("user", "first"), ("assistant", "first"), ("user", "second")]


def test_new_conversation_forgets(visit: Visit) -> None:
    """Nothing of the old conversation is shown or sent after `New conversation`."""
    visit.enter()
    expect(visit.ask("first").get_by_text("Verified in this browser")).to_be_visible()
    visit.page.get_by_role("button", name="New conversation").click()
    expect(visit.page.locator(".turn")).to_have_count(0)
    with visit.page.expect_request("**/v1/chat/completions") as caught:
        visit.ask("second")
    assert len(caught.value.post_data_json["messages"]) == 1


def test_awkward_text_still_verifies_and_stays_text(visit: Visit) -> None:
    """Markup is shown as text, code is set apart, and every character reaches the commitment unchanged."""
    visit.enter()
    answer = visit.ask('<img src=x onerror=alert(1)> "quoted" \\ é € 🦉\t\u2028end\n```\n  a < b\n```\nafter')
    expect(answer.get_by_text("Verified in this browser")).to_be_visible()
    expect(answer.locator(".text")).to_contain_text("<img src=x onerror=alert(1)>")
    expect(answer.locator("pre code")).to_have_text("  a < b")
    assert visit.page.locator(".text img").count() == 0


def test_downloaded_receipt_has_its_opening(visit: Visit) -> None:
    """The file that is handed over opens the question and the answer, so that anyone can verify it later."""
    visit.enter()
    answer = visit.ask()
    expect(answer.get_by_text("Verified in this browser")).to_be_visible()
    with visit.page.expect_download() as caught:
        answer.get_by_role("button", name="Download receipt").click()
    bundle = json.loads(Path(caught.value.path()).read_text())
    receipt_id = json.loads(bundle["statement"])["predicate"]["id"]
    assert caught.value.suggested_filename == f"{receipt_id}.receipt.json"
    assert json.loads(bundle["opening"]["request"])["messages"][0]["content"] == QUESTION
    assert json.loads(bundle["opening"]["answer"]) == {"content": QUESTION, "tool_calls": []}


def _with_false_signature(proof: str) -> str:
    """The proof with one character inside its last signature changed."""
    at = len(proof) - 40
    return proof[:at] + ("A" if proof[at] != "A" else "B") + proof[at + 1 :]


@pytest.mark.parametrize(
    ("tamper", "step"),
    [
        (lambda bundle: bundle.update(proof=""), "step 1, bundle"),
        (lambda bundle: bundle.update(proof=_with_false_signature(bundle["proof"])), "step 2, log"),
        (lambda bundle: bundle.update(statement=bundle["statement"].replace("permit", "forbid")), "step 4, inclusion"),
        (lambda bundle: bundle["opening"].update(salt="00" * 32), "step 6, opening"),
    ],
)
def test_tampered_receipt_names_the_step(visit: Visit, tamper: Callable[[Any], None], step: str) -> None:
    """A changed receipt is shown as not verified, with the step, in words."""

    def change(route: Any) -> None:
        bundle = route.fetch().json()
        tamper(bundle)
        route.fulfill(json=bundle)

    visit.page.route("**/v1/receipts/*", change)
    visit.enter()
    answer = visit.ask()
    expect(answer.get_by_text(re.compile(f"Not verified: {step}"))).to_be_visible()
    expect(answer.get_by_text("✗ failed")).to_be_visible()
    expect(answer.get_by_text("Verified in this browser")).to_have_count(0)


def test_changed_answer_does_not_verify(visit: Visit) -> None:
    """An answer altered on its way to the page fails at the opening."""

    def change(route: Any) -> None:
        response = route.fetch()
        route.fulfill(response=response, body=response.text().replace("claimed", "invented"))

    visit.page.route("**/v1/chat/completions", change)
    visit.enter()
    answer = visit.ask()
    expect(answer).to_contain_text("invented")
    expect(answer.get_by_text("Not verified: step 6, opening")).to_be_visible()


def test_wrong_key_is_refused_in_words_and_not_kept(visit: Visit) -> None:
    """A wrong key leaves the visitor at the field, with the reason, and nothing stored."""
    visit.page.goto(visit.origin + "/")
    visit.page.get_by_label("Key", exact=True).fill("wrong")
    visit.page.get_by_role("button", name="Open").click()
    expect(visit.page.get_by_role("alert").filter(has_text="This key is not accepted")).to_be_visible()
    expect(visit.page.get_by_label("Key", exact=True)).to_be_focused()
    assert visit.page.evaluate("sessionStorage.length") == 0


def test_key_that_is_no_longer_taken_is_asked_for_again(visit: Visit) -> None:
    """A key revoked in mid-conversation leads back to the field, and is forgotten."""
    visit.enter()
    visit.answer("/v1/chat/completions", status=401, json={"error": {"message": "this key was revoked"}})
    visit.page.get_by_label("Your question").fill(QUESTION)
    visit.page.get_by_role("button", name="Send").click()
    expect(visit.page.get_by_role("alert").filter(has_text="this key was revoked")).to_be_visible()
    assert visit.page.evaluate("sessionStorage.length") == 0


def test_key_lives_in_the_tab_and_can_be_forgotten(visit: Visit) -> None:
    """A reload keeps the key, `Forget key` removes it, and no other storage is ever used."""
    visit.enter()
    visit.page.reload()
    expect(visit.page.get_by_role("heading", name="Chat")).to_be_visible()
    assert visit.page.evaluate("[sessionStorage.length, localStorage.length, document.cookie]") == [1, 0, ""]
    visit.page.get_by_role("button", name="Forget key").click()
    expect(visit.page.get_by_label("Key", exact=True)).to_be_focused()
    assert visit.page.evaluate("sessionStorage.length") == 0


@pytest.mark.parametrize(
    ("ending", "message"),
    [
        (
            'data: {"error":{"message":"the engine was lost","type":"server_error","code":"engine_lost"}}\n\n',
            "was lost",
        ),
        ("", "broke off before its receipt was complete"),
    ],
)
def test_broken_stream_is_an_error_not_an_answer(visit: Visit, ending: str, message: str) -> None:
    """What had arrived stays, the reason stands below it, and nothing is called verified."""
    first = {"choices": [{"index": 0, "delta": {"content": "Half an ans"}, "finish_reason": None}]}
    body = f"data: {json.dumps(first)}\n\n{ending}"
    headers = {"content-type": "text/event-stream", "x-allod-receipt": "r1"}
    visit.answer("/v1/chat/completions", status=200, headers=headers, body=body)
    visit.enter()
    answer = visit.ask()
    expect(answer).to_contain_text("Half an ans")
    expect(answer.locator(".notice")).to_contain_text(message)
    expect(answer.get_by_text("Not verified yet")).to_be_visible()


def test_refused_request_keeps_the_question(visit: Visit) -> None:
    """When the gateway says no, its reason and its receipt are shown, and the question is back in the box."""
    error = {"message": "rule 7 forbids it", "type": "permission_error", "param": None, "code": "policy_denied"}
    visit.answer("/v1/chat/completions", status=403, headers={"x-allod-receipt": "r7"}, json={"error": error})
    visit.enter()
    answer = visit.ask()
    expect(answer).to_contain_text("rule 7 forbids it")
    expect(answer.get_by_role("group", name="Receipt")).to_contain_text("r7")
    expect(visit.page.get_by_label("Your question")).to_have_value(QUESTION)


@pytest.mark.parametrize("how", ["Escape", "button"])
def test_answer_can_be_stopped(visit_with: Callable[..., Visit], how: str) -> None:
    """Escape and the button both stop an answer, which is then said not to be whole."""
    visit = visit_with(script=SLOW_ANSWERS)
    visit.enter()
    answer = visit.ask("word " * 400)
    expect(answer).to_contain_text("word word")
    if how == "Escape":
        visit.page.keyboard.press("Escape")
    else:
        visit.page.get_by_role("button", name="Stop").click()
    expect(answer).to_contain_text("Stopped. This is not a whole answer.")
    expect(visit.page.get_by_role("button", name="Send")).to_be_visible()
    assert answer.locator(".text").inner_text().count("word") < 400
    answer.get_by_role("button", name="Verify", exact=True).click()
    expect(answer.locator(".line .verdict")).to_contain_text(re.compile("Receipt verified, without the text above|Not"))
    expect(answer.get_by_text("Verified in this browser")).to_have_count(0)


def test_everything_by_keyboard(visit: Visit) -> None:
    """Key, question, steps, seal page and back, without a mouse."""
    page = visit.page
    page.goto(visit.origin + "/")
    expect(page.get_by_label("Key", exact=True)).to_be_focused()
    page.keyboard.type(visit.key)
    page.keyboard.press("Enter")
    expect(page.get_by_label("Your question")).to_be_focused()
    page.keyboard.type(QUESTION)
    page.keyboard.press("Enter")
    expect(page.locator(".receipt").get_by_text("Verified in this browser")).to_be_visible()
    expect(page.get_by_label("Your question")).to_be_focused()
    for _ in range(4):  # back from the question: download, verify again, and the steps
        page.keyboard.press("Shift+Tab")
        if page.evaluate("document.activeElement.tagName") == "SUMMARY":
            break
    page.keyboard.press("Enter")
    expect(page.get_by_text("It is about this question and this answer")).to_be_visible()
    page.evaluate("document.activeElement.blur(); getSelection().removeAllRanges()")
    page.get_by_role("link", name="Seal", exact=True).focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Seal", exact=True)).to_be_focused()


def test_screen_reader_hears_the_end_not_every_token(visit_with: Callable[..., Visit]) -> None:
    """The live region changes twice for an answer, however many pieces it comes in."""
    visit = visit_with(script=SLOW_ANSWERS)
    visit.enter()
    visit.page.evaluate(
        """window.heard = [];
        const region = document.getElementById("status");
        new MutationObserver(() => window.heard.push(region.textContent)).observe(region, { childList: true });"""
    )
    answer = visit.ask("one two three four five six seven eight")
    expect(answer.get_by_text("Verified in this browser")).to_be_visible()
    expect(visit.page.get_by_role("button", name="Send")).to_be_visible()
    heard = visit.page.evaluate("window.heard")
    assert heard[0] == "Answering."
    assert heard[1:] == ["Verified in this browser. Answer: one two three four five six seven eight"]


def test_seal_page_shows_what_the_kernel_says(visit: Visit) -> None:
    """Every row appears with its value, what it must be, and a word for the result."""
    visit.answer("/v1/seal", json=SEALED)
    visit.enter()
    visit.page.get_by_role("link", name="Seal", exact=True).click()
    expect(visit.page.get_by_text("Sealed: every wall stands")).to_be_visible()
    rows = visit.page.get_by_role("row")
    expect(rows).to_have_count(1 + len(SEALED["rows"]))
    expect(visit.page.get_by_role("row", name="Network interfaces lo lo as it must be")).to_be_visible()
    expect(visit.page.get_by_text("4242")).to_be_visible()


def test_seal_page_warns_when_unsealed(visit: Visit) -> None:
    """Without a seal the page says so first, with what is missing, and marks the wrong row in words."""
    visit.answer("/v1/seal", json=UNSEALED)
    visit.enter()
    visit.page.get_by_role("link", name="Seal", exact=True).click()
    warning = visit.page.get_by_role("group", name="This engine is not sealed")
    expect(warning).to_contain_text("network namespace: not permitted here")
    expect(visit.page.get_by_role("row", name="Routes 3 0 wrong")).to_be_visible()


def test_one_replica_without_a_seal_is_warned_of(visit: Visit) -> None:
    """However well the others are sealed; and it is the one that is shown."""
    visit.answer("/v1/seal", json={**SEALED, "replicas": [SEALED, UNSEALED]})
    visit.enter()
    expect(visit.page.locator("#state")).to_contain_text("Not sealed")
    visit.page.get_by_role("link", name="Seal", exact=True).click()
    expect(visit.page.get_by_role("row", name="Routes 3 0 wrong")).to_be_visible()


def test_seal_of_the_gateway_is_read_again(visit: Visit) -> None:
    """The page reads the seal again by itself, and a seal that is lost meanwhile becomes a warning."""
    answers = [SEALED]
    visit.page.route("**/v1/seal", lambda route: route.fulfill(json=answers[-1]))
    visit.enter()
    visit.page.get_by_role("link", name="Seal", exact=True).click()
    expect(visit.page.get_by_text("Sealed: every wall stands")).to_be_visible()
    answers.append(UNSEALED)
    expect(visit.page.get_by_text("This engine is not sealed")).to_be_visible(timeout=8000)


def test_unreadable_seal_is_never_shown_as_sealed(visit: Visit) -> None:
    """Fail closed: where the seal cannot be read, the page says that it is not known."""
    visit.answer("/v1/seal", status=503, json={"error": {"message": "the engine is gone"}})
    visit.enter()
    visit.page.get_by_role("link", name="Seal", exact=True).click()
    expect(visit.page.get_by_text("The seal is not known")).to_be_visible()
    expect(visit.page.get_by_text("the engine is gone")).to_be_visible()


def test_gateway_that_cannot_answer_says_why(visit: Visit) -> None:
    """The reason of /readyz stands on the page."""
    visit.answer("/readyz", status=503, json={"status": "unavailable", "reason": "the log is full"})
    visit.page.goto(visit.origin + "/")
    expect(visit.page.get_by_text("The gateway cannot answer now: the log is full")).to_be_visible()


def test_model_that_invents_is_said_to_at_every_answer(visit: Visit) -> None:
    """`informative: false` is a sentence beside each answer."""

    def change(route: Any) -> None:
        models = route.fetch().json()
        models["data"][0].setdefault("allod", {})["informative"] = False
        route.fulfill(json=models)

    visit.page.route("**/v1/models", change)
    visit.enter()
    expect(visit.ask()).to_contain_text("This small model invents answers")


def test_quiet_console_and_one_origin(visit: Visit) -> None:
    """A whole visit logs no error, breaks no content security policy and asks nobody else for anything."""
    visit.enter()
    answer = visit.ask()
    expect(answer.get_by_text("Verified in this browser")).to_be_visible()
    with visit.page.expect_download():
        answer.get_by_role("button", name="Download receipt").click()
    visit.page.get_by_role("link", name="Seal", exact=True).click()
    expect(visit.page.locator("#seal .notice")).to_be_visible()
    assert visit.messages == []
    assert visit.foreign == []


def test_policy_stops_scripts_in_the_page(visit: Visit) -> None:
    """The content security policy is there and bites: an inline handler does not run."""
    response = visit.page.goto(visit.origin + "/")
    assert "script-src 'self'" in response.headers["content-security-policy"]
    ran = visit.page.evaluate(
        """async () => {
          const image = document.createElement("img");
          image.setAttribute("onerror", "window.ran = true");
          image.src = "/nothing-here";
          document.body.append(image);
          await new Promise((resume) => setTimeout(resume, 300));
          return window.ran === true;
        }"""
    )
    assert ran is False


@pytest.mark.parametrize("width", [320, 640])
def test_narrow_screens_scroll_one_way_only(visit_with: Callable[..., Visit], width: int) -> None:
    """At 320 pixels, which is also 1280 at 400 % zoom, no page is wider than the screen."""
    visit = visit_with(viewport={"width": width, "height": 640})
    visit.answer("/v1/seal", json=UNSEALED)
    visit.page.goto(visit.origin + "/")
    assert visit.width_needed() == width
    visit.enter()
    answer = visit.ask("unbreakable" * 40 + "\n```\n" + "code " * 60 + "\n```")
    expect(answer.get_by_text("Verified in this browser")).to_be_visible()
    answer.get_by_text("7 of 7 steps passed").click()
    assert visit.width_needed() == width
    visit.page.get_by_role("link", name="Seal", exact=True).click()
    expect(visit.page.get_by_text("This engine is not sealed")).to_be_visible()
    assert visit.width_needed() == width


@pytest.mark.slow
def test_real_engine_answers_from_behind_its_seal(browser: Any, real_gateway: Any) -> None:
    """With a real model the answer verifies, and every row that the kernel gives is as it must be."""
    visit = Visit(browser.new_page(locale="en-GB"), real_gateway.key, real_gateway.url.rstrip("/"))
    visit.watch()
    visit.enter()
    expect(visit.ask("Say hello.").get_by_text("Verified in this browser")).to_be_visible(timeout=60_000)
    visit.page.get_by_role("link", name="Seal", exact=True).click()
    expect(visit.page.get_by_text("Sealed: every wall stands")).to_be_visible()
    expect(visit.page.get_by_role("row", name="Routes 0 0 as it must be")).to_be_visible()
    assert visit.page.get_by_role("row").count() > 10
    assert visit.messages == []
    visit.page.close()


def test_every_file_of_the_console_is_served_and_nothing_else() -> None:
    """The list in static.py and the folder agree, and no path leads out of it."""
    console, folder = Console(), Path(static.__file__).parent / "console"
    for name in (path.name for path in folder.iterdir() if path.is_file() and path.name != "index.html"):
        asset = console.file(name)
        assert asset is not None, name
        assert asset.body == (folder / name).read_bytes()
    for path in ("", "index.html", "../static.py", "%2e%2e/static.py", "/app.js", "console/app.js"):
        assert console.file(path) is None


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(visit_with: Callable[..., Visit], axe: str, scheme: str) -> None:
    """No page, in its good and its bad states, breaks a WCAG 2.2 A or AA rule that axe-core can see."""
    visit = visit_with(color_scheme=scheme, bypass_csp=True)
    page = visit.page
    visit.answer("/v1/seal", json=UNSEALED)

    def check(state: str) -> None:
        assert visit.broken_rules(axe) == [], state

    page.goto(visit.origin + "/")
    page.get_by_label("Key", exact=True).fill("wrong")
    page.get_by_role("button", name="Open").click()
    expect(page.get_by_text("This key is not accepted")).to_be_visible()
    check("wrong key")
    visit.enter()
    check("empty")
    answer = visit.ask("plain\n```\ncode\n```")
    answer.get_by_text("7 of 7 steps passed").click()
    check("verified")
    page.route("**/v1/receipts/*", lambda route: route.fulfill(json={"statement": "{}", "proof": "", "opening": {}}))
    expect(visit.ask().get_by_text("Not verified: step 1")).to_be_visible()
    check("not verified")
    page.get_by_role("link", name="Seal", exact=True).click()
    expect(page.get_by_text("This engine is not sealed")).to_be_visible()
    check("unsealed")
