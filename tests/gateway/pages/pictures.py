"""Takes the pictures of the pages for the documentation: `python -m tests.gateway.pages.pictures`.

They show the real pages of a real gateway, in Chromium. The conversations are told by a script
instead of a worker, so that the pictures are about the same each time.
"""

from __future__ import annotations

import asyncio
import math
import tempfile
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path

from playwright.async_api import Browser, Page, async_playwright

from natterjack.broker import streams
from natterjack.broker.connection import Broker, connected
from natterjack.broker.streams import ensure
from natterjack.fleet.edges import EdgePresence
from natterjack.fleet.roster import SessionRecord, WorkerPage
from natterjack.settings import BrokerSettings, StreamSettings
from natterjack.values import ProviderUsage

from ...nats_server import NatsServer
from ..process import GatewayProcess
from ..spoken import Spoken
from .conftest import find_chromium

FOLDER = Path(__file__).parents[3] / "docs" / "images"
SHOW = "morning-show"
_LINES = (
    ("mara", 1, "Good morning, and welcome back. It is eight minutes past nine."),
    ("jonas", 6, "Morning, Mara. I brought the harbor figures that you asked for."),
    ("mara", 11, "Wonderful. Before we start: can everybody at home see the captions?"),
    ("jonas", 16.5, "They come while I am still speaking, and then they correct themselves."),
    ("leyla", 22, "صباح الخير، أنا أسمعكم جيدا."),
    ("leyla", 26, "Good morning from Alexandria. I hear you well."),
    ("mara", 31, "And if a machine dies in the middle of a sentence?"),
    ("jonas", 35.5, "Then another one goes on where it stopped. Nobody says anything twice."),
)
_CALLS = (
    "Thank you, that solves it. Have a good day.",
    "The parcel came on Tuesday, but one of the lamps is broken.",
    "Could you read the serial number to me once more?",
    "I would like to move my appointment to next week.",
    "Yes, the new password works now.",
)
_INTERIM = ("mara", 41, "So nothing that was said is lost, not even")
_BACKDROP = (
    "radial-gradient(circle at 70% 30%, #f2c48d 0, transparent 32%),"
    "linear-gradient(160deg, #213b52, #4b6b73 48%, #a98458 75%, #53402f)"
)


