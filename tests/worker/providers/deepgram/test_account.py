"""Reading the balance: the wire format, and the plugin against the emulated account."""

from __future__ import annotations

import asyncio
import json
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from natterjack.errors import UsageError
from natterjack.plugin.errors import (
    Dropped,
    ProviderError,
    RemoteProtocolError,
    RequestRefused,
    Stalled,
    Unavailable,
)
from natterjack.plugin.provider import Balance
from natterjack.settings import load
from tests.emulators import tones
from tests.emulators.deepgram import DeepgramEmulator
from tests.emulators.specification import load_specification
from tests.waiting import until
from worker.providers.deepgram import DeepgramProvider, account
from worker.providers.deepgram.settings import DeepgramSettings
from worker.providers.loading import load_class

from .conftest import hear, opened, send

ADMIN = "s3cret-0f-the-purse"
SPECIFICATION = Path(__file__).parents[3] / "emulators" / "specs" / "deepgram-openapi.yml"
Make = Callable[..., DeepgramProvider]


def body(**content: Any) -> bytes:
    return json.dumps(content).encode()


def balances(*items: Any) -> bytes:
    return body(balances=list(items))


# ---- out ------------------------------------------------------------------------------------


def test_requests_are_those_of_the_specification() -> None:
    key = SecretStr(ADMIN)
    paths = load_specification(SPECIFICATION)["paths"]
    first = account.projects_request("https://h", key)
    second = account.balances_request("https://h", key, "an-id")
    assert first.url == "https://h/v1/projects"
    assert "get" in paths["/v1/projects"]
    assert second.url == "https://h/v1/projects/an-id/balances"
    assert "get" in paths["/v1/projects/{project_id}/balances"]
    for request in (first, second):
        assert request.headers == {"Authorization": f"Token {ADMIN}"}
        assert ADMIN not in repr(request)


def test_a_project_stays_within_its_part_of_the_path() -> None:
    request = account.balances_request("https://h", SecretStr("k"), "a/b?c#d é")
    assert request.url == "https://h/v1/projects/a%2Fb%3Fc%23d%20%C3%A9/balances"


# ---- in -------------------------------------------------------------------------------------


def test_projects() -> None:
    both = [{"project_id": "a", "name": "A"}, {"project_id": "b"}]
    assert account.decode_projects(body(projects=both)) == ["a", "b"]
    assert account.decode_projects(body(projects=[])) == []


@pytest.mark.parametrize(
    "said",
    [
        *(b"", b"<html>", b"\xff", b"[]", b"null", b"{}", b"[" * 100_000),
        *(body(projects=None), body(projects={}), body(projects=["a"])),
        *(body(projects=[{"project_id": 7}]), body(projects=[{"project_id": ""}])),
        body(projects=[{"name": "A"}]),
    ],
)
def test_malformed_projects(said: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        account.decode_projects(said)


def test_a_single_project_is_chosen() -> None:
    assert account.only_project(["a"]) == "a"
    with pytest.raises(RequestRefused, match=r"2 projects: set DEEPGRAM_PROJECT_ID .*\(a, b\)"):
        account.only_project(["a", "b"])
    with pytest.raises(RequestRefused, match="no project"):
        account.only_project([])


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        ([], []),
        ([{"amount": 150.25, "units": "usd"}], [Balance(150.25, "USD")]),
        (
            [{"amount": 0.25, "units": u} for u in ("usd", "USD", " Usd ")],
            [Balance(0.75, "USD")],
        ),
        (
            [
                {"amount": 10, "units": "usd"},
                {"amount": 2.5, "units": "hour"},
                {"amount": 1, "units": "Hours"},
                {"amount": 4, "units": "eur"},
            ],
            [Balance(4, "EUR"), Balance(10, "USD"), Balance(3.5, "hours")],
        ),
        ([{"amount": 60, "units": "seconds"}], [Balance(60, "seconds")]),
        (
            [{"amount": 5, "units": "usd"}, {"amount": -7.5, "units": "usd"}],
            [Balance(-2.5, "USD")],
        ),
        ([{"units": "usd"}], [Balance(0, "USD")]),
    ],
)
def test_balances_are_summed_by_unit(items: list[Any], expected: list[Balance]) -> None:
    assert account.decode_balances(balances(*items)) == expected


