"""Browsers for the tests of the console. A module at a time: Playwright's event loop keeps others from running."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from tests.web.browsing import ARGUMENTS, CHROMIUM, sync_api

    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        yield browser
        browser.close()


@pytest.fixture
def visit_with(browser: Any, gateway: Any) -> Iterator[Callable[..., Any]]:
    """Makes visits; the options are Playwright's for a browser context."""
    from tests.web.browsing import Visit

    contexts = []

    def make(*, script: str = "", **options: Any) -> Any:
        context = browser.new_context(locale="en-GB", **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(15_000)
        if script:
            page.add_init_script(script)
        visit = Visit(page, gateway.key, gateway.url.rstrip("/"))
        visit.watch()
        return visit

    yield make
    for context in contexts:
        context.close()


@pytest.fixture
def visit(visit_with: Callable[..., Any]) -> Any:
    return visit_with()


@pytest.fixture(scope="module")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The source of axe-core, from npm."""
    folder = tmp_path_factory.mktemp("axe")
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not installed")
    command = [npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", str(folder), "axe-core@4"]
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=120)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        pytest.skip("npm cannot fetch axe-core here")
    return (folder / "node_modules" / "axe-core" / "axe.min.js").read_text()
