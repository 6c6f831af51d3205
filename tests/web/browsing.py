"""A real browser on the console, for the tests of its pages. Whoever imports this needs Playwright for Python."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright for Python is not installed")
expect = sync_api.expect

CHROMIUM = shutil.which("chromium")
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
IN_A_BROWSER = [
    pytest.mark.services,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (apt-get install chromium)"),
]
QUESTION = "What may be claimed of an answer?"


@dataclass
class Visit:
    """A browser tab on the console, and everything that it must not do."""

    page: Any
    key: str
    origin: str
    messages: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)

    def watch(self) -> None:
        """Note console messages, errors and requests from now on."""
        self.page.on("console", lambda message: self.messages.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.messages.append(f"error: {error}"))
        self.page.on("request", self._note_request)

    def _note_request(self, request: Any) -> None:
        if request.url.startswith("blob:"):
            return
        parts = urlsplit(request.url)
        if f"{parts.scheme}://{parts.netloc}" != self.origin:
            self.foreign.append(request.url)

    def enter(self) -> None:
        """Open the console with the right key."""
        self.page.goto(self.origin + "/")
        self.page.get_by_label("Key", exact=True).fill(self.key)
        self.page.get_by_role("button", name="Open").click()
        expect(self.page.get_by_role("heading", name="Chat")).to_be_visible()

    def ask(self, question: str = QUESTION) -> Any:
        """Send a question; the element of its answer."""
        self.page.get_by_label("Your question").fill(question)
        self.page.get_by_role("button", name="Send").click()
        return self.page.locator(".answered").last

    def answer(self, path: str, **response: Any) -> None:
        """Answer requests for `path` here instead of at the gateway."""
        self.page.route(f"**{path}", lambda route: route.fulfill(**response))

    def width_needed(self) -> int:
        """How wide the document is, in CSS pixels."""
        return int(self.page.evaluate("document.documentElement.scrollWidth"))

    def open(self, title: str, key: str) -> None:
        """Open a page that needs the admin key, with that key."""
        self.page.goto(f"{self.origin}/#{title.lower()}")
        self.page.get_by_label("Admin key", exact=True).fill(key)
        self.page.get_by_role("button", name="Open").click()
        expect(self.page.get_by_role("heading", name=title, exact=True)).to_be_visible()

    def broken_rules(self, axe: str) -> list[tuple[str, list[str]]]:
        """WCAG 2.2 A and AA rules that axe-core sees broken now, with the elements."""
        self.page.evaluate(axe)
        tags = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
        found = self.page.evaluate("tags => axe.run(document, { runOnly: tags })", tags)
        return [(rule["id"], [node["html"] for node in rule["nodes"]]) for rule in found["violations"]]