@pytest.mark.parametrize(
    "said",
    [
        *(b"", b"Service OK", b"[]", b"{}", body(balances=None), body(balances={})),
        *(balances(7), balances(None), balances({"amount": "1", "units": "usd"})),
        *(balances({"amount": True, "units": "usd"}), balances({"amount": None, "units": "usd"})),
        *(b'{"balances": [{"amount": %s, "units": "usd"}]}' % n for n in (b"NaN", b"1e999")),
        b'{"balances": [{"amount": 1%s, "units": "usd"}]}' % (b"0" * 400),
        b'{"balances": [{"amount": 1%s, "units": "usd"}]}' % (b"0" * 5000),
        balances(*[{"amount": 1e308, "units": "usd"}] * 2),
        *(balances({"amount": 1}), balances({"amount": 1, "units": None})),
        *(balances({"amount": 1, "units": u}) for u in ("", "credits", "us1", "üsd", "$")),
        balances({"amount": 1, "units": "usd"}, {"amount": 1, "units": 7}),
    ],
)
def test_malformed_balances(said: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        account.decode_balances(said)


@pytest.mark.parametrize(
    ("status", "kind", "cause"),
    [
        (204, RemoteProtocolError, "protocol"),
        (302, RemoteProtocolError, "protocol"),
        (400, RequestRefused, "request"),
        (401, RequestRefused, "auth"),
        (402, RequestRefused, "credit"),
        (403, RequestRefused, "auth"),
        (404, RequestRefused, "request"),
        (408, Unavailable, "server_error"),
        (429, Unavailable, "rate_limit"),
        (500, Unavailable, "server_error"),
        (503, Unavailable, "server_error"),
    ],
)
def test_statuses(status: int, kind: type[ProviderError], cause: str) -> None:
    error = account.status_error(status, body(err_code="X", err_msg="because"))
    assert type(error) is kind
    assert (error.provider, error.cause, error.code) == ("deepgram", cause, str(status))
    assert ("because" in str(error)) == (status >= 400)
    assert ("billing:read" in str(error)) == (status in (401, 403))
    assert ("DEEPGRAM_PROJECT_ID" in str(error)) == (status == 404)


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (body(err_code="C", err_msg="legacy"), "legacy"),
        (body(category="C", message="modern", details="and why"), "modern and why"),
        (b"UUID parsing failed: x", "UUID parsing failed: x"),
        (b"", "the request was refused"),
        (b'"text"', '"text"'),
    ],
)
def test_errors_are_quoted(said: bytes, shown: str) -> None:
    for status in (401, 404, 503):
        assert str(account.status_error(status, said)).endswith(f": {shown} ({status})")


@pytest.mark.parametrize("status", [401, 404, 503])
def test_long_errors_are_cut(status: int) -> None:
    error = str(account.status_error(status, b"x" * 5000))
    assert "x" * 100 in error
    assert len(error) < 400