async def _tell(broker: Broker) -> dict[str, Spoken]:
    """An hour of sessions, and a conversation that goes on now."""
    now = datetime.now(UTC)
    for minute in range(58, 1, -2):
        spoken = Spoken(broker, f"call-{4700 - minute}", "caller", provider="speechmatics",
                        started=now - timedelta(minutes=minute))  # fmt: skip
        await spoken.status("assigned")
        wave = 1 + 0.5 * math.sin(minute / 6)
        for number in range(6):
            text = _CALLS[(minute // 2 + number) % len(_CALLS)]
            await spoken.final(text, 9, latency=0.24 * wave + 0.04 * number)
        spoken.at = 60 * (3 + 5 * (minute % 7) / 6)
        if minute > 12:
            await spoken.close("failed" if minute == 34 else "closed", cost=0.021,
                               **({"reason": "refused"} if minute == 34 else {}))  # fmt: skip
    call = Spoken(broker, "support-4711", "agent", started=now - timedelta(minutes=3))
    await call.status("assigned")
    await call.status("streaming")
    await call.final("I have found your order; it leaves the warehouse tonight.", 4, latency=0.28)
    started = now - timedelta(seconds=44)
    speakers = {name: Spoken(broker, SHOW, name, started=started) for name in
                dict.fromkeys(name for name, _, _ in _LINES)}  # fmt: skip
    for spoken in speakers.values():
        await spoken.status("assigned")
        await spoken.status("streaming")
    for name, at, text in _LINES:
        spoken = speakers[name]
        if at == 35.5:
            spoken.at = 34.2
            await spoken.status("recovering", reason="connection_lost")
            spoken.at = 35.1
            await spoken.status("streaming")
        spoken.at = at
        await spoken.final(text, 3.8, latency=0.31)
    await _report(broker, [*speakers.values(), call], now)
    return speakers


def _edges(now: datetime) -> list[EdgePresence]:
    """Two edges of which one has a dead input, as edges report themselves."""

    def source(name: str, device: str, rms: float, conversation: str, *findings: str) -> object:
        level = {"peak_dbfs": rms + 14, "rms_dbfs": rms, "zeros": 0.0}
        return {
            "name": name, "kind": "microphone", "device": device, "state": "capturing",
            "level": level, "findings": findings, "key": f"default.{conversation}.{name}",
        }  # fmt: skip

    rooms = {
        "studio-1": [
            source("mara", "Jabra Speak 510", -28, SHOW),
            source("jonas", "Focusrite Scarlett 2i2", -31, SHOW),
            source("leyla", "Focusrite Scarlett 2i2", -33, SHOW),
        ],
        "room-12": [source("table", "USB Audio Device", -120, "room-12-0900", "input_dead")],
    }
    return [
        EdgePresence.model_validate({
            "tenant": "default", "agent": agent, "version": version("natterjack"), "host": agent,
            "started_at": now - timedelta(days=3), "seen_at": now, "state": "running",
            "sources": sources, "clock_offset_seconds": 0.004,
            "spool": {"bytes": 40_000, "seconds": 0.4, "limit_bytes": 536_870_912},
        })
        for agent, sources in rooms.items()
    ]  # fmt: skip


async def _report(broker: Broker, sessions: list[Spoken], now: datetime) -> None:
    """Two workers report their sessions, as workers do."""
    kv = await broker.client.jetstream().key_value(streams.WORKERS_BUCKET)
    for number, slots in enumerate((50, 50)):
        page = WorkerPage(
            instance=f"instance-{number}", worker=f"worker-{number + 1}", at=now,
            started_at=now - timedelta(hours=7), slots=slots,
            sessions=[
                SessionRecord(
                    key=f"default.{each.conversation}.{each.speaker}", session_id=each.session_id,
                    epoch=1, holder=f"instance-{number}", state="streaming", provider="deepgram",
                    opened_at=each.started, lag_seconds=0.2,
                    captured_seconds=(now - each.started).total_seconds(),
                    final_seconds=max(0.0, (now - each.started).total_seconds() - 2),
                    providers={"deepgram": ProviderUsage(connections=1, cost=0.0043 * (n + 1))},
                )
                for n, each in enumerate(sessions)
                if n % 2 == number
            ],
        )  # fmt: skip
        await kv.put(f"instance-{number}.0", page.model_dump_json().encode())
    kv = await broker.client.jetstream().key_value(streams.EDGES_BUCKET)
    for edge in _edges(now):
        await kv.put(f"{edge.tenant}.{edge.agent}", edge.model_dump_json().encode())


async def _keep_reporting(broker: Broker, sessions: list[Spoken]) -> None:
    while True:
        await _report(broker, sessions, datetime.now(UTC))
        await asyncio.sleep(1)  # the interval of reports


async def _page(browser: Browser, url: str, **options: object) -> Page:
    context = await browser.new_context(
        **{"viewport": {"width": 1280, "height": 800}, "locale": "en-GB", **options}  # type: ignore[arg-type]
    )
    page = await context.new_page()
    await page.goto(url)
    return page


async def _interim(page: Page, spoken: Spoken, text: str) -> None:
    """Speak until the page shows it."""
    while not await page.locator(".interim", has_text=text).count():
        await spoken.interim(text)
        await asyncio.sleep(0.2)  # the pace of interims


async def _take(gateway: GatewayProcess, speakers: dict[str, Spoken]) -> None:
    name, at, text = _INTERIM
    speakers[name].at = at
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=find_chromium(), args=["--no-sandbox", "--font-render-hinting=none"]
        )
        for scheme in ("light", "dark"):
            page = await _page(browser, f"{gateway.http}/#/c/{SHOW}", color_scheme=scheme)
            await page.locator(".session").nth(2).wait_for()
            await page.locator("#account-sum", has_text="$").wait_for()
            await _interim(page, speakers[name], text)
            await page.screenshot(path=FOLDER / f"console-{scheme}.png")
            await page.evaluate("location.hash = '#/fleet'")
            await page.locator(".table").first.wait_for()
            await page.get_by_text("studio-1").first.wait_for()
            await page.set_viewport_size({"width": 1280, "height": 960})
            await page.screenshot(path=FOLDER / f"fleet-{scheme}.png")
        phone = {"width": 390, "height": 760}
        page = await _page(browser, f"{gateway.http}/#/c/{SHOW}", viewport=phone,
                           device_scale_factor=2)  # fmt: skip
        await _interim(page, speakers[name], text)
        await page.screenshot(path=FOLDER / "console-phone.png")
        overlay = f"{gateway.http}/captions/{SHOW}?fade=0&lines=3&size=44"
        page = await _page(browser, overlay, viewport={"width": 1280, "height": 500})
        await page.evaluate("(value) => { document.body.style.background = value; }", _BACKDROP)
        await _interim(page, speakers[name], text)
        await page.screenshot(path=FOLDER / "captions-overlay.png")
        await browser.close()


async def main() -> None:
    """Take all pictures."""
    with tempfile.TemporaryDirectory() as folder:
        server = NatsServer(Path(folder) / "nats")
        server.start()
        gateway = GatewayProcess(server.url)
        try:
            await gateway.start()
            settings = BrokerSettings(url=server.url)
            async with connected(settings, name="pictures", once=True) as broker:
                await ensure(broker, StreamSettings())
                speakers = await _tell(broker)
                reporting = asyncio.create_task(_keep_reporting(broker, [*speakers.values()]))
                await _take(gateway, speakers)
                reporting.cancel()
        finally:
            await gateway.stop()
            server.stop()


if __name__ == "__main__":
    asyncio.run(main())
