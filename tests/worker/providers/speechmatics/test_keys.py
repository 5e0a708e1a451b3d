"""The key of a connection: configured or obtained."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from pydantic import SecretStr

from natterjack.emulators.speechmatics.emulator import SpeechmaticsEmulator
from natterjack.plugin.errors import (
    ProviderError,
    RemoteProtocolError,
    RequestRefused,
    Unavailable,
)
from tests.waiting import bound, until, within
from worker.providers.speechmatics import SpeechmaticsProvider

from ..emulated.streams import opened, request, shown
from ..emulated.table import SPEECHMATICS

Make = Callable[..., SpeechmaticsProvider]


def authorizations(emulator: SpeechmaticsEmulator) -> list[str]:
    return [request["authorization"] for request in emulator.requests]


async def test_the_api_key_goes_in_the_header(make: Make, emulator: SpeechmaticsEmulator) -> None:
    async with opened(make(app="captions")):
        pass
    assert authorizations(emulator) == [f"Bearer {SPEECHMATICS.secret}"]
    assert emulator.requests[0]["sm-app"] == "captions"
    assert emulator.requests[0]["x-request-id"]
    assert "jwt" not in emulator.requests[0]


async def test_a_configured_temporary_key(make: Make, emulator: SpeechmaticsEmulator) -> None:
    emulator.temporary_keys.append("eyJ-given")
    async with opened(make(api_key=None, temporary_key=SecretStr("eyJ-given"))):
        pass
    assert authorizations(emulator) == ["Bearer eyJ-given"]


async def test_temporary_keys_are_obtained_and_used_again(
    make: Make, emulator: SpeechmaticsEmulator
) -> None:
    provider = make(temporary_keys=True)
    streams = await asyncio.gather(*(provider.open(request()) for _ in range(3)))
    for stream in streams:
        await stream.close()
    (key,) = emulator.temporary_keys
    assert authorizations(emulator) == [f"Bearer {key}"] * 3


@pytest.mark.parametrize("in_band", [False, True])
async def test_a_temporary_key_that_is_refused_is_not_used_again(
    make: Make, emulator: SpeechmaticsEmulator, in_band: bool
) -> None:
    provider = make(temporary_keys=True)
    async with opened(provider):
        pass
    emulator.temporary_keys.clear()
    await emulator.set(auth_in_band=in_band)
    with pytest.raises(RequestRefused) as caught:
        await provider.open(request())
    assert caught.value.cause == "auth"
    async with opened(provider):
        pass
    assert len(emulator.temporary_keys) == 1


@pytest.mark.parametrize(
    ("status", "kind", "cause"),
    [
        (403, RequestRefused, "auth"),
        (404, RequestRefused, "auth"),
        (410, RequestRefused, "auth"),
        (500, Unavailable, "server_error"),
        (302, RemoteProtocolError, "protocol"),
    ],
)
async def test_no_key_is_given(
    make: Make,
    emulator: SpeechmaticsEmulator,
    status: int,
    kind: type[ProviderError],
    cause: str,
) -> None:
    await emulator.set(management_status=status)
    provider = make(temporary_keys=True)
    with pytest.raises(kind) as caught:
        await provider.open(request())
    assert (caught.value.cause, caught.value.code) == (cause, str(status))
    assert emulator.log == [], "no connection was attempted"
    await emulator.clear()
    async with opened(provider):
        pass


async def test_a_wrong_api_key_is_never_in_an_error(
    make: Make, emulator: SpeechmaticsEmulator, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    emulator.api_key = "another"
    with pytest.raises(RequestRefused) as caught:
        await make(temporary_keys=True).open(request())
    assert SPEECHMATICS.secret not in shown(caught.value) + caplog.text


@asynccontextmanager
async def management(answer: Callable[..., Any]) -> AsyncIterator[str]:
    """A management endpoint with a custom response."""

    async def serve(request: web.Request) -> Any:
        return await answer(request) if asyncio.iscoroutinefunction(answer) else answer()

    app = web.Application()
    app.router.add_post("/v1/api_keys", serve)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@pytest.mark.parametrize("body", ["no JSON", "[]", "{}", '{"key_value": ""}', '{"key_value": 7}'])
async def test_malformed_responses(make: Make, body: str) -> None:
    async with management(lambda: web.Response(status=201, text=body)) as url:
        with pytest.raises(RemoteProtocolError):
            await make(temporary_keys=True, management_url=url).open(request())


async def test_no_response(make: Make) -> None:
    async with management(lambda: web.Response()) as url:
        pass
    with pytest.raises(Unavailable) as caught:
        await make(temporary_keys=True, management_url=url).open(request())
    assert caught.value.cause == "connect"
    assert SPEECHMATICS.secret not in shown(caught.value)


async def test_the_wait_for_a_key_is_bounded(make: Make) -> None:
    asked = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    async with server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        provider = make(temporary_keys=True, management_url=url, connect_timeout_seconds=0.2)
        async with within(5):
            with pytest.raises(Unavailable, match=r"within 0\.2 s"):
                await provider.open(request())
        assert asked.is_set()
        await provider.close()


@asynccontextmanager
async def mute_management() -> AsyncIterator[tuple[str, list[bytes]]]:
    """A management endpoint that never responds, and the requests that it receives."""
    asked: list[bytes] = []

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readline())
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", asked


async def test_waiters_share_a_failure(make: Make) -> None:
    """Each fails within one timeout, not one after another."""
    async with mute_management() as (url, asked):
        provider = make(temporary_keys=True, management_url=url, connect_timeout_seconds=0.5)
        began = asyncio.get_running_loop().time()
        opening = [asyncio.create_task(provider.open(request())) for _ in range(20)]
        errors = await asyncio.gather(*opening, return_exceptions=True)
        took = asyncio.get_running_loop().time() - began
        assert {type(error) for error in errors} == {Unavailable}
        assert took < bound(5)
        assert len(asked) == 1
        with pytest.raises(Unavailable):
            await provider.open(request())
        assert len(asked) == 2, "a failure is not remembered"
        await provider.close()


async def test_a_cancelled_waiter_does_not_affect_the_others(
    make: Make, emulator: SpeechmaticsEmulator
) -> None:
    go = asyncio.Event()
    asked = 0

    async def serve(_: web.Request) -> web.Response:
        nonlocal asked
        asked += 1
        await go.wait()
        return web.json_response({"key_value": "eyJ-late"}, status=201)

    emulator.temporary_keys.append("eyJ-late")
    async with management(serve) as url:
        provider = make(temporary_keys=True, management_url=url)
        first, second = (asyncio.create_task(provider.open(request())) for _ in range(2))
        await until(lambda: asked, "the key is asked for")
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        go.set()
        await (await second).close()
        assert asked == 1
    assert authorizations(emulator) == ["Bearer eyJ-late"]


async def test_closing_ends_the_wait_for_a_key(make: Make) -> None:
    async with mute_management() as (url, asked):
        provider = make(temporary_keys=True, management_url=url, connect_timeout_seconds=60)
        opening = asyncio.create_task(provider.open(request()))
        await until(lambda: asked, "the key is asked for")
        async with within(5):
            await provider.close()
            with pytest.raises(Unavailable, match="closed"):
                await opening
            await provider.close()
        with pytest.raises(Unavailable, match="closed"):
            await provider.open(request())
        assert len(asked) == 1