# ---- settings -------------------------------------------------------------------------------


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = DeepgramSettings()
    assert settings.admin_key is None
    assert settings.api_url == "https://api.deepgram.com"
    assert (settings.balance_seconds, settings.project_id) == (300, None)
    monkeypatch.setenv("DEEPGRAM_ADMIN_KEY", f" {ADMIN}\n")
    monkeypatch.setenv("DEEPGRAM_API_URL", "http://127.0.0.1:9/")
    monkeypatch.setenv("DEEPGRAM_BALANCE_SECONDS", "60")
    monkeypatch.setenv("DEEPGRAM_PROJECT_ID", " ")
    settings = DeepgramSettings()
    assert settings.admin_key == SecretStr(ADMIN)
    assert settings.api_url == "http://127.0.0.1:9"
    assert (settings.balance_seconds, settings.project_id) == (60, None)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("api_url", "wss://api.deepgram.com"),
        ("api_url", "api.deepgram.com"),
        ("api_url", "https://"),
        ("balance_seconds", "-1"),
        ("admin_key", "two\nlines"),
        ("admin_key", "two words"),
    ],
)
def test_wrong_settings_are_named(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValidationError):
        DeepgramSettings(**{name: value})  # type: ignore[arg-type]
    monkeypatch.setenv(f"DEEPGRAM_{name.upper()}", value)
    with pytest.raises(UsageError, match=f"DEEPGRAM_{name.upper()}") as wrong:
        load(DeepgramSettings)
    assert value not in str(wrong.value) or name != "admin_key"


@pytest.mark.parametrize("settings", [{}, {"admin_key": " "}, {"balance_seconds": 0}])
async def test_the_balance_is_not_read_without_a_key_or_an_interval(
    emulator: DeepgramEmulator, make: Make, settings: dict[str, Any]
) -> None:
    if "balance_seconds" in settings:
        settings = {**settings, "admin_key": ADMIN}
    provider = make(api_url=emulator.account_url, **settings)
    assert provider.balance_seconds == 0
    assert await provider.balance() == []
    assert emulator.account_requests == []


def test_only_one_provider_reads_the_balance(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("API_KEY", "ADMIN_KEY"):
        monkeypatch.setenv(f"DEEPGRAM_{name}", ADMIN)
    made = {}
    for name in ("deepgram", "deepgram-flux", "deepgram-rest"):
        found = load_class(name)
        made[name] = found(found.Settings()).balance_seconds
    assert made == {"deepgram": 300, "deepgram-flux": 0, "deepgram-rest": 0}


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"api_url": "http://127.0.0.1:9", "admin_key": ADMIN}, True),
        ({"api_url": "http://127.0.0.1:9"}, False),
        ({"admin_key": ADMIN}, False),
    ],
)
def test_a_key_without_encryption_logs_a_warning(
    make: Make, caplog: pytest.LogCaptureFixture, settings: dict[str, Any], told: bool
) -> None:
    make(**settings)
    assert ("balance without encryption" in caplog.text) == told
    assert ADMIN not in caplog.text


# ---- the emulated account -------------------------------------------------------------------


@pytest.fixture
async def rich(emulator: DeepgramEmulator, make: Make) -> DeepgramProvider:
    """A provider that may read the balance, which is 100 USD."""
    await emulator.set(roles={ADMIN: "admin"}, balances=[{"amount": 100}])
    return make(api_url=emulator.account_url, admin_key=ADMIN, balance_seconds=60)


def asked(emulator: DeepgramEmulator) -> list[str]:
    """The last segments of the requested paths."""
    return [entry.path.rpartition("/")[2] for entry in emulator.account_requests]


async def test_the_balance_falls_as_audio_is_transcribed(
    emulator: DeepgramEmulator, rich: DeepgramProvider
) -> None:
    assert rich.balance_seconds == 60
    await emulator.set(price_per_hour=3600)
    assert await rich.balance() == [Balance(100, "USD")]
    audio = tones.encode(tones.sequence(3))
    async with opened(rich) as stream:
        await send(stream, audio)
        await stream.finish()
        await hear(stream)
    (balance,) = await rich.balance()
    assert balance.unit == "USD"
    assert balance.amount == pytest.approx(100 - len(audio) / 32000, abs=1e-5)


async def test_several_balances(emulator: DeepgramEmulator, rich: DeepgramProvider) -> None:
    await emulator.set(
        balances=[
            {"amount": 1.5, "units": "usd"},
            {"amount": 2.5, "units": "USD"},
            {"amount": 9, "units": "hour"},
        ]
    )
    assert await rich.balance() == [Balance(4, "USD"), Balance(9, "hours")]
    await emulator.set(balances=[])
    assert await rich.balance() == []


