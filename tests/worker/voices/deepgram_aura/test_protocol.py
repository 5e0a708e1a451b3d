"""Messages in, values out; the documentation's own samples."""

from __future__ import annotations

import json

import pytest

from natterjack.plugin import (
    Dropped,
    ProviderError,
    RemoteProtocolError,
    RequestRefused,
    Unavailable,
)
from natterjack.plugin.websocket import Closed
from worker.providers.wire import Harmless
from worker.voices.deepgram_aura import protocol
from worker.voices.deepgram_aura.protocol import (
    Cleared,
    Failed,
    Flushed,
    Message,
    Metadata,
    Unknown,
    Warned,
    decode,
)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (
            '{"type": "Metadata", "request_id": "bf6f", "model_name": "aura-2-thalia-en", '
            '"model_version": "2025-03-11.0", "model_uuid": "e497", "additional_model_uuids": []}',
            Metadata("bf6f"),
        ),
        ('{"type": "Metadata"}', Metadata(None)),
        ('{"type": "Flushed", "sequence_id": 0}', Flushed()),
        ('{"type": "Flushed"}', Flushed()),
        ('{"type": "Cleared", "sequence_id": "x"}', Cleared()),
        (
            '{"type": "Warning", "description": "Too many.", "code": "EXCESSIVE_FLUSH"}',
            Warned("EXCESSIVE_FLUSH", "Too many."),
        ),
        ('{"type": "Warning", "warn_code": "W", "warn_msg": "Careful."}', Warned("W", "Careful.")),
        ('{"type": "Warning", "warn_code": "W", "code": 7}', Warned("W", "")),
        ('{"type": "Error", "description": "No.", "code": "E"}', Failed("E", "No.")),
        (
            '{"type": "error", "error_code": "E", "error_message": "No.", "request_id": "r"}',
            Failed("E", "No."),
        ),
        ('{"type": "Error"}', Failed(None, "the server failed")),
        ('{"type": "Weather", "sunny": true}', Unknown("Weather")),
    ],
)
def test_messages(message: str, expected: Message) -> None:
    assert decode(message) == expected


@pytest.mark.parametrize("message", ["nonsense", "42", "[[], 7]", '{"type": 7}', "{}"])
def test_what_is_certainly_no_answer_is_harmless(message: str) -> None:
    with pytest.raises(Harmless):
        decode(message)


@pytest.mark.parametrize("message", ['{"type": ["Flushed"]}', '{"type": "Flushed'])
def test_what_may_be_an_answer_is_an_error(message: str) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        decode(message)
    assert not isinstance(caught.value, Harmless)


def test_text_is_sent_as_it_is() -> None:
    text = ' a "quoted" \\{"word":"x","pronounce":"\u026aks"\\}\n\u2028 😀 '
    assert json.loads(protocol.encode_speak(text)) == {"type": "Speak", "text": text}


@pytest.mark.parametrize(
    ("closed", "kind", "cause"),
    [
        (Closed(1000), Dropped, "dropped"),
        (Closed(1003, "MESSAGE-0000"), RequestRefused, "request"),
        (Closed(1008, "DATA-0000"), RequestRefused, "request"),
        (Closed(1008, "DATA-0001: Too many characters."), Unavailable, "rate_limit"),
        (Closed(1009, "BIG-0001"), RequestRefused, "request"),
        (Closed(1011, "NET-0000"), Dropped, "dropped"),
        (Closed(1011, "NET-0003"), Dropped, "dropped"),
        (Closed(None), Dropped, "dropped"),
    ],
    ids=str,
)
def test_closes(closed: Closed, kind: type[ProviderError], cause: str) -> None:
    error = protocol.close_error(closed)
    assert type(error) is kind
    assert error.cause == cause


def test_a_warning_about_flushes_is_known_by_the_word() -> None:
    assert Warned("EXCESSIVE_FLUSH", "").about_flush
    assert Warned("", "Too many flush messages").about_flush
    assert not Warned("OTHER", "The model will be retired.").about_flush
