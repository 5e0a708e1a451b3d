"""The codec of both sides, checked against the tables and examples of the fact sheet."""

from __future__ import annotations

import json

import pytest
from pydantic import SecretStr

from natterjack.plugin.errors import (
    Dropped,
    ProviderError,
    RemoteProtocolError,
    RequestRefused,
    Unavailable,
)
from natterjack.plugin.websocket import Closed
from worker.providers import wire
from worker.providers.managed import protocol
from worker.providers.managed.protocol import (
    Auth,
    ClientMessage,
    Config,
    CreditsLow,
    End,
    Error,
    Finalize,
    Ready,
    ServerMessage,
    SessionEnd,
    Transcript,
    Unknown,
)

# ---- examples of the fact sheet, letter by letter -------------------------------------------

AUTH = """{
  "type": "auth",
  "token": "user-session-token",
  "config": {
    "model": "nova-2",
    "language": "en-US",
    "sample_rate": 16000,
    "channels": 1,
    "encoding": "linear16",
    "interim_results": true
  }
}"""

SERVER_EXAMPLES: list[tuple[str, ServerMessage]] = [
    ('{"type": "ready"}', Ready()),
    (
        '{"type": "transcript", "text": "hello world", "is_final": true}',
        Transcript("hello world", True),
    ),
    ('{"type": "credits_low", "seconds_remaining": 120}', CreditsLow(120)),
    (
        '{"type": "error", "code": "auth_failed", "message": "Token is invalid or expired"}',
        Error("Token is invalid or expired", "auth_failed"),
    ),
    ('{"type": "session_end", "seconds_used": 754}', SessionEnd(754)),
]

CLIENT_EXAMPLES: list[tuple[str, ClientMessage]] = [
    (AUTH, Auth(SecretStr("user-session-token"))),
    ('{"type":"finalize"}', Finalize()),
    ('{"type":"end"}', End()),
]


@pytest.mark.parametrize(("text", "message"), SERVER_EXAMPLES)
def test_server_examples(text: str, message: ServerMessage) -> None:
    assert protocol.decode_server(text) == message
    assert json.loads(protocol.encode_server(message)) == json.loads(text)


@pytest.mark.parametrize(("text", "message"), CLIENT_EXAMPLES)
def test_client_examples(text: str, message: ClientMessage) -> None:
    assert protocol.decode_client(text) == message
    assert json.loads(protocol.encode_client(message)) == json.loads(text)


@pytest.mark.parametrize(
    "message",
    [
        Ready("s-1"),
        Transcript("", False),
        Transcript("grüß dich \u2028", True, 1.25, 2.5, 7, "s-1"),
        Transcript("zero", True, 0.0, 0.0, 0),
        CreditsLow(0.5),
        Error("no code"),
        Error("", "internal"),
        SessionEnd(0),
        Unknown("weather"),
    ],
)
def test_server_messages_survive_a_round_trip(message: ServerMessage) -> None:
    assert protocol.decode_server(protocol.encode_server(message)) == message


@pytest.mark.parametrize(
    "message",
    [
        Auth(SecretStr("t"), Config("nova-3", "multi", 8000, 2, "mulaw", False)),
        Unknown("weather"),
    ],
)
def test_client_messages_survive_a_round_trip(message: ClientMessage) -> None:
    assert protocol.decode_client(protocol.encode_client(message)) == message


def test_missing_and_unknown_members() -> None:
    """4: `text` is "" and `is_final` false by default, further members are ignored; 3.1 [P]: so
    are those of config, and missing ones have the values of the table."""
    assert protocol.decode_server('{"type": "transcript"}') == Transcript("")
    assert protocol.decode_server('{"type": "transcript", "x": [1]}') == Transcript("")
    assert protocol.decode_server('{"type": "error", "code": null}') == Error()
    assert protocol.decode_server('{"type": "new"}') == Unknown("new")
    message = '{"type": "auth", "token": "t", "config": {"language": "de", "x": 1}}'
    assert protocol.decode_client(message) == Auth(SecretStr("t"), Config(language="de"))
    assert protocol.decode_client('{"type": "auth", "token": "t"}') == Auth(SecretStr("t"))


def test_the_token_is_not_shown() -> None:
    auth = protocol.decode_client(AUTH)
    assert "user-session-token" not in repr(auth)
    assert "user-session-token" in protocol.encode_client(auth)


@pytest.mark.parametrize(
    "times",
    [
        '"start": -1',
        '"start": "0.50", "end": "now"',
        '"start": 2, "end": 1',
        '"start": {"s": 1}, "end": [2]',
        '"start": true',
        '"start": 1e999',
        f'"start": {10**400}',
    ],
)
def test_invalid_times_are_ignored(times: str) -> None:
    """Times are optional, so the text is kept."""
    message = f'{{"type": "transcript", "text": "a", "is_final": true, {times}}}'
    assert protocol.decode_server(message) == Transcript("a", True)