async def test_the_project_is_looked_up_once(
    emulator: DeepgramEmulator, rich: DeepgramProvider
) -> None:
    for _ in range(3):
        await rich.balance()
    assert asked(emulator) == ["projects", "balances", "balances", "balances"]


async def test_the_project_is_looked_up_again_when_it_is_gone(
    emulator: DeepgramEmulator, rich: DeepgramProvider
) -> None:
    await rich.balance()
    await emulator.set(projects=0)
    with pytest.raises(RequestRefused, match="Project not found"):
        await rich.balance()
    with pytest.raises(RequestRefused, match="no project"):
        await rich.balance()
    await emulator.set(projects=1)
    assert await rich.balance() == [Balance(100, "USD")]
    assert asked(emulator).count("projects") == 3


async def test_one_of_several_projects_is_chosen(
    emulator: DeepgramEmulator, rich: DeepgramProvider, make: Make
) -> None:
    await emulator.set(projects=2)
    with pytest.raises(RequestRefused, match="DEEPGRAM_PROJECT_ID") as refused:
        await rich.balance()
    assert refused.value.cause == "request"
    assert all(project_id in str(refused.value) for project_id in emulator.project_ids)
    emulator.account_requests.clear()
    chosen = make(api_url=emulator.account_url, admin_key=ADMIN, project_id=emulator.project_ids[0])
    assert await chosen.balance() == [Balance(100, "USD")]
    assert asked(emulator) == ["balances"]
    stranger = make(api_url=emulator.account_url, admin_key=ADMIN, project_id="mine")
    with pytest.raises(RequestRefused, match="UUID parsing failed"):
        await stranger.balance()


async def test_a_key_without_permission(
    emulator: DeepgramEmulator, rich: DeepgramProvider, make: Make
) -> None:
    await emulator.set(roles={ADMIN: "member"})
    with pytest.raises(RequestRefused, match=r"billing:read.*sufficient permissions") as refused:
        await rich.balance()
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
    rich: DeepgramProvider,
    switches: dict[str, Any],
    kind: type[ProviderError],
    cause: str,
) -> None:
    await rich.balance()
    await emulator.set(**switches)
    with pytest.raises(ProviderError) as failed:
        await rich.balance()
    assert (type(failed.value), failed.value.cause) == (kind, cause)
    assert len(str(failed.value)) < 500
    await emulator.clear()
    await emulator.set(roles={ADMIN: "owner"}, balances=[{"amount": 7}])
    assert await rich.balance() == [Balance(7, "USD")]


async def test_the_wait_for_a_response_is_bounded(emulator: DeepgramEmulator, make: Make) -> None:
    await emulator.set(account_delay_seconds=600)
    hasty = make(api_url=emulator.account_url, admin_key=ADMIN, connect_timeout_seconds=0.3)
    with pytest.raises(Stalled) as stalled:
        await hasty.balance()
    assert stalled.value.cause == "mute"


async def test_cancelling_leaves_nothing_open(
    emulator: DeepgramEmulator, rich: DeepgramProvider
) -> None:
    # An open session would be a warning, and warnings are errors.
    await emulator.set(account_delay_seconds=0.2)
    asking = asyncio.create_task(rich.balance())
    await asyncio.sleep(0)  # it has begun
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    asking = asyncio.create_task(rich.balance())
    await until(lambda: emulator.account_requests, "the first question is answered")
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking


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
    emulator: DeepgramEmulator, rich: DeepgramProvider, status: int, echo: str
) -> None:
    await emulator.set(account_body=echo.format(key=ADMIN), account_status=status)
    with pytest.raises(ProviderError) as failed:
        await rich.balance()
    told = "".join(traceback.format_exception(failed.value)) + repr(failed.value)
    assert ADMIN not in told
    assert ADMIN not in repr(rich) + repr(vars(rich))


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
    told = "".join(traceback.format_exception(failed.value)) + repr(failed.value)
    assert "Authorization: Token ***" in told
    assert ADMIN not in told
