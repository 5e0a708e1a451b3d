"""The captions overlay in a real browser."""

from __future__ import annotations

import struct
import zlib

import pytest
from playwright.async_api import Page

from natterjack.broker.connection import Broker

from ...waiting import until
from ..api.conftest import Keys, call
from ..process import GatewayProcess
from ..spoken import Spoken
from .conftest import OpenPage, holds, texts

pytestmark = pytest.mark.process

SCREEN = {"width": 640, "height": 360}


def alphas(png: bytes) -> set[int]:
    """The opacities of the pixels of a picture: 0 is transparent."""
    width, height, depth, color = struct.unpack(">IIBB", png[16:26])
    assert (depth, color) == (8, 6), "RGBA"
    data, at = b"", 8
    while at < len(png):
        (length,) = struct.unpack(">I", png[at : at + 4])
        if png[at + 4 : at + 8] == b"IDAT":
            data += png[at + 8 : at + 8 + length]
        at += 12 + length
    rows, size = zlib.decompress(data), 4 * width + 1
    found: set[int] = set()
    before = bytes(4 * width)
    for number in range(height):
        kind, row = rows[number * size], bytearray(rows[number * size + 1 : (number + 1) * size])
        for i in range(len(row)):
            left = row[i - 4] if i >= 4 else 0
            up, corner = before[i], before[i - 4] if i >= 4 else 0
            guess = left + up - corner
            nearest = min((left, up, corner), key=lambda each: abs(guess - each))
            row[i] = (row[i] + (0, left, up, (left + up) // 2, nearest)[kind]) & 255
        before = bytes(row)
        found |= set(before[3::4])
    return found


async def shows(page: Page, wanted: list[str]) -> None:
    """Wait until the lines are these."""

    async def shown() -> bool:
        return await texts(page, ".caption:not(.gone) .said") == wanted

    await until(shown, f"the overlay shows {wanted}")


async def test_there_is_nothing_but_words(
    gateway: GatewayProcess, ready_broker: Broker, open_page: OpenPage
) -> None:
    page = await open_page(f"{gateway.http}/captions/c?fade=0", viewport=SCREEN)
    await holds(page, "document.documentElement.dataset.state === 'open'")
    assert alphas(await page.screenshot(omit_background=True)) == {0}
    await Spoken(ready_broker, "c", "s").final("words")
    await shows(page, ["words"])
    found = alphas(await page.screenshot(omit_background=True))
    assert {0, 255} <= found


async def test_options_say_how_it_looks(
    gateway: GatewayProcess, ready_broker: Broker, open_page: OpenPage
) -> None:
    query = "fade=0&lines=2&size=30&font=Noto+Serif&position=top-left&speakers=names"
    page = await open_page(f"{gateway.http}/captions/c?{query}", viewport=SCREEN)
    await holds(page, "document.documentElement.dataset.state === 'open'")
    host, guest = Spoken(ready_broker, "c", "host"), Spoken(ready_broker, "c", "guest")
    await host.final("one")
    guest.at = 3
    await guest.final("two")
    host.at = 6
    await host.final("three " * 20)
    await page.locator(".said", has_text="three").wait_for()
    await shows(page, ["two", ("three " * 20)])
    assert await texts(page, ".name:visible") == ["guest", "host"]
    look = await page.evaluate(
        """() => {
          const lines = document.querySelector("#lines");
          const style = getComputedStyle(lines);
          const box = lines.getBoundingClientRect();
          const family = style.fontFamily.split(",")[0];
          return [style.fontSize, family, style.textAlign, box.top, box.height];
        }"""
    )
    assert look[:3] == ["30px", '"Noto Serif"', "left"]
    assert look[3] < 100
    assert look[4] <= 2 * 30 * 1.28 + 30 * 0.16 + 1  # two lines, however much is said
    visible = await page.evaluate(
        """() => {
          const box = document.querySelector("#lines").getBoundingClientRect();
          const last = document.querySelector(".caption:last-child").getBoundingClientRect();
          return last.bottom <= box.bottom + 1;
        }"""
    )
    assert visible  # the newest words are those that are seen


async def test_words_fade_after_some_seconds(
    gateway: GatewayProcess, ready_broker: Broker, open_page: OpenPage
) -> None:
    page = await open_page(f"{gateway.http}/captions/c?fade=1")
    await holds(page, "document.documentElement.dataset.state === 'open'")
    # They fade for a second, which somebody who looks from outside may miss.
    await page.evaluate(
        """() => {
            window.faded = false;
            const fading = () => document.querySelector(".caption.gone") !== null;
            const look = () => { window.faded ||= fading(); };
            const all = { subtree: true, childList: true, attributes: true };
            new MutationObserver(look).observe(document.body, all);
        }"""
    )
    await Spoken(ready_broker, "c", "s").final("words")
    await shows(page, ["words"])
    await until(lambda: texts_gone(page), "they are removed")
    assert await page.evaluate("window.faded")


async def texts_gone(page: Page) -> bool:
    return await page.locator(".caption").count() == 0


async def test_only_some_speakers_are_shown(
    gateway: GatewayProcess, ready_broker: Broker, open_page: OpenPage
) -> None:
    page = await open_page(f"{gateway.http}/captions/c?fade=0&speakers=guest,none")
    await holds(page, "document.documentElement.dataset.state === 'open'")
    host, guest = Spoken(ready_broker, "c", "host"), Spoken(ready_broker, "c", "guest")
    await host.final("not shown")
    guest.at = 3
    await guest.interim("shown")
    await shows(page, ["shown"])
    assert await texts(page, ".name:visible") == []


async def test_a_wrong_option_is_said_until_there_are_words(
    gateway: GatewayProcess, ready_broker: Broker, open_page: OpenPage
) -> None:
    page = await open_page(f"{gateway.http}/captions/c?size=huge")
    await page.locator("#problem", has_text="size: give a number").wait_for()
    await Spoken(ready_broker, "c", "s").final("words")
    await shows(page, ["words"])
    assert await page.locator("#problem").is_hidden()


async def test_the_secret_is_in_the_fragment_and_in_no_request(
    locked: GatewayProcess, ready_broker: Broker, keys: Keys, open_page: OpenPage
) -> None:
    key = keys.add("mine", doors=("api",), conversations=("show",))

    async def readable() -> bool:
        return (await call(locked, "/api/me", key))[0] == 200

    await until(readable, "the gateway has read the keys")
    page = await open_page(f"{locked.http}/captions/show?fade=0#{key}")
    await holds(page, "document.documentElement.dataset.state === 'open'")
    await Spoken(ready_broker, "show", "s", tenant="mine").final("words")
    await shows(page, ["words"])
    watch = page.watch  # type: ignore[attr-defined]
    assert not [request.url for request in watch.requests if key in request.url.split("#")[0]]
    for address, problem in (("show", "key"), (f"other#{key}", "there is no conversation other")):
        page = await open_page(f"{locked.http}/captions/{address}")
        await page.locator("#problem", has_text=problem).wait_for()