@pytest.mark.parametrize(
    ("message", "harmless"),
    [
        (b"\x00", True),
        ("}{", False),
        ("[]", True),
        ("42", True),
        ("{}", True),
        ('{"type": 7}', True),
        ('{"type": "transcript", "text": 7}', True),
        ('{"type": "transcript", "text": 7, "is_final": false}', True),
        ('{"type": "credits_low"}', True),
        ('{"type": "credits_low", "seconds_remaining": true}', True),
        ('{"type": "session_end", "seconds_used": NaN}', True),
        ("[" * 100_000, True),
        ('{"type": "transcript", "text": 7, "is_final": true}', False),
        ('{"type": "transcript", "text": null, "is_final": "no"}', False),
        ('{"type": "transcript", "text": "a", "is_final": null}', False),
        ('{"type": "transcript", "text": " ", "is_final": null}', True),
        ('{"type": "transcript", "text": "a", "is_final": true', False),
        ('["a"]', False),
    ],
)
def test_messages_that_cannot_be_read(message: str | bytes, harmless: bool) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        protocol.decode_server(message)
    assert isinstance(caught.value, wire.Harmless) is harmless
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("changes", ['"type": "x"', '"type": null', '"seq": []', '"start": NaN'])
def test_text_is_kept(changes: str) -> None:
    message = f'{{"type": "transcript", "text": "a", "is_final": "true", {changes}}}'
    assert protocol.decode_server(message) == Transcript("a", True)


@pytest.mark.parametrize(
    "message",
    [
        "}{",
        "[]",
        '{"type": "auth"}',
        '{"type": "auth", "token": ""}',
        '{"type": "auth", "token": 7}',
        '{"type": "auth", "token": "t", "config": []}',
        '{"type": "auth", "token": "t", "config": {"sample_rate": "16000"}}',
        '{"type": "auth", "token": "t", "config": {"sample_rate": true}}',
        '{"type": "auth", "token": "t", "config": {"interim_results": 1}}',
    ],
)
def test_malformed_client_messages(message: str) -> None:
    with pytest.raises(RemoteProtocolError):
        protocol.decode_client(message)


# ---- errors ---------------------------------------------------------------------------------

TABLE: list[tuple[str, int, type[ProviderError], str]] = [
    ("bad_request", 1008, RequestRefused, "request"),
    ("auth_failed", 4401, RequestRefused, "auth"),
    ("credits_exhausted", 4402, RequestRefused, "credit"),
    ("too_many_sessions", 4429, Unavailable, "rate_limit"),
    ("upstream_unavailable", 1013, Unavailable, "server_error"),
    ("internal", 1011, Unavailable, "server_error"),
    ("audio_too_large", 1009, RequestRefused, "request"),
    ("session_limit", 4408, Dropped, "dropped"),
]
MAY_RETRY = {
    "bad_request": False,
    "auth_failed": False,
    "credits_exhausted": False,
    "too_many_sessions": True,
    "upstream_unavailable": True,
    "internal": True,
    "audio_too_large": False,
    "session_limit": True,
}
"""The last column of the fact sheet's table."""


@pytest.mark.parametrize(("code", "close", "kind", "cause"), TABLE)
def test_the_table_of_errors(code: str, close: int, kind: type[ProviderError], cause: str) -> None:
    assert protocol.CLOSE_CODES[code] == close
    error = Error("in words", code)
    assert protocol.is_fatal(error)
    for found in (
        protocol.session_error(error, None),
        protocol.session_error(error, Closed(1000)),
        protocol.session_error(None, Closed(close, "in words")),
    ):
        assert type(found) is kind
        assert (found.cause, found.code, found.retryable) == (cause, code, MAY_RETRY[code])
        assert "in words" in str(found)


def test_the_table_is_complete() -> None:
    assert {row[0] for row in TABLE} == set(protocol.CLOSE_CODES) == set(MAY_RETRY)


@pytest.mark.parametrize("closed", [None, Closed(None), Closed(1000), Closed(1001), Closed(4999)])
def test_other_ends(closed: Closed | None) -> None:
    assert isinstance(protocol.session_error(None, closed), Dropped)
    unknown = Error("in words", "some_new_code")
    assert not protocol.is_fatal(unknown)
    found = protocol.session_error(unknown, closed)
    assert isinstance(found, Dropped)
    assert (found.code, "in words" in str(found)) == ("some_new_code", True)


def test_before_ready_the_close_decides_for_an_unknown_code() -> None:
    unknown = Error("in words")
    assert isinstance(protocol.ready_error(unknown, Closed(4401)), RequestRefused)
    assert isinstance(protocol.ready_error(unknown, Closed(1000)), Unavailable)
    assert isinstance(protocol.ready_error(unknown, None), Unavailable)
    assert isinstance(protocol.ready_error(None, Closed(1006)), Dropped)
