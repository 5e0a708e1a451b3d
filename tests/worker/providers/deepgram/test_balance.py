"""Reading the balance of the emulated account."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from natterjack.emulators import tones
from natterjack.emulators.deepgram.listen import DeepgramEmulator
from natterjack.plugin.base import Balance
from natterjack.plugin.errors import (
    Dropped,
    ProviderError,
    RemoteProtocolError,
    RequestRefused,
    Stalled,
    Unavailable,
)
from tests.waiting import within
from worker.providers.deepgram import DeepgramProvider

from ..emulated.streams import collect, opened, send, shown

Make = Callable[..., DeepgramProvider]
ADMIN = "s3cret-0f-the-purse"


@pytest.fixture
async def admin(emulator: DeepgramEmulator, make: Make) -> DeepgramProvider:
    """A provider that may read the balance, which is 100 USD."""
    await emulator.set(roles={ADMIN: "admin"}, balances=[{"amount": 100}])
    return make(api_url=emulator.account_url, admin_key=ADMIN, balance_seconds=60)


def requested(emulator: DeepgramEmulator) -> list[str]:
    """The last segments of the requested paths."""
    return [entry.path.rpartition("/")[2] for entry in emulator.account_requests]


async def test_the_balance_falls_as_audio_is_transcribed(
    emulator: DeepgramEmulator, admin: DeepgramProvider
) -> None:
    assert admin.balance_seconds == 60
    await emulator.set(price_per_hour=3600)
    assert await admin.balance() == [Balance(100, "USD")]
    audio = tones.encode(tones.sequence(3))
    async with opened(admin) as stream:
        await send(stream, audio)
        await stream.finish()
        await collect(stream)
    (balance,) = await admin.balance()
    assert balance.unit == "USD"
    assert balance.amount == pytest.approx(100 - len(audio) / 32000, abs=1e-5)


async def test_several_balances(emulator: DeepgramEmulator, admin: DeepgramProvider) -> None:
    await emulator.set(
        balances=[
            {"amount": 1.5, "units": "usd"},
            {"amount": 2.5, "units": "USD"},
            {"amount": 9, "units": "hour"},
        ]
    )
    assert await admin.balance() == [Balance(4, "USD"), Balance(9, "hours")]
    await emulator.set(balances=[])
    assert await admin.balance() == []


async def test_the_project_is_looked_up_once(
    emulator: DeepgramEmulator, admin: DeepgramProvider
) -> None:
    for _ in range(3):
        await admin.balance()
    assert requested(emulator) == ["projects", "balances", "balances", "balances"]


async def test_the_project_is_looked_up_again_when_it_is_gone(
    emulator: DeepgramEmulator, admin: DeepgramProvider
) -> None:
    await admin.balance()
    await emulator.set(projects=0)
    with pytest.raises(RequestRefused, match="Project not found"):
        await admin.balance()
    with pytest.raises(RequestRefused, match="no project"):
        await admin.balance()
    await emulator.set(projects=1)
    assert await admin.balance() == [Balance(100, "USD")]
    assert requested(emulator).count("projects") == 3


async def test_one_of_several_projects_is_chosen(
    emulator: DeepgramEmulator, admin: DeepgramProvider, make: Make
) -> None:
    await emulator.set(projects=2)
    with pytest.raises(RequestRefused, match="DEEPGRAM_PROJECT_ID") as refused:
        await admin.balance()
    assert refused.value.cause == "request"
    assert all(project_id in str(refused.value) for project_id in emulator.project_ids)
    emulator.account_requests.clear()
    chosen = make(api_url=emulator.account_url, admin_key=ADMIN, project_id=emulator.project_ids[0])
    assert await chosen.balance() == [Balance(100, "USD")]
    assert requested(emulator) == ["balances"]
    stranger = make(api_url=emulator.account_url, admin_key=ADMIN, project_id="mine")
    with pytest.raises(RequestRefused, match="UUID parsing failed"):
        await stranger.balance()


async def test_a_key_without_permission(
    emulator: DeepgramEmulator, admin: DeepgramProvider, make: Make
) -> None:
    await emulator.set(roles={ADMIN: "member"})
    with pytest.raises(RequestRefused, match=r"billing:read.*sufficient permissions") as refused:
        await admin.balance()
    assert (refused.value.cause, refused.value.code) == ("auth", "401")
    with pytest.raises(RequestRefused, match=r"billing:read.*Invalid credentials") as refused:
        await make(api_url=emulator.account_url, admin_key="unknown").balance()
    assert (refused.value.cause, refused.value.code) == ("auth", "401")


@pytest.mark.parametrize(
    ("switches", "kind", "cause"),
    [
        ({"account_status": 429}, Unavailable, "rate_limit"),
        ({"account_status": 503}, Unavailable, "server_error"),
        ({"account_status": 302}, RemoteProtocolError, "protocol"),
        ({"account_body": "<html>"}, RemoteProtocolError, "protocol"),
        ({"account_body": '{"balances": [{}]}'}, RemoteProtocolError, "protocol"),
        ({"account_body": " " * 1_100_000}, RemoteProtocolError, "protocol"),
        ({"account_drop": True}, Dropped, "dropped"),
        ({"refuse": True}, Unavailable, "connect"),
    ],
)
async def test_failures_are_distinguished_and_temporary(
    emulator: DeepgramEmulator,
    admin: DeepgramProvider,
    switches: dict[str, Any],
    kind: type[ProviderError],
    cause: str,
) -> None:
    await admin.balance()
    await emulator.set(**switches)
    with pytest.raises(ProviderError) as failed:
        await admin.balance()
    assert (type(failed.value), failed.value.cause) == (kind, cause)
    assert len(str(failed.value)) < 500
    await emulator.clear()
    await emulator.set(roles={ADMIN: "owner"}, balances=[{"amount": 7}])
    assert await admin.balance() == [Balance(7, "USD")]


async def test_the_wait_for_a_response_is_bounded(emulator: DeepgramEmulator, make: Make) -> None:
    await emulator.set(account_delay_seconds=600)
    hasty = make(api_url=emulator.account_url, admin_key=ADMIN, connect_timeout_seconds=0.3)
    with pytest.raises(Stalled) as stalled:
        await hasty.balance()
    assert stalled.value.cause == "mute"


async def test_cancelling_leaves_nothing_open(
    emulator: DeepgramEmulator, admin: DeepgramProvider
) -> None:
    # An open session would be a warning, and warnings are errors.
    await emulator.set(account_delay_seconds=0.2)
    reading = asyncio.create_task(admin.balance())
    await asyncio.sleep(0)  # the request starts
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    reading = asyncio.create_task(admin.balance())
    async with within(10):  # until the first request is answered, and before the second one is
        while not emulator.account_requests:
            await asyncio.sleep(0)  # a turn of the loop: the next answer takes several
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading


@pytest.mark.parametrize("status", [200, 302, 400, 401, 404, 503])
@pytest.mark.parametrize(
    "echo",
    [
        "you sent Authorization: Token {key}",
        '{{"err_msg": "wrong key {key}"}}',
        '{{"projects": "{key}"}}',
        '{{"projects": [{{"{key}": 1}}]}}',
    ],
)
async def test_the_key_is_never_in_an_error(
    emulator: DeepgramEmulator, admin: DeepgramProvider, status: int, echo: str
) -> None:
    await emulator.set(account_body=echo.format(key=ADMIN), account_status=status)
    with pytest.raises(ProviderError) as failed:
        await admin.balance()
    assert ADMIN not in shown(failed.value)
    assert ADMIN not in repr(admin) + repr(vars(admin))


async def test_the_key_is_not_in_the_error_of_a_lost_connection(make: Make) -> None:
    """The server echoes the request's headers, which is not an HTTP response."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        writer.write(request[request.index(b"Authorization") :])
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        provider = make(api_url=f"http://127.0.0.1:{port}", admin_key=ADMIN)
        with pytest.raises(Dropped) as failed:
            await provider.balance()
    assert "Authorization: Token ***" in shown(failed.value)
    assert ADMIN not in shown(failed.value)
