"""A Chromium, and pages of a gateway in it."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from natterjack.broker.connection import Broker

from ...nats_server import NatsServer
from ...waiting import bound, until
from ..api.conftest import Keys
from ..api.conftest import keys as keys
from ..process import GatewayProcess

if TYPE_CHECKING:
    from playwright.async_api import Browser, BrowserContext, Page, Request

_CHROMIUM = ("chromium-headless-shell", "chromium")
"""Debian's programs; the first has no window, and costs less than half of the processor time."""
_MISSING = "chromium-headless-shell is missing; install it with `make system-packages`"
_ARGUMENTS = [
    "--no-sandbox",  # which root has not
    "--use-fake-ui-for-media-stream",
    "--use-fake-device-for-media-stream",
]
_VIOLATIONS = """
  addEventListener("securitypolicyviolation", (event) =>
    console.error(`violation of ${event.violatedDirective}: ${event.blockedURI}`));
"""


def find_chromium() -> str:
    """Find Chromium; if it is missing, skip the test, or fail it in CI."""
    for name in _CHROMIUM:
        if (found := shutil.which(name)) is not None:
            return found
    if os.environ.get("CI"):
        pytest.fail(_MISSING)
    pytest.skip(_MISSING)


@pytest.fixture
def chromium_arguments() -> list[str]:
    """Further arguments of Chromium."""
    return []


@pytest.fixture
async def browser(processes: None, chromium_arguments: list[str]) -> AsyncIterator[Browser]:
    # Imported here, since the tests that need no browser load this file too.
    from playwright.async_api import async_playwright

    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=find_chromium(), args=[*_ARGUMENTS, *chromium_arguments]
        )
        yield browser
        await browser.close()


@pytest.fixture
async def gateway(nats_server: NatsServer, ready_broker: Broker) -> AsyncIterator[GatewayProcess]:
    """A gateway without keys."""
    process = GatewayProcess(nats_server.url)
    await process.start()
    yield process
    await process.stop()


@pytest.fixture
async def locked(
    nats_server: NatsServer, ready_broker: Broker, keys: Keys
) -> AsyncIterator[GatewayProcess]:
    """A gateway with keys."""
    keys.add("nobody")
    process = GatewayProcess(nats_server.url, **keys.settings)
    await process.start()
    yield process
    await process.stop()


class Watch:
    """A record of the errors in the pages of a test, and of their requests."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.requests: list[Request] = []

    def follow(self, page: Page) -> None:
        page.on("pageerror", lambda error: self.problems.append(f"error: {error}"))
        page.on("console", lambda message: self._said(message.type, message.text))
        page.on("request", lambda request: self.requests.append(request))

    def _said(self, kind: str, text: str) -> None:
        # A gateway that is killed refuses connections; Chromium tells it as an error.
        if kind == "error" and "Failed to load resource" not in text and "WebSocket" not in text:
            self.problems.append(text)


OpenPage = Callable[..., Awaitable["Page"]]


@pytest.fixture
async def open_page(browser: Browser) -> AsyncIterator[OpenPage]:
    """Opens an address in a context of its own. At the end of the test: no error was thrown, no
    policy violated, and nothing asked of another host."""
    watch = Watch()
    contexts: list[BrowserContext] = []

    async def opened(url: str, **options: Any) -> Page:
        options = {"viewport": {"width": 1280, "height": 800}, **options}
        context = await browser.new_context(**options)
        contexts.append(context)
        context.set_default_timeout(bound(15) * 1000)
        context.on("page", watch.follow)
        await context.add_init_script(_VIOLATIONS)
        page = await context.new_page()
        page.watch = watch  # type: ignore[attr-defined]
        await page.goto(url)
        return page

    yield opened
    for context in contexts:
        await context.close()
    assert not watch.problems
    hosts = {urlsplit(r.url).hostname for r in watch.requests if not r.url.startswith("blob:")}
    assert hosts <= {"127.0.0.1"}


async def texts(page: Page, selector: str) -> list[str]:
    """The texts of all elements."""
    return await page.locator(selector).all_text_contents()


async def holds(page: Page, expression: str) -> None:
    """Wait until an expression is true. Playwright's own way evaluates text in the page, which its
    policy forbids."""
    await until(lambda: page.evaluate(expression), expression)
