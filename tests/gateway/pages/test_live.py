"""Live captions of a real session in a real browser, while all that serves them dies."""

from __future__ import annotations

import asyncio

import pytest
from playwright.async_api import Page

from natterjack.emulators import tones
from natterjack.emulators.deepgram.listen import DeepgramEmulator
from natterjack.settings import BrokerSettings

from ...nats_server import NatsServer
from ...waiting import until, within
from ...worker.programs import Speaker, StartWorker, holder, spoken
from ..process import GatewayProcess
from .conftest import OpenPage

pytestmark = pytest.mark.process


async def finals(page: Page) -> list[tuple[str, str]]:
    """The words of the finals that are shown, and who said them."""
    lines = await page.evaluate(
        """() => [...document.querySelectorAll(".line")].map((line) => [
            line.querySelector(".name").textContent,
            [...line.querySelectorAll(".part:not(.interim)")].map((p) => p.textContent).join(" "),
        ])"""
    )
    return [(name, tones.plain(word)) for name, said in lines for word in said.split()]


def of(speaker: Speaker, words: list[tuple[str, str]]) -> list[str]:
    return [word for name, word in words if name == speaker.spec.speaker]


@pytest.mark.slow
async def test_each_final_is_shown_once_though_gateway_worker_and_broker_are_killed(
    nats_server: NatsServer,
    gateway: GatewayProcess,
    emulator: DeepgramEmulator,
    start_worker: StartWorker,
    broker_settings: BrokerSettings,
    open_page: OpenPage,
) -> None:
    workers = [await start_worker() for _ in range(2)]
    page = await open_page(f"{gateway.http}/#/c/call")
    overlay = await open_page(f"{gateway.http}/captions/call?fade=0&lines=50&size=16&speakers=none")
    for each in (page, overlay):
        await each.evaluate("window.notReloaded = true")
    names = ("agent", "caller")
    speakers = [
        Speaker(broker_settings, 32, tenant="default", conversation="call", speaker=name)
        for name in names
    ]
    async with within(150), asyncio.TaskGroup() as tasks:
        speaking = [tasks.create_task(each.speak()) for each in speakers]
        await spoken(speakers[0], 4)
        await gateway.stop()
        await spoken(speakers[0], 7)
        await gateway.start()
        await (await holder(workers)).stop()  # a worker may have no session
        await spoken(speakers[0], 10)
        nats_server.kill()
        nats_server.start()
        await asyncio.gather(*speaking)

        async def complete() -> bool:
            words = await finals(page)
            for each in speakers:  # never more, never in another order
                found = of(each, words)
                assert found == each.words[: len(found)]
            return all(of(each, words) == each.words for each in speakers)

        await until(complete, "all words are shown", 90)

        async def on_the_overlay() -> bool:
            said = await overlay.evaluate("document.querySelector('#lines').innerText")
            words = [tones.plain(word) for word in said.split()]
            return sorted(words) == sorted(speakers[0].words + speakers[1].words)

        await until(on_the_overlay, "all words are on the overlay", 60)
    for each in (page, overlay):
        assert await each.evaluate("window.notReloaded")
    await page.locator("#facts", has_text="ended").wait_for()
    assert await page.locator(".note.taken_over").count() >= 1


async def test_interims_are_rewritten_in_place_while_a_real_session_speaks(
    gateway: GatewayProcess,
    emulator: DeepgramEmulator,
    start_worker: StartWorker,
    broker_settings: BrokerSettings,
    open_page: OpenPage,
) -> None:
    await start_worker()
    page = await open_page(f"{gateway.http}/#/c/call")
    await page.locator("#conversation").wait_for()
    await page.evaluate(
        """() => {
          window.seen = [];
          new MutationObserver(() => {
            for (const part of document.querySelectorAll(".part.interim")) {
              part.number ??= window.seen.push([]) - 1;
              const texts = window.seen[part.number];
              if (texts.at(-1) !== part.textContent) texts.push(part.textContent);
            }
          }).observe(document.querySelector("#captions"),
            { childList: true, subtree: true, characterData: true, attributes: true });
        }"""
    )
    speaker = Speaker(broker_settings, 16, tenant="default", conversation="call")
    await speaker.speak()

    async def complete() -> bool:
        return of(speaker, await finals(page)) == speaker.words

    await until(complete, "all words are shown", 60)
    rewritten = await page.evaluate("window.seen")
    assert max(len(texts) for texts in rewritten) > 1  # one element with several texts
    assert await page.locator(".part.interim").count() == 0
