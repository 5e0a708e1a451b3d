"""Reading the balance: requests, responses and settings."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from natterjack.emulators.deepgram.listen import DeepgramEmulator
from natterjack.emulators.specification import load_specification
from natterjack.errors import UsageError
from natterjack.plugin.base import Balance
from natterjack.plugin.errors import (
    ProviderError,
    RemoteProtocolError,
    RequestRefused,
    Unavailable,
)
from natterjack.settings import load
from worker.providers.deepgram import DeepgramProvider, account
from worker.providers.deepgram.settings import DeepgramSettings
from worker.providers.loading import load_class

ADMIN = "s3cret-0f-the-purse"
SPECIFICATION = Path(__file__).parents[3] / "emulators" / "specs" / "deepgram-openapi.yml"
Make = Callable[..., DeepgramProvider]


def body(**content: Any) -> bytes:
    return json.dumps(content).encode()


def balances(*items: Any) -> bytes:
    return body(balances=list(items))


# ---- requests --------------------------------------------------------------------------------


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


# ---- responses -------------------------------------------------------------------------------


def test_projects() -> None:
    both = [{"project_id": "a", "name": "A"}, {"project_id": "b"}]
    assert account.decode_projects(body(projects=both)) == ["a", "b"]
    assert account.decode_projects(body(projects=[])) == []


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"<html>", b"\xff", b"[]", b"null", b"{}", b"[" * 100_000),
        *(body(projects=None), body(projects={}), body(projects=["a"])),
        *(body(projects=[{"project_id": 7}]), body(projects=[{"project_id": ""}])),
        body(projects=[{"name": "A"}]),
    ],
)
def test_malformed_projects(content: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        account.decode_projects(content)


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
    "content",
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
def test_malformed_balances(content: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        account.decode_balances(content)


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
    ("content", "shown"),
    [
        (body(err_code="C", err_msg="legacy"), "legacy"),
        (body(category="C", message="modern", details="and why"), "modern and why"),
        (b"UUID parsing failed: x", "UUID parsing failed: x"),
        (b"", "the request was refused"),
        (b'"text"', '"text"'),
    ],
)
def test_errors_are_quoted(content: bytes, shown: str) -> None:
    for status in (401, 404, 503):
        assert str(account.status_error(status, content)).endswith(f": {shown} ({status})")


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
    ("settings", "warns"),
    [
        ({"api_url": "http://127.0.0.1:9", "admin_key": ADMIN}, True),
        ({"api_url": "http://127.0.0.1:9"}, False),
        ({"admin_key": ADMIN}, False),
    ],
)
def test_a_key_without_encryption_logs_a_warning(
    make: Make, caplog: pytest.LogCaptureFixture, settings: dict[str, Any], warns: bool
) -> None:
    make(**settings)
    assert ("balance without encryption" in caplog.text) == warns
    assert ADMIN not in caplog.text
