"""Messages of speak v2, in and out. The samples are those of the vendor's documentation."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import SecretStr

from natterjack.plugin.errors import (
    Dropped,
    ProviderError,
    RemoteProtocolError,
    RequestRefused,
    Unavailable,
)
from natterjack.plugin.provider import Notice
from natterjack.plugin.websocket import Closed
from worker.providers import wire
from worker.voices.deepgram_flux_voice import protocol

CONTROLS = {"pronunciations_applied": 0, "breaks_applied": 0, "pronunciation_warnings": 0}
COUNTS = {
    "speech_id": "dg_sp_a1b2c3d4e5f6",
    "audio_duration_ms": 3200,
    "input_character_count": 50,
    "billable_character_count": 47,
    "controls_applied": CONTROLS,
}
INTERRUPTED = {
    "type": "SpeechInterrupted",
    "audio_played_ms": 2340,
    "text_spoken": "Sure, I can help you cancel",
    "text_remaining": " your subscription.",
    "metadata": COUNTS,
}


def decode(**content: Any) -> protocol.Message:
    return protocol.decode(json.dumps(content))


def test_what_is_sent_has_no_other_field() -> None:
    """An unknown field is fatal."""
    assert json.loads(protocol.encode_speak('a "b"\n')) == {"type": "Speak", "text": 'a "b"\n'}
    assert json.loads(protocol.encode_flush()) == {"type": "Flush"}
    assert json.loads(protocol.encode_close()) == {"type": "Close"}
    assert json.loads(protocol.encode_configure({"speed": 1.15})) == {
        "type": "Configure", "speed": 1.15,
    }  # fmt: skip
    assert json.loads(protocol.encode_interrupt(None)) == {"type": "Interrupt"}
    assert json.loads(protocol.encode_interrupt(2340)) == {
        "type": "Interrupt", "playback_offset": {"type": "time_ms", "value": 2340},
    }  # fmt: skip


def test_the_request() -> None:
    request = protocol.connect_request(
        "wss://api.deepgram.com", SecretStr("k"), [("model", "flux-haley-en"), ("tag", "a b")]
    )
    assert request.url == "wss://api.deepgram.com/v2/speak?model=flux-haley-en&tag=a+b"
    assert request.headers == {"Authorization": "Token k"}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (
            {"type": "Connected", "request_id": "r-1", "model_name": "flux-haley-en"},
            protocol.Connected("r-1"),
        ),
        ({"type": "SpeechStarted", "speech_id": "s"}, protocol.SpeechStarted()),
        ({"type": "Flushed", "speech_id": "s"}, protocol.Flushed()),
        ({"type": "SpeechMetadata", **COUNTS}, protocol.SpeechMetadata(47)),
        (
            INTERRUPTED,
            protocol.SpeechInterrupted(2340, "Sure, I can help you cancel", 47),
        ),
        (
            {"type": "SpeechInterrupted", "audio_played_ms": 2420, "metadata": COUNTS},
            protocol.SpeechInterrupted(2420, None, 47),
        ),
        ({"type": "ConfigureSuccess", "applied": {"speed": 1.15}}, protocol.Configured()),
        (
            {"type": "ConfigureFailure", "code": "SPEED_NOT_SUPPORTED", "field": "speed",
             "description": "no"},
            protocol.ConfigureFailed("SPEED_NOT_SUPPORTED", "no"),
        ),
        (
            {"type": "SessionMetadata", "total_audio_duration_ms": 184_500,
             "total_input_character_count": 4280, "total_billable_character_count": 4280},
            protocol.SessionMetadata(),
        ),
        (
            {"type": "Warning", "code": "NO_ACTIVE_SPEECH", "description": "why"},
            protocol.Warned("NO_ACTIVE_SPEECH", "why"),
        ),
        ({"type": "Warning", "code": "X", "warn_msg": "why"}, protocol.Warned("X", "why")),
        (
            {"type": "Error", "code": "NET-0004", "description": "idle"},
            protocol.FatalError("NET-0004", "idle"),
        ),
        ({"type": "Weather"}, Notice("unknown", "message of type 'Weather'")),
        # A turn would not end without these: they are known by their fields, too.
        ({**COUNTS}, protocol.SpeechMetadata(47)),
        ({**INTERRUPTED, "type": 7}, protocol.SpeechInterrupted(
            2340, "Sure, I can help you cancel", 47,
        )),
        # A field that cannot be read counts as unknown.
        ({"type": "SpeechMetadata"}, protocol.SpeechMetadata(None)),
        (
            {"type": "SpeechInterrupted", "audio_played_ms": -1, "text_spoken": 5, "metadata": []},
            protocol.SpeechInterrupted(None, None, None),
        ),
        ({"type": "Warning", "code": 5}, protocol.Warned("", "")),
    ],
)  # fmt: skip
def test_what_is_received(content: dict[str, Any], expected: protocol.Message) -> None:
    assert decode(**content) == expected


@pytest.mark.parametrize("message", ["nonsense", "[[], 7]", "42", '{"kind": 7}', '{"type": 7}'])
def test_nonsense_is_harmless(message: str) -> None:
    with pytest.raises(wire.Harmless):
        protocol.decode(message)


@pytest.mark.parametrize("message", ['{"type": "Speech', '{"kind": "SpeechMetadata"}'])
def test_what_may_be_the_end_of_a_turn_is_not(message: str) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        protocol.decode(message)
    assert not isinstance(caught.value, wire.Harmless)


@pytest.mark.parametrize(
    ("code", "kind", "cause"),
    [
        ("MESSAGE-0000", RequestRefused, "request"),
        ("DATA-0000", RequestRefused, "request"),
        ("DATA-0002", RequestRefused, "request"),
        ("BIG-0000", RequestRefused, "request"),
        ("NET-0000", Unavailable, "server_error"),
        ("NET-0001", Dropped, "dropped"),
        ("NET-0002", Dropped, "dropped"),
        ("NET-0003", Dropped, "dropped"),
        ("NET-0004", Dropped, "dropped"),
        ("NEW-0000", Unavailable, "server_error"),
    ],
)
def test_fatal_errors(code: str, kind: type[ProviderError], cause: str) -> None:
    error = protocol.fatal_error(protocol.FatalError(code, "why"))
    assert type(error) is kind
    assert (error.cause, error.code) == (cause, code)
    assert "why" in str(error)
    if code == "BIG-0000":
        assert "DEEPGRAM_FLUX_VOICE_MESSAGE_CHARACTERS" in str(error)


def test_other_errors() -> None:
    refused = protocol.handshake_error(400, {"dg-error": "no such model", "dg-request-id": "r-1"})
    assert isinstance(refused, RequestRefused)
    assert "no such model, request r-1" in str(refused)
    assert isinstance(protocol.handshake_error(429, {}), Unavailable)
    assert isinstance(protocol.close_error(Closed(1011, "NET-0000")), Dropped)
    assert isinstance(protocol.close_error(Closed(1000)), Dropped)
    assert isinstance(protocol.close_error(Closed(1008, "DATA-0000")), RequestRefused)
    failed = protocol.configure_error(protocol.ConfigureFailed("SPEED_NOT_SUPPORTED", "no"))
    assert isinstance(failed, RequestRefused)
    assert "SPEED_NOT_SUPPORTED: no" in str(failed)
    internal = protocol.configure_error(protocol.ConfigureFailed("INTERNAL_ERROR", ""))
    assert isinstance(internal, Unavailable)
