"""axe-core finds no problem: contrast, names, roles and order, in both themes."""

from __future__ import annotations

from importlib.resources import files

import pytest
from playwright.async_api import Page, Route

from natterjack.broker.connection import Broker
from natterjack.values import Gap

from ...edge_capture.fleet.rooms import Room, reporting
from ...nats_server import NatsServer
from ..api.conftest import Keys
from ..process import GatewayProcess
from ..spoken import Spoken
from .conftest import OpenPage

pytestmark = pytest.mark.process


async def violations(page: Page) -> list[str]:
    """Return the problems that axe-core finds on the page in its present state."""
    await page.evaluate((files("axe_playwright_python") / "axe.min.js").read_text())
    return await page.evaluate(  # type: ignore[no-any-return]
        """async () => {
          const found = await axe.run(document, { resultTypes: ["violations"] });
          return found.violations.flatMap(({ id, nodes }) =>
            nodes.map((node) => `${id}: ${node.html.slice(0, 150)} ${node.failureSummary}`));
        }"""
    )


async def _with_others(route: Route) -> None:
    """The real answer about an edge, and the same one in all other states."""
    response = await route.fetch()
    answer = await response.json()
    for edge in list(answer["edges"]):
        (source,) = edge["sources"]
        failed = {**source, "name": "other", "state": "failed", "error": "it failed"}
        loud = {**source, "name": "loud", "level": {"peak_dbfs": 0, "rms_dbfs": -3}}
        for state in ("absent", "stopped", "ending"):
            sources = [source, failed, loud]
            other = {"agent": state, "state": state, "last_error": "an error", "sources": sources}
            answer["edges"].append({**edge, **other})
    await route.fulfill(response=response, json=answer)


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_axe_finds_nothing(
    nats_server: NatsServer,
    gateway: GatewayProcess,
    ready_broker: Broker,
    open_page: OpenPage,
    scheme: str,
) -> None:
    for number in range(9):  # all colors of speakers
        spoken = Spoken(ready_broker, "c", f"speaker-{number}")
        spoken.at = 5.0 * number
        await spoken.status("assigned")
        await spoken.final("words")
        await spoken.status("recovering", reason="mute")
        if number == 1:
            await spoken.status("streaming")
        if number == 2:
            await spoken.close("failed", reason="refused", gaps=[Gap(start=1, end=2, cause="edge")])
    options = {"color_scheme": scheme, "bypass_csp": True, "reduced_motion": "reduce"}
    page = await open_page(f"{gateway.http}/#/c/c", **options)
    await page.locator(".line").nth(8).wait_for()
    await spoken.interim("some more")
    await page.locator(".part.interim").wait_for()
    assert not await violations(page)
    await page.locator("#overlay").click()
    await page.locator("#preview").wait_for()
    assert not await violations(page)
    await page.keyboard.press("Escape")
    room = Room(tenant="default")
    room.findings = ["input_low", "input_offset"]
    await page.route("**/api/edges", _with_others)
    async with reporting(nats_server, room):
        await page.goto(f"{gateway.http}/#/fleet")
        await page.locator(".figure").first.wait_for()
        await page.locator(".edge-state", has_text="absent").wait_for()
        assert await page.locator(".edge").count() == 4
        assert not await violations(page)
    await page.goto(f"{gateway.http}/captions/c?fade=0")
    await page.locator(".caption").first.wait_for()
    assert not await violations(page)


async def test_axe_finds_nothing_where_a_key_is_asked_for(
    locked: GatewayProcess, keys: Keys, open_page: OpenPage
) -> None:
    page = await open_page(locked.http, bypass_csp=True)
    await page.locator("#key").wait_for()
    assert not await violations(page)
