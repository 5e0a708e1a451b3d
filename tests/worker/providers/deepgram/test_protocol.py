"""Decoding of recorded messages and encoding; no loop, no clock."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from pydantic import SecretStr

from natterjack.emulators.deepgram.query import parse
from natterjack.plugin.errors import Dropped, RemoteProtocolError, RequestRefused, Unavailable
from natterjack.plugin.provider import Notice, ProviderWord, Usage
from natterjack.plugin.websocket import Closed
from worker.providers import wire
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
        channel = {"alternatives": alternatives}
        (result,) = decode(changed(channel=channel, is_final=False, speech_final=False))
        assert isinstance(result, Results)
        assert (result.text, result.words, result.confidence) == ("", (), None)
        assert not result.is_final


def test_optional_and_unknown_fields() -> None:
    message = {**RESULTS, "x": [1], "entities": []}
    for name in ("speech_final", "metadata", "from_finalize"):
        del message[name]
    (result,) = decode(json.dumps(message))
    assert isinstance(result, Results)
    assert result.is_final
    assert not result.speech_final


def test_a_word_does_not_end_well_after_its_result() -> None:
    """Words of the next final would lie before the end of this one."""
    message = changed()
    odd = json.loads(message)
    odd["channel"]["alternatives"][0]["words"][1]["end"] = 9.9
    (result,) = decode(json.dumps(odd))
    assert isinstance(result, Results)
    assert result.end == result.words[1].end == 5.99 + 1.98


def test_a_result_without_marks_may_be_a_final() -> None:
    """Its text is kept in case it comes again."""
    with pytest.raises(RemoteProtocolError) as error:
        decode(changed(is_final=None, speech_final=None))
    assert error.value.readable is not None
    assert error.value.readable.text == "Tell me."
    assert error.value.readable.end == 5.99 + 1.98
    assert not error.value.readable.times_estimated
    with pytest.raises(wire.Harmless):
        decode(changed(is_final="?", speech_final=None, channel={"alternatives": []}))


def test_without_interims_every_result_is_final() -> None:
    message = changed(is_final=False, speech_final=False)
    for interims in (True, False):
        (result,) = decode(message, interims=interims)
        assert isinstance(result, Results)
        assert result.is_final is not interims


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


def best(**changes: Any) -> dict[str, Any]:
    return {"channel": {"alternatives": [{"transcript": "a b", "words": [], **changes}]}}


@pytest.mark.parametrize(
    ("message", "harmless"),
    [
        # Without any text, it has no words.
        (b"\x00\xff", True),
        ("", True),
        ("no JSON", True),
        ("[]", True),
        ("7", True),
        ("null", True),
        ("{}", True),
        ('{"type": 1}', True),
        ("[" * 100_000, True),
        # Known kinds that are not results.
        ('{"type": "SpeechStarted", "channel": [0, 1]}', True),
        ('{"type": "SpeechStarted", "timestamp": 1}', True),
        ('{"type": "UtteranceEnd", "channel": [0, 1], "last_word_end": null}', True),
        ('{"type": "Metadata", "duration": 1}', True),
        ('{"type": "Metadata", "duration": 1, "channels": true}', True),
        (changed(channel=None, is_final=False, speech_final=False), True),
        # It may be a final.
        (json.dumps(RESULTS)[:-1], False),
        (json.dumps(RESULTS)[1:], False),
        ('["text"]', False),
        ('{"text": "text"}', False),
        (changed(channel=None), False),
        (changed(channel=None, is_final=False), True),
        (changed(channel=None, is_final=None, speech_final=None), False),
        (changed(channel=None, is_final="no", speech_final=False), False),
        (changed(channel={}), False),
        (changed(channel={"alternatives": {}}), False),
        (changed(channel={"alternatives": ["text"]}), False),
        (changed(**best(transcript=None)), False),
        (changed(**best(transcript=7, words=[{**WORD, "word": 1}])), False),
    ],
)
def test_messages_that_cannot_be_read(message: str | bytes, harmless: bool) -> None:
    with pytest.raises(RemoteProtocolError) as error:
        decode(message)
    assert isinstance(error.value, wire.Harmless) is harmless
    assert len(str(error.value)) < 400
    assert error.value.provider == "deepgram"


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"is_final": "true"}, {}),
        ({"is_final": 1, "speech_final": "True"}, {}),
        ({"is_final": None}, {}),
        ({"speech_final": 7}, {"speech_final": False}),
        ({"type": "Weather"}, {}),
        ({"type": None}, {}),
        ({"start": "now"}, {"start": None, "end": 6.47}),
        ({"start": True}, {"start": None, "end": 6.47}),
        ({"start": -1}, {"start": None, "end": 6.47}),
        ({"start": float("nan")}, {"start": None, "end": 6.47}),
        ({"start": 1e300}, {"start": None, "end": 6.47}),
        ({"duration": float("inf")}, {"end": 6.47}),
        ({"duration": 10**400}, {"end": 6.47}),
        ({"duration": 0}, {"end": 6.47}),
        ({"channel_index": []}, {"channel": None}),
        ({"channel_index": [-1, 1]}, {"channel": None}),
        ({"channel_index": [20, 21]}, {"channel": None}),
        ({"channel_index": ["0"]}, {"channel": None}),
    ],
)
def test_fields_of_a_final_that_cannot_be_used(
    changes: dict[str, Any], found: dict[str, Any]
) -> None:
    (plain,) = decode(json.dumps(RESULTS))
    assert isinstance(plain, Results)
    (result,) = decode(changed(**changes), latest=100)
    assert result == plain._replace(**found)


@pytest.mark.parametrize(
    ("changes", "text", "words"),
    [
        ({"words": None}, "a b", ()),
        ({"words": {}}, "a b", ()),
        ({"confidence": "1"}, "a b", ()),
        ({"words": [WORD, None]}, "a b", (ProviderWord("a", 1, 2, 1), ProviderWord("b"))),
        ({"words": [7]}, "a b", (ProviderWord("a"), ProviderWord("b"))),
        (
            {"words": [{**WORD, "word": ""}, WORD]},
            "a b",
            (ProviderWord("a"), ProviderWord("a", 1, 2, 1)),
        ),
        ({"words": [{**WORD, "end": "x"}]}, "a b", (ProviderWord("a", 1, None, 1),)),
        ({"words": [{**WORD, "end": 0.5}]}, "a b", (ProviderWord("a", 1, None, 1),)),
        ({"words": [{**WORD, "start": 10**400}]}, "a b", (ProviderWord("a", None, 2, 1),)),
        ({"words": [{**WORD, "confidence": -1}]}, "a b", (ProviderWord("a", 1, 2),)),
        ({"words": [{**WORD, "speaker": [1]}]}, "a b", (ProviderWord("a", 1, 2, 1),)),
        ({"transcript": None, "words": [WORD]}, "a", (ProviderWord("a", 1, 2, 1),)),
        ({"transcript": " ", "words": [WORD]}, "a", (ProviderWord("a", 1, 2, 1),)),
        ({"transcript": "a\ud83d"}, "a\ufffd", ()),
    ],
)
def test_text_is_kept(changes: dict[str, Any], text: str, words: tuple[ProviderWord, ...]) -> None:
    (result,) = decode(changed(**best(**changes)))
    assert isinstance(result, Results)
    assert (result.text, result.words, result.confidence) == (text, words, None)


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
