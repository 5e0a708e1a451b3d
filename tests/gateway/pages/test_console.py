"""The console in a real browser, with conversations whose events the test publishes."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from playwright.async_api import Error, Page, expect

from natterjack.broker.connection import Broker
from natterjack.fleet.edges import EdgePresence, Level, SourcePresence, presence_subject
from natterjack.values import Gap, Word

from ...edge_capture.fleet.rooms import Room, reporting
from ...nats_server import NatsServer
from ...waiting import bound, until
from ..api.conftest import Keys, call
from ..process import GatewayProcess
from ..spoken import Spoken
from .conftest import OpenPage, holds, texts

pytestmark = pytest.mark.process

HOSTILE = '<img src=x onerror="window.harmed=1"><script>window.harmed=1</script>&lt;b&gt; {{7*7}}'
NARROW = {"width": 320, "height": 640}


async def shows(page: Page, selector: str, wanted: list[str]) -> None:
    """Wait until the texts of some elements are these."""

    async def shown() -> bool:
        return [text.strip() for text in await texts(page, selector)] == wanted

    try:
        await until(shown, f"{selector} shows {wanted}")
    except AssertionError as error:
        raise AssertionError(f"{error}, but {await texts(page, selector)}") from None


async def test_an_interim_becomes_its_final_in_the_same_element(
    gateway: GatewayProcess, ready_broker: Broker, open_page: OpenPage
) -> None:
    page = await open_page(f"{gateway.http}/#/c/c")
    spoken = Spoken(ready_broker, "c", "mara")
    await spoken.status("assigned")
    await page.locator(".session").wait_for()
    await spoken.interim("hel")
    part = page.locator(".part")
    await part.wait_for()
    element = await part.element_handle()
    assert element is not None
    await spoken.interim("hello wor")
    await shows(page, ".part.interim", ["hello wor"])
    await spoken.final("Hello, world.")
    await shows(page, ".part", ["Hello, world."])
    assert await element.evaluate("(one) => one.isConnected && one.textContent") == "Hello, world."
    assert await page.locator(".part.interim").count() == 0


async def test_what_speakers_and_providers_say_is_only_text(
    gateway: GatewayProcess, ready_broker: Broker, open_page: OpenPage
) -> None:
    spoken = Spoken(ready_broker, "c", "constructor", provider=HOSTILE)
    await spoken.status("assigned")
    await spoken.status("streaming")
    words = [Word(text=HOSTILE, start=0, end=1, speaker=HOSTILE)]
    await spoken.final(HOSTILE, words=words)
    await spoken.status("recovering", reason=HOSTILE)
    await spoken.close("failed", reason=HOSTILE, detail=HOSTILE,
                       gaps=[Gap(start=0, end=1, cause=HOSTILE)])  # fmt: skip
    page = await open_page(f"{gateway.http}/#/c/c")
    await shows(page, ".part", [HOSTILE])
    await shows(page, ".card-words", [HOSTILE])
    overlay = await open_page(f"{gateway.http}/captions/c?fade=0&font=%3Cb%3E")
    await shows(overlay, ".said", [HOSTILE])
    for each in (page, overlay):
        assert await each.evaluate("window.harmed") is None
        assert (
            await each.locator("#captions img, #captions script, .card img, #lines img").count()
            == 0
        )


async def test_the_policy_forbids_markup_from_text_and_scripts_in_markup(
    gateway: GatewayProcess, open_page: OpenPage, ready_broker: Broker
) -> None:
    page = await open_page(f"{gateway.http}/")
    with pytest.raises(Error, match="TrustedHTML"):
        await page.evaluate("document.body.innerHTML = '<b>x</b>'")
    watch = page.watch  # type: ignore[attr-defined]

    async def refused(directive: str) -> None:
        wanted = f"violation of {directive}"
        await until(lambda: any(wanted in each for each in watch.problems), wanted)

    await refused("require-trusted-types-for")
    await page.evaluate(
        """() => {
          const frame = document.createElement("iframe");
          frame.src = "https://example.com/";
          document.body.append(frame);
        }"""
    )
    await refused("frame-src")
    watch.problems.clear()
    watch.requests.clear()


async def test_gaps_recoveries_and_the_account_are_shown(
    gateway: GatewayProcess, ready_broker: Broker, open_page: OpenPage
) -> None:
    spoken = Spoken(ready_broker, "c", "mara", started=datetime.now(UTC) - timedelta(minutes=2))
    await spoken.status("assigned")
    await spoken.status("streaming")
    await spoken.final("one", 2)
    await spoken.status("recovering", reason="connection_lost")
    page = await open_page(f"{gateway.http}/#/c/c")
    await shows(page, ".note", ["mara: recovering (connection lost) …"])
    spoken.at += 1.5
    await spoken.status("streaming")
    await shows(page, ".note", ["mara: recovered in 1.5 s (connection lost)"])
    await spoken.final("two", 2)
    await spoken.close(cost=0.0125, gaps=[Gap(start=2.2, end=3.2, cause="device_lost")],
                       recoveries={"connection_lost": 1})  # fmt: skip
    await shows(page, ".note", [
        "mara: recovered in 1.5 s (connection lost)",
        "mara: 1.0 s of audio are missing (device lost)",
    ])  # fmt: skip
    account = page.locator(".session dl")
    for wanted in ("Gaps1.0 s", "connection lost", "Cost$0.0125", "Audio0:05"):
        await expect(account).to_contain_text(wanted, timeout=bound(10) * 1000)
    await expect(page.locator("#facts")).to_contain_text("latency 300 ms")


async def still(page: Page, place: str) -> float:
    """Return a place once it has been the same for ten pictures of the screen, or for two seconds
    if Chromium draws none.

    It gives a line its true height in the picture after the one in which the line comes into view.
    """
    await page.evaluate(
        """() => {
          window.pictures = 0;
          const count = () => { window.pictures += 1; requestAnimationFrame(count); };
          count();
        }"""
    )
    seen: list[tuple[float, int, float]] = []  # the place, and since which picture and time

    async def same() -> bool:
        now, picture = await page.evaluate(f"[{place}, window.pictures]")
        if not seen or seen[-1][0] != now:
            seen.append((now, picture, time.monotonic()))
        _, since, since_s = seen[-1]
        return picture >= since + 10 or time.monotonic() - since_s > bound(2)

    try:
        await until(same, "the view does not move for ten pictures")
    except AssertionError as error:
        raise AssertionError(f"{error}: {seen[-20:]}") from None
    return seen[-1][0]


async def test_the_view_does_not_jump_while_somebody_reads(
    gateway: GatewayProcess, ready_broker: Broker, open_page: OpenPage
) -> None:
    spoken = Spoken(ready_broker, "c", "mara")
    other = Spoken(ready_broker, "c", "jonas")
    for number in range(40):
        await (spoken, other)[number % 2].final(f"sentence {number}")
        spoken.at = other.at = 3.0 * number
    page = await open_page(f"{gateway.http}/#/c/c")
    await page.locator(".line", has_text="sentence 39").wait_for()
    at_end = "scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < 5"
    await holds(page, at_end)
    assert await page.locator("#jump").is_hidden()
    await page.evaluate("scroller.scrollTop = 300")
    await page.locator("#jump").wait_for()
    place = "document.elementFromPoint(700, 400).closest('.line')?.getBoundingClientRect().top"
    before = await still(page, place)
    await spoken.interim("and now")
    spoken.at = other.at = 200
    await spoken.final("something new")
    await other.final("something else")
    await expect(page.locator("#jump")).to_have_text("Newest (2 new)", use_inner_text=True)
    assert await still(page, place) == pytest.approx(before, abs=1)
    await page.locator("#jump").click()
    await holds(page, at_end)
    await spoken.final("followed again")
    await page.locator(".part", has_text="followed again").wait_for()
    await holds(page, at_end)


async def test_search_copy_and_download(
    gateway: GatewayProcess, ready_broker: Broker, open_page: OpenPage
) -> None:
    spoken, other = Spoken(ready_broker, "c", "mara"), Spoken(ready_broker, "c", "jonas")
    await spoken.final("The harbor is closed.")
    other.at = 3
    await other.final("Which harbor?")
    spoken.at = 6
    await spoken.final("The northern one.")
    page = await open_page(
        f"{gateway.http}/#/c/c", permissions=["clipboard-read", "clipboard-write"]
    )
    await shows(page, ".part", ["The harbor is closed.", "Which harbor?", "The northern one."])
    await page.locator("#search").fill("HARBOR")
    await shows(page, ".part", ["The harbor is closed.", "Which harbor?"])
    await shows(page, "#matches", ["2"])
    assert await page.evaluate("CSS.highlights.get('found').size") == 2
    await page.locator("#search").press("Escape")
    await shows(page, "#matches", [""])
    await page.locator("#copy").click()
    await shows(page, "#toast", ["Transcript copied"])
    assert await page.evaluate("navigator.clipboard.readText()") == (
        "mara: The harbor is closed.\njonas: Which harbor?\nmara: The northern one."
    )
    beginnings = {
        "txt": "[0:00:00] mara", "srt": "1\n00:00", "vtt": "WEBVTT", "md": "# c", "json": "{",
    }  # fmt: skip
    for form, beginning in beginnings.items():
        await page.locator("#download summary").click()
        async with page.expect_download() as waiting:
            await page.locator(f"[data-format={form}]").click()
        download = await waiting.value
        assert download.suggested_filename == f"c.{form}"
        assert Path(await download.path()).read_text().startswith(beginning)


async def test_all_of_it_can_be_done_by_keyboard(
    gateway: GatewayProcess, ready_broker: Broker, open_page: OpenPage
) -> None:
    for name in ("first", "second"):
        spoken = Spoken(ready_broker, name, "s")
        await spoken.status("assigned")
        await spoken.final(f"words of the {name}")
    page = await open_page(f"{gateway.http}/")
    await page.locator(".card").nth(1).wait_for()
    focused = "document.activeElement.id || document.activeElement.className"

    async def tab_to(wanted: str) -> None:
        for _ in range(40):
            await page.keyboard.press("Tab")
            if wanted in await page.evaluate(focused):
                return
        raise AssertionError(f"the tabulator does not reach {wanted}")

    await page.keyboard.press("Tab")
    assert await page.evaluate(focused) == "skip"
    await tab_to("card")
    await page.keyboard.press("Enter")
    await shows(page, ".part", ["words of the second"])
    await tab_to("copy")
    await page.keyboard.press("Tab")
    await page.keyboard.press("Enter")  # the menu
    assert await page.evaluate("download.open")
    await page.keyboard.press("Tab")
    assert await page.evaluate("document.activeElement.dataset.format") == "txt"
    await page.keyboard.press("Escape")
    assert not await page.evaluate("download.open")
    await tab_to("scroller")
    await page.keyboard.press("/")
    assert await page.evaluate(focused) == "search"
    await page.keyboard.type("nothing like it")
    await shows(page, "#matches", ["0"])
    await page.keyboard.press("Escape")
    assert await page.evaluate(focused) == "scroller"
    await page.keyboard.press("Shift+Tab")  # back to the tools
    await tab_to("scroller")
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    assert await page.evaluate(outline) == "solid"


def _worst(name: str) -> EdgePresence:
    """A presence with the longest texts that there may be, and markup in them."""
    source = SourcePresence(
        name=name, kind="k" * 64, state="s" * 64, device=HOSTILE, error="e" * 200,
        findings=[f"finding_{number}" for number in range(31)] + ["f" * 64],
        key=f"default.{name}.{name}", level=Level(peak_dbfs=-0.2, rms_dbfs=-200, zeros=1),
    )  # fmt: skip
    now = datetime.now(UTC)
    return EdgePresence(
        tenant="default", agent=name, version="v" * 64, host="h" * 200, last_error=HOSTILE * 2,
        started_at=now, seen_at=now, sources=[source],
    )  # fmt: skip


async def _store(broker: Broker, presence: EdgePresence) -> None:
    subject = presence_subject(presence.tenant, presence.agent)
    await broker.client.jetstream().publish(subject, presence.encode())


@pytest.mark.parametrize("width", [320, 390, 760, 1024])
async def test_nothing_is_wider_than_the_screen(
    gateway: GatewayProcess, ready_broker: Broker, open_page: OpenPage, width: int
) -> None:
    name = "a-name-as-long-as-names-may-be-0123456789-0123456789-0123456789x"
    spoken = Spoken(ready_broker, name, name)
    await spoken.status("assigned")
    await spoken.final("Donaudampfschifffahrtsgesellschaft" * 8)
    await spoken.close("failed", reason="r" * 200, detail="d" * 300, cost=1.5)
    await _store(ready_broker, _worst(name))
    page = await open_page(f"{gateway.http}/", viewport={"width": width, "height": 640})
    await page.locator(".card").wait_for()
    for address in ("#/", f"#/c/{name}", "#/fleet"):
        await page.evaluate("(hash) => { location.hash = hash; }", address)
        wanted = {"#/": ".card", "#/fleet": ".edge"}.get(address, ".part")
        await page.locator(wanted).first.wait_for()
        wide = await page.evaluate(
            """() => [...document.querySelectorAll("body *")].filter((one) => {
                const box = one.getBoundingClientRect();
                const clip = one.closest(".wide-table, .visually-hidden, svg, .toast, .skip");
                return box.width > 0 && !clip && (box.right > innerWidth + 1 || box.left < -1);
            }).map((one) => one.tagName + "." + one.className)"""
        )
        assert not wide, address
        assert await page.evaluate("document.documentElement.scrollWidth") <= width
    assert HOSTILE in (await texts(page, ".source-device"))[0]
    assert await page.evaluate("window.harmed") is None
    assert await page.locator(".edges img, .edges script").count() == 0


async def test_a_phone_shows_the_list_or_one_conversation(
    gateway: GatewayProcess, ready_broker: Broker, open_page: OpenPage
) -> None:
    spoken = Spoken(ready_broker, "c", "s")
    await spoken.status("assigned")
    await spoken.final("words")
    page = await open_page(f"{gateway.http}/", viewport=NARROW)
    await page.locator(".card").click()
    await shows(page, ".part", ["words"])
    assert await page.locator(".card").is_hidden()
    await page.locator(".back").click()
    await page.locator(".card").wait_for()
    assert await page.locator("#conversation").is_hidden()


async def test_screen_readers_hear_new_finals_alone(
    gateway: GatewayProcess, ready_broker: Broker, open_page: OpenPage
) -> None:
    spoken = Spoken(ready_broker, "c", "mara")
    await spoken.final("said before")
    page = await open_page(f"{gateway.http}/#/c/c")
    await shows(page, ".part", ["said before"])
    log = page.locator("#log")
    assert await log.get_attribute("aria-live") == "polite"
    await holds(page, "document.querySelector('#facts').textContent !== ''")
    await spoken.interim("some")
    await page.locator(".part.interim").wait_for()
    await spoken.final("something new")
    await shows(page, "#log p", ["mara: something new"])
    await spoken.final("and more")
    await shows(page, "#log p", ["mara: something new", "and more"])
    await page.locator("#announce").click()
    await spoken.final("not read out")
    await page.locator(".part", has_text="not read out").wait_for()
    await page.locator("#announce").click()
    await spoken.final("read out")
    await shows(page, "#log p", ["mara: something new", "and more", "read out"])
    live = await page.evaluate(
        "[...document.querySelectorAll('[aria-live], [role=log], [role=status]')].map((e) => e.id)"
    )
    assert "captions" not in live


async def test_text_runs_in_its_own_direction(
    gateway: GatewayProcess, ready_broker: Broker, open_page: OpenPage
) -> None:
    spoken, other = Spoken(ready_broker, "c", "a"), Spoken(ready_broker, "c", "b")
    await spoken.final("مرحبا بالعالم.")
    other.at = 5
    await other.final("Hello.")
    page = await open_page(f"{gateway.http}/#/c/c")
    await shows(page, ".part", ["مرحبا بالعالم.", "Hello."])
    directions = await page.evaluate(
        "[...document.querySelectorAll('.said')].map((each) => getComputedStyle(each).direction)"
    )
    assert directions == ["rtl", "ltr"]


async def test_motion_is_reduced_and_themes_are_kept(
    gateway: GatewayProcess, ready_broker: Broker, open_page: OpenPage
) -> None:
    page = await open_page(f"{gateway.http}/", reduced_motion="reduce", color_scheme="dark")
    background = "getComputedStyle(document.body).backgroundColor"
    dark = await page.evaluate(background)
    duration = "getComputedStyle(document.querySelector('.toast')).transitionDuration"
    assert await page.evaluate(duration) == "0s"
    await page.locator("#theme").click()
    light = await page.evaluate(background)
    assert light != dark
    await page.reload()
    assert await page.evaluate(background) == light
    await page.locator("#theme").click()
    assert await page.evaluate(background) == dark


async def test_a_key_is_exchanged_for_a_token_that_is_kept_for_the_tab(
    locked: GatewayProcess, ready_broker: Broker, keys: Keys, open_page: OpenPage
) -> None:
    key = keys.add("mine")

    async def readable() -> bool:
        return (await call(locked, "/api/me", key))[0] == 200

    await until(readable, "the gateway has read the keys")
    await Spoken(ready_broker, "c", "s", tenant="mine").final("for the holder of the key")
    while (await call(locked, "/api/me"))[0] != 429:
        pass  # somebody behind the same address is refused again and again
    page = await open_page(f"{locked.http}/#/c/c")
    await page.locator("#key").fill("nj_00000000_" + "x" * 43)
    await page.keyboard.press("Enter")
    await page.locator("#login-error", has_text="key").wait_for()
    await page.keyboard.press("Escape")
    assert await page.locator("#login").is_visible()
    await page.locator("#key").fill(key)
    await page.keyboard.press("Enter")
    await shows(page, ".part", ["for the holder of the key"])
    stored = await page.evaluate("JSON.stringify([{...sessionStorage}, {...localStorage}])")
    assert key not in stored
    assert stored.count(".") == 2 + stored.count("natterjack.")  # a token has two
    await page.reload()
    await shows(page, ".part", ["for the holder of the key"])
    watch = page.watch  # type: ignore[attr-defined]
    assert not [request.url for request in watch.requests if "token=" in request.url]
    await page.locator("#logout").click()
    await page.locator("#login").wait_for()
    assert await page.evaluate("sessionStorage.length") == 0


async def test_a_token_is_renewed_while_the_page_is_open(
    nats_server: NatsServer, ready_broker: Broker, keys: Keys, open_page: OpenPage
) -> None:
    key = keys.add("mine", conversations=("c*",))
    gateway = GatewayProcess(nats_server.url, **keys.settings, GATEWAY_TOKEN_MAX_SECONDS="4")
    await gateway.start()
    try:
        spoken = Spoken(ready_broker, "c", "s", tenant="mine")
        await spoken.final("one")
        page = await open_page(f"{gateway.http}/#/c/c")
        await page.locator("#key").fill(key)
        await page.keyboard.press("Enter")
        await shows(page, ".part", ["one"])
        watch = page.watch  # type: ignore[attr-defined]

        def asked(path: str) -> int:
            return sum(path in request.url for request in watch.requests)

        await until(lambda: asked("/api/tokens") > 1 and asked("/events") > 1, "it is renewed")
        await spoken.final("two")
        await shows(page, ".part", ["one", "two"])
        async with page.expect_response("**/api/edges") as refused:
            await page.evaluate("location.hash = '#/fleet'")
        assert (await refused.value).status == 403  # the key is for some conversations only
        await page.locator(".figure").first.wait_for()
        assert await page.get_by_role("region", name="Edges").count() == 0
        assert await page.locator("#login").is_hidden()
    finally:
        await gateway.stop()


async def test_the_fleet_is_shown_with_charts_that_can_be_read_out_and_edges_with_levels(
    nats_server: NatsServer, gateway: GatewayProcess, ready_broker: Broker, open_page: OpenPage
) -> None:
    for minutes in (40, 20, 1):
        started = datetime.now(UTC) - timedelta(minutes=minutes)
        spoken = Spoken(ready_broker, f"c{minutes}", "s", started=started)
        await spoken.status("assigned")
        await spoken.final("words", 30, latency=0.5)
        await spoken.close()
    page = await open_page(f"{gateway.http}/#/fleet")
    chart = page.get_by_role("img", name="Latency of finals in the last hour")
    await expect(chart).to_have_accessible_name(
        "Latency of finals in the last hour: from 511 ms to 511 ms, now 511 ms"
    )
    assert await page.locator(".chart .curve").count() == 2
    await chart.hover()
    await page.locator(".legend", has_text="finals").first.wait_for()

    room = Room(tenant="default")
    elsewhere = Room("their-room", tenant="other")
    async with reporting(nats_server, elsewhere), reporting(nats_server, room):
        await shows(page, ".edge-name", ["room-12"])
        await shows(page, ".edge-state", ["running"])
        await shows(page, ".source-state", ["capturing"])
        await shows(page, ".source-device", ["USB"])
        level = page.get_by_role("img", name="Level of the last 10 s: peak -12 dBFS, RMS -31 dBFS")
        assert await level.evaluate("(one) => one.getBoundingClientRect().width") > 50
        link = page.get_by_role("link", name="Conversation lecture, speaker teacher")
        assert await link.get_attribute("href") == "#/c/lecture"
        await expect(page.locator(".edge-facts")).to_contain_text("1:15 not yet sent")
        first = await page.locator(".edge").element_handle()
        assert first is not None
        room.state, room.findings = "muted", ["input_low"]
        room.changed.set()
        await shows(page, ".source-state", ["muted"])
        await shows(page, ".findings li", ["input low"])
        await shows(page, ".panel h2 small", ["1 running  ·  1 with findings or problems"])
        assert await first.evaluate("(one) => one.isConnected")

    async def stopped() -> bool:
        return "stopped, seen" in " ".join(await texts(page, ".edge-state"))

    await until(stopped, "it is shown as stopped")
    assert await page.locator(".level").is_hidden()
