"""Decoding of recorded messages and encoding; no loop, no clock."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from pydantic import SecretStr

from natterjack.plugin.errors import Dropped, RemoteProtocolError, RequestRefused, Unavailable
from natterjack.plugin.provider import Notice, ProviderWord, Usage
from natterjack.plugin.websocket import Closed
from tests.emulators.deepgram_query import parse
from worker.providers.deepgram import protocol
from worker.providers.deepgram.options import listen
from worker.providers.deepgram.protocol import (
    ConfigureAnswer,
    Results,
    SpeechStarted,
    Summary,
    UtteranceEnd,
    close_error,
    decode,
    encode_configure,
    handshake_error,
)
from worker.providers.deepgram.settings import DeepgramSettings

from ..emulated.streams import request
from ..emulated.table import DEEPGRAM

RESULTS: dict[str, Any] = {
    "type": "Results",
    "channel_index": [0, 1],
    "duration": 1.98,
    "start": 5.99,
    "is_final": True,
    "speech_final": True,
    "channel": {
        "alternatives": [
            {
                "transcript": "Tell me.",
                "confidence": 0.99964225,
                "languages": ["en"],
                "words": [
                    {
                        "word": "tell",
                        "start": 6.07,
                        "end": 6.31,
                        "confidence": 0.9993,
                        "punctuated_word": "Tell",
                        "language": "en",
                        "speaker": 0,
                    },
                    {"word": "me", "start": 6.31, "end": 6.47, "confidence": 0.9997},
                ],
            }
        ]
    },
    "metadata": {
        "request_id": "52cc0efe-fa77-4aa7-b79c-0dda09de2f14",
        "model_info": {"name": "2-general-nova", "version": "2024-01-18.26916", "arch": "nova-2"},
        "model_uuid": "c0d1a568-ce81-4fea-97e7-bd45cb1fdf3c",
    },
    "from_finalize": False,
}


def changed(**changes: Any) -> str:
    return json.dumps({**RESULTS, **changes})


# ---- out ------------------------------------------------------------------------------------


def test_the_upgrade_request() -> None:
    stream = listen(DeepgramSettings(), request(keyterms=("natter jack", "toad&co")))
    made = protocol.connect_request("wss://api.deepgram.com", SecretStr(DEEPGRAM.secret), stream)
    address = urlsplit(made.url)
    assert made.url.startswith("wss://api.deepgram.com/v1/listen?")
    assert made.headers == {"Authorization": f"Token {DEEPGRAM.secret}"}
    query = parse_qsl(address.query)
    assert ("interim_results", "true") in query
    assert [value for name, value in query if name == "keyterm"] == ["natter jack", "toad&co"]
    assert DEEPGRAM.secret not in repr(made)
    assert DEEPGRAM.secret not in made.url
    # The emulator's parser accepts the query, as the server would.
    parse({name: [v for n, v in query if n == name] for name, _ in query})


def test_control_messages_are_what_the_documentation_says() -> None:
    assert json.loads(protocol.encode_keepalive()) == {"type": "KeepAlive"}
    assert json.loads(protocol.encode_finalize()) == {"type": "Finalize"}
    assert json.loads(protocol.encode_close_stream()) == {"type": "CloseStream"}
    assert json.loads(encode_configure({"keyterms": ("a", "b c"), "numerals": True})) == {
        "type": "Configure",
        "keyterms": ["a", "b c"],
        "features": {"numerals": True},
    }
    assert json.loads(encode_configure({"keyterms": []})) == {"type": "Configure", "keyterms": []}


@pytest.mark.parametrize(
    "changes", [{"keyterm": ["a"]}, {"keyterms": "a"}, {"keyterms": [1]}, {"numerals": "true"}]
)
def test_a_bad_configure_is_refused_by_name(changes: dict[str, Any]) -> None:
    with pytest.raises(RequestRefused, match=next(iter(changes))):
        encode_configure(changes)


# ---- in -------------------------------------------------------------------------------------


def test_results() -> None:
    assert decode(json.dumps(RESULTS)) == (
        Results(
            channel=0,
            start=5.99,
            end=5.99 + 1.98,
            is_final=True,
            speech_final=True,
            text="Tell me.",
            words=(
                ProviderWord("Tell", 6.07, 6.31, 0.9993, "0"),
                ProviderWord("me", 6.31, 6.47, 0.9997),
            ),
            confidence=0.99964225,
            language="en",
        ),
    )


def test_results_of_silence_and_without_alternatives() -> None:
    empty = {"transcript": "", "confidence": 0, "words": []}
    for alternatives in ([empty], []):
        (result,) = decode(changed(channel={"alternatives": alternatives}, is_final=False))
        assert isinstance(result, Results)
        assert (result.text, result.words, result.confidence) == ("", (), None)
        assert not result.is_final


def test_optional_and_unknown_fields() -> None:
    message = {**RESULTS, "x": [1], "entities": []}
    for name in ("is_final", "speech_final", "metadata", "from_finalize"):
        del message[name]
    (result,) = decode(json.dumps(message))
    assert isinstance(result, Results)
    assert not result.is_final
    assert not result.speech_final


def test_events() -> None:
    assert decode('{"type": "SpeechStarted", "channel": [1, 2], "timestamp": 9.54}') == (
        SpeechStarted(1, 9.54),
    )
    assert decode('{"type": "UtteranceEnd", "channel": [0, 1], "last_word_end": 2.395}') == (
        UtteranceEnd(0, 2.395),
    )
    assert decode('{"type": "UtteranceEnd", "channel": [0, 1], "last_word_end": -1}') == (
        UtteranceEnd(0, None),
    )


def test_the_summary_holds_the_providers_usage() -> None:
    message = {
        "type": "Metadata",
        "transaction_key": "deprecated",
        "request_id": "8c8ebea9-dbec-45fa-a035-e4632cb05b5f",
        "sha256": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "created": "2024-08-29T22:37:55.202Z",
        "duration": 12.5,
        "channels": 2,
    }
    assert decode(json.dumps(message)) == (Summary(Usage(audio_seconds=25.0)),)
    nothing = {**message, "duration": 0.0, "channels": 0}
    assert decode(json.dumps(nothing)) == (Summary(Usage(audio_seconds=0.0)),)


@pytest.mark.parametrize(
    ("message", "notice"),
    [
        ({"type": "ConfigureSuccess", "request_id": "r"}, Notice("configured")),
        ({"type": "ConfigureSuccess", "keyterms": ["a"]}, Notice("configured")),
        (
            {"type": "ConfigureFailure", "code": "CONFIGURE_X", "description": "why"},
            Notice("configure_failed", "CONFIGURE_X: why"),
        ),
        (
            {"type": "Error", "variant": "SchemaError", "description": "why", "message": "{}"},
            Notice("provider_error", "SchemaError: why"),
        ),
        ({"type": "Weather"}, Notice("unknown", "message of type 'Weather'")),
    ],
)
def test_the_rest_are_notices(message: dict[str, Any], notice: Notice) -> None:
    assert decode(json.dumps(message))[-1] == notice


@pytest.mark.parametrize(
    ("message", "answer"),
    [
        ({"type": "ConfigureSuccess"}, ConfigureAnswer()),
        ({"type": "ConfigureSuccess", "keyterms": []}, ConfigureAnswer(keyterms=[])),
        ({"type": "ConfigureSuccess", "keyterms": 7}, ConfigureAnswer()),
        (
            {"type": "ConfigureFailure", "code": "C", "description": "why"},
            ConfigureAnswer(refusal="C: why"),
        ),
        (
            {"type": "Error", "variant": "V", "description": "why"},
            ConfigureAnswer(refusal="V: why"),
        ),
        (
            {
                "type": "Error",
                "variant": "V",
                "description": "why",
                "message": '{"type": "Configure"}',
            },
            ConfigureAnswer(refusal="V: why"),
        ),
        (
            {
                "type": "Error",
                "variant": "V",
                "description": "why",
                "message": '{"type": "Finalize"}',
            },
            None,
        ),
    ],
)
def test_answers_to_configure(message: dict[str, Any], answer: ConfigureAnswer | None) -> None:
    found = [item for item in decode(json.dumps(message)) if isinstance(item, ConfigureAnswer)]
    assert found == ([] if answer is None else [answer])


WORD = {"word": "a", "start": 1, "end": 2, "confidence": 1}


@pytest.mark.parametrize(
    "message",
    [
        b"binary",
        "",
        "no JSON",
        "[]",
        "7",
        "null",
        "{}",
        '{"type": 1}',
        "[" * 100_000,
        changed(is_final="true"),
        changed(speech_final=1),
        changed(start="now"),
        changed(start=True),
        changed(start=-1),
        changed(start=None),
        changed(duration=float("nan")),
        changed(duration=float("inf")),
        json.dumps(RESULTS).replace("5.99", "1e999"),
        changed(channel_index=[]),
        changed(channel_index=[-1, 1]),
        changed(channel_index=[20, 21]),
        changed(channel_index=["0"]),
        changed(channel=None),
        changed(channel={}),
        changed(channel={"alternatives": {}}),
        changed(channel={"alternatives": ["text"]}),
        changed(channel={"alternatives": [{"transcript": None, "words": []}]}),
        changed(channel={"alternatives": [{"transcript": "a", "words": {}}]}),
        changed(channel={"alternatives": [{"transcript": "a", "words": ["a"]}]}),
        changed(channel={"alternatives": [{"transcript": "a", "words": [{**WORD, "word": 1}]}]}),
        changed(channel={"alternatives": [{"transcript": "a", "words": [{**WORD, "end": "x"}]}]}),
        changed(channel={"alternatives": [{"transcript": "a", "confidence": "1", "words": []}]}),
        '{"type": "SpeechStarted", "channel": [0, 1]}',
        '{"type": "SpeechStarted", "timestamp": 1}',
        '{"type": "UtteranceEnd", "channel": [0, 1], "last_word_end": null}',
        '{"type": "Metadata", "duration": 1}',
        '{"type": "Metadata", "duration": 1, "channels": true}',
    ],
)
def test_malformed_messages_are_errors(message: str | bytes) -> None:
    with pytest.raises(RemoteProtocolError) as error:
        decode(message)
    assert len(str(error.value)) < 400
    assert error.value.provider == "deepgram"


@pytest.mark.parametrize(
    ("message", "interims", "lost"),
    [
        (changed(start="now"), True, True),
        (changed(start="now", speech_final=False), True, True),
        (changed(start="now", is_final="true", speech_final=None), True, True),
        (changed(start="now", is_final=False, speech_final=False), True, False),
        (changed(start="now", is_final=None, speech_final=None), True, False),
        (changed(start="now", is_final=False, speech_final=False), False, True),
        ('{"type": "UtteranceEnd", "is_final": true}', True, False),
        ("} no JSON", False, False),
        (b"binary", False, False),
    ],
)
def test_lost_finals(message: str | bytes, interims: bool, lost: bool) -> None:
    with pytest.raises(RemoteProtocolError):
        decode(message)
    assert protocol.is_lost_final(message, interims=interims) is lost


# ---- errors ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "kind", "cause", "retryable"),
    [
        (400, RequestRefused, "request", False),
        (401, RequestRefused, "auth", False),
        (402, RequestRefused, "credit", False),
        (403, RequestRefused, "auth", False),
        (404, RequestRefused, "request", False),
        (408, Unavailable, "server_error", True),
        (429, Unavailable, "rate_limit", True),
        (499, Unavailable, "server_error", True),
        (500, Unavailable, "server_error", True),
        (503, Unavailable, "server_error", True),
    ],
)
def test_refused_handshakes(
    status: int, kind: type[Exception], cause: str, retryable: bool
) -> None:
    error = handshake_error(status, {"dg-error": "why", "dg-request-id": "r-1"})
    assert type(error) is kind
    assert (error.cause, error.retryable, error.code) == (cause, retryable, str(status))
    assert str(error) == f"deepgram: why, request r-1 ({status})"


@pytest.mark.parametrize("code", [1000, 1001, 1005, 1006, 1011, 4000, None])
def test_ends_that_are_retried(code: int | None) -> None:
    error = close_error(Closed(code, "NET-0001: nothing came"), finishing=False)
    assert isinstance(error, Dropped)
    assert error.code == (None if code is None else str(code))
    assert "NET-0001" in str(error)


@pytest.mark.parametrize("code", [1002, 1003, 1007, 1008, 1009])
@pytest.mark.parametrize("finishing", [False, True])
def test_ends_that_are_not_retried(code: int, finishing: bool) -> None:
    error = close_error(Closed(code, "DATA-0000"), finishing=finishing)
    assert isinstance(error, RequestRefused)
    assert (error.cause, error.code) == ("request", str(code))


def test_the_end_after_close_stream() -> None:
    assert close_error(Closed(1000), finishing=True) is None
    for code in (1001, 1005, 1011, None):
        assert isinstance(close_error(Closed(code), finishing=True), Dropped)
