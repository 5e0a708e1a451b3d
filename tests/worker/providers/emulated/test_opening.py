"""Opening streams: refusals, servers that do not answer, keys, closed providers."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any

import pytest

from natterjack.emulators.server import Emulator
from natterjack.plugin.errors import Dropped, ProviderError, RequestRefused, Unavailable
from natterjack.plugin.provider import Provider, ProviderStream
from tests.waiting import bound, soon, until, within

from .streams import WORDS, fail, final_words, opened, request, shown, transcribe
from .table import (
    AGENT,
    DEEPGRAM,
    DEEPGRAM_REST,
    FLUX,
    HTTP_ERRORS,
    SPEECHMATICS,
    STREAMING,
    Emulated,
    Silent,
)

Make = Callable[..., Provider]
SILENT = [(case, silent) for case in STREAMING for silent in case.silent]
GREETING = [case for case in STREAMING if case.silent]
"""Providers whose server sends a message before it takes audio."""


async def error_of(case: Emulated, provider: Provider, **changes: Any) -> ProviderError:
    """Return the error of `open`, or of the first request where `open` does not connect."""
    if case is DEEPGRAM_REST:
        return (await fail(provider, **changes))[1]
    with pytest.raises(ProviderError) as caught:
        await soon(provider.open(request(**changes)), 5)
    return caught.value


# ---- no connection --------------------------------------------------------------------------


@pytest.mark.parametrize(("status", "kind", "cause"), HTTP_ERRORS)
async def test_refused_handshakes(
    provider: Provider, emulator: Emulator, status: int, kind: type[ProviderError], cause: str
) -> None:
    await emulator.set(handshake_status=status, handshakes=1)
    with pytest.raises(kind) as caught:
        await provider.open(request())
    error = caught.value
    assert (error.provider, error.cause, error.code) == (provider.name, cause, str(status))
    async with opened(provider):
        pass


@pytest.mark.parametrize(
    "fault", [{"refuse": True}, {"handshake_drop": True}, {"handshake_delay_seconds": 9}]
)
async def test_unreachable(make: Make, emulator: Emulator, fault: dict[str, Any]) -> None:
    await emulator.set(**fault)
    provider = make(connect_timeout_seconds=bound(0.3))
    with pytest.raises(Unavailable) as caught:
        await provider.open(request())
    assert caught.value.cause == "connect"
    await until(lambda: not emulator.open_connections, "no connection is left open")
    await emulator.clear()
    async with opened(provider):
        pass


@pytest.mark.parametrize("case", [*STREAMING, DEEPGRAM_REST], ids=str)
async def test_no_tls_where_it_is_expected(case: Emulated, make: Make, emulator: Emulator) -> None:
    scheme, _, address = case.settings(emulator)[case.own("url")].partition("://")
    error = await error_of(case, make(url=f"{scheme}s://{address}"))
    assert isinstance(error, Unavailable)
    assert error.cause == "connect"


@pytest.mark.parametrize(
    ("case", "switches"),
    [
        *((case, {}) for case in (*STREAMING, DEEPGRAM_REST)),
        (SPEECHMATICS, {"auth_in_band": True}),
        (AGENT, {"auth_in_band": True}),
    ],
    ids=str,
)
async def test_a_wrong_key_is_never_shown(
    case: Emulated,
    make: Make,
    emulator: Emulator,
    caplog: pytest.LogCaptureFixture,
    switches: dict[str, Any],
) -> None:
    caplog.set_level("DEBUG")
    emulator.api_key = "another"
    await emulator.set(**switches)
    error = await error_of(case, make())
    assert isinstance(error, RequestRefused)
    assert error.cause == "auth"
    assert case.secret not in shown(error) + caplog.text
    assert re.search(case.wrong_key, str(error))


@pytest.mark.parametrize("case", [DEEPGRAM, DEEPGRAM_REST], ids=str)
async def test_a_model_that_the_key_does_not_allow(case: Emulated, provider: Provider) -> None:
    error = await error_of(case, provider, model="nova-9")
    assert isinstance(error, RequestRefused)
    assert (error.cause, error.retryable) == ("auth", False)
    assert "does not have access" in str(error)


async def test_a_closed_provider_opens_no_streams(provider: Provider, emulator: Emulator) -> None:
    """Nobody would close the session that a new stream needs."""
    async with opened(provider):
        pass
    await provider.close()
    await provider.close()
    with pytest.raises(Unavailable, match="closed") as caught:
        await provider.open(request())
    assert caught.value.cause == "connect"
    assert len(emulator.log) == 1


@pytest.mark.parametrize("case", [SPEECHMATICS], ids=str)  # one connector serves all of them
async def test_more_streams_than_a_pool_would_hold(provider: Provider, emulator: Emulator) -> None:
    streams: list[ProviderStream] = []
    async with within(30):
        for _ in range(12):  # all at once, a busy machine needs longer than a connection may take
            streams += await asyncio.gather(*(provider.open(request()) for _ in range(10)))
    assert emulator.open_connections == 120
    await asyncio.gather(*(stream.close() for stream in streams))
    await until(lambda: not emulator.open_connections, "all connections are closed")


# ---- a server that does not start the session ------------------------------------------------


@pytest.mark.parametrize(("case", "silent"), SILENT, ids=str)
async def test_the_wait_for_the_start_is_bounded(
    make: Make, emulator: Emulator, silent: Silent
) -> None:
    await emulator.set(**silent.faults)
    seconds = bound(0.15)
    provider = make(**{silent.timeout: seconds})
    with pytest.raises(silent.kind, match=f"{silent.message} within {seconds:g} s") as caught:
        await soon(provider.open(request()), 5)
    assert caught.value.cause == silent.cause
    await until(lambda: not emulator.open_connections, "the connection is closed")
    await emulator.clear()
    async with opened(provider):
        pass


async def waiting_for_start(
    case: Emulated, provider: Provider, emulator: Emulator
) -> asyncio.Task[object]:
    """Return a call of `open` that has sent its first message, if there is one, and waits."""
    await emulator.set(**case.silent[0].faults)
    opening: asyncio.Task[object] = asyncio.create_task(provider.open(request()))
    await until(lambda: emulator.open_connections, "the connection is open")
    await until(lambda: case is FLUX or emulator.log[0].texts, "the first message was sent")
    return opening


@pytest.mark.parametrize("case", GREETING, ids=str)
async def test_a_cancelled_wait_closes_the_connection(
    case: Emulated, provider: Provider, emulator: Emulator
) -> None:
    opening = await waiting_for_start(case, provider, emulator)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    await until(lambda: not emulator.open_connections, "the connection is closed")


@pytest.mark.parametrize("case", GREETING, ids=str)
async def test_a_drop_before_the_start(
    case: Emulated, provider: Provider, emulator: Emulator
) -> None:
    opening = await waiting_for_start(case, provider, emulator)
    emulator.drop()
    with pytest.raises(Dropped):
        await soon(opening, 5)


@pytest.mark.parametrize("case", GREETING, ids=str)
async def test_garbage_before_the_start_changes_no_word(
    provider: Provider, emulator: Emulator
) -> None:
    await emulator.set(garbage=("not_json",))
    assert final_words(await transcribe(provider)) == WORDS
