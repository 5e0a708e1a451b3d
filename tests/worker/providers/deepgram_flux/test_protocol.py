"""Decoding of recorded messages and encoding; no loop, no clock."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from natterjack.plugin.errors import (
    Dropped,
    ProviderError,
    RemoteProtocolError,
    RequestRefused,
    Unavailable,
)
from natterjack.plugin.provider import Notice, ProviderWord
from natterjack.plugin.websocket import Closed
from tests.emulators.test_deepgram_flux_sdk import schemas
from worker.providers import wire
from worker.providers.deepgram_flux import protocol
from worker.providers.deepgram_flux.protocol import (
    Configured,
    ConfigureFailed,
    Connected,
    FatalError,
    Sequence,
    TurnInfo,
    Warned,
    close_error,
    decode,
    fatal_error,
    handshake_error,
)

# From the vendor's documentation.
TURN_INFO: dict[str, Any] = {
    "type": "TurnInfo",
    "request_id": "ad12514a-0d38-4f7e-8fba-cce10d8f174c",
    "sequence_id": 11,
    "event": "EndOfTurn",
    "turn_index": 0,
    "audio_window_start": 0.0,
    "audio_window_end": 1.7,
    "transcript": "Hi I need",
    "words": [
        {"word": "Hi", "confidence": 0.95, "start": 0.42, "end": 0.56},
        {"word": "I", "confidence": 0.92, "start": 0.56, "end": 0.6},
        {"word": "need", "confidence": 0.97},
    ],
    "end_of_turn_confidence": 0.7,
    "trigger": "model",
    "languages": ["en", "es"],
    "languages_hinted": ["en", "es"],
}


def changed(**changes: Any) -> str:
    return json.dumps({k: v for k, v in {**TURN_INFO, **changes}.items() if v is not ...})


# ---- out ------------------------------------------------------------------------------------


def test_control_messages_are_what_the_documentation_says() -> None:
    close = json.loads(protocol.encode_close_stream())
    assert close == {"type": "CloseStream"}
    schemas("subscribe")["CloseStream"].validate(close)
    assert json.loads(protocol.encode_force_end_turn()) == {"type": "ForceEndTurn"}
    changes = {"eager_eot_threshold": 0.4, "eot_threshold": 0.7, "eot_timeout_ms": 6000}
    assert json.loads(protocol.encode_configure({**changes, "keyterms": []})) == {
        "type": "Configure",
        "thresholds": changes,
        "keyterms": [],
    }


# ---- in -------------------------------------------------------------------------------------


def test_turn_info() -> None:
    assert decode(json.dumps(TURN_INFO)) == (
        11,
        TurnInfo(
            event="EndOfTurn",
            index=0,
            window_end=1.7,
            text="Hi I need",
            words=(
                ProviderWord("Hi", 0.42, 0.56, 0.95),
                ProviderWord("I", 0.56, 0.6, 0.92),
                ProviderWord("need", None, None, 0.97),
            ),
            confidence=0.7,
            trigger="model",
            language="en",
        ),
    )


def test_turn_info_with_less() -> None:
    bare = changed(
        **dict.fromkeys(("trigger", "languages", "languages_hinted", "sequence_id"), ...),
        end_of_turn_confidence=...,
        request_id=...,
    )
    sequence, info = decode(bare)
    assert sequence is None
    assert isinstance(info, TurnInfo)
    assert (info.trigger, info.language, info.confidence) == (None, None, None)


def test_text_without_words_is_split() -> None:
    _, info = decode(changed(words=[]))
    assert isinstance(info, TurnInfo)
    assert info.words == (ProviderWord("Hi"), ProviderWord("I"), ProviderWord("need"))


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ({"type": "Connected", "request_id": "r", "sequence_id": 0}, (0, Connected("r"))),
        (
            {"type": "ConfigureFailure", "code": "INVALID_THRESHOLD", "description": "too high"},
            (None, ConfigureFailed("INVALID_THRESHOLD", "too high")),
        ),
        ({"type": "ConfigureFailure", "sequence_id": 3}, (3, ConfigureFailed("", ""))),
        (
            {"type": "Warning", "sequence_id": 14, "code": "FORCE", "description": "ignored"},
            (14, Warned("FORCE", "ignored")),
        ),
        (
            {"type": "Error", "sequence_id": 15, "code": "INTERNAL", "description": "broken"},
            (15, FatalError("INTERNAL", "broken")),
        ),
        (
            {"type": "Weather", "sequence_id": 1},
            (1, Notice("unknown", "message of type 'Weather'")),
        ),
    ],
)
def test_other_messages(message: dict[str, Any], expected: Any) -> None:
    assert decode(json.dumps(message)) == expected


def test_configure_success_shows_what_is_in_force() -> None:
    _, message = decode(
        '{"type": "ConfigureSuccess", "thresholds": {"eot_threshold": 0.7}, "keyterms": ["a"]}'
    )
    assert isinstance(message, Configured)
    assert message.values["eot_threshold"] == 0.7
    assert message.values["keyterms"] == ["a"]


UNREADABLE = {"transcript": None, "words": [{"word": 7}]}


@pytest.mark.parametrize(
    ("message", "harmless"),
    [
        # Without any text, it has no words.
        (b"\x00", True),
        ("not JSON", True),
        ("} not JSON {", False),
        ("[1]", True),
        ("7", True),
        ('{"type": 7}', True),
        ("[" * 100_000, True),
        # Each message repeats the whole turn.
        (changed(**UNREADABLE, event="Update"), True),
        (changed(event="Update")[:-1], True),
        # It may be an EndOfTurn, whose words no other message repeats.
        (changed(**UNREADABLE), False),
        (changed(**UNREADABLE, event=7), False),
        (changed(**UNREADABLE, event=...), False),
        ('{"kind": "nothing"}', False),
        (json.dumps(TURN_INFO)[:-1], False),
        # The words about an event are none.
        (json.dumps({"type": "TurnInfo", "x": '"event": "Update"'})[:-1], False),
    ],
)
def test_messages_that_cannot_be_read(message: str | bytes, harmless: bool) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        decode(message)
    assert caught.value.retryable
    assert isinstance(caught.value, wire.Harmless) is harmless


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"type": "Weather"}, {}),
        ({"type": None}, {}),
        ({"event": 7}, {"event": "Update"}),
        ({"turn_index": "first"}, {"index": None}),
        ({"turn_index": True}, {"index": None}),
        ({"turn_index": -1}, {"index": None}),
        ({"audio_window_end": -1}, {"window_end": None}),
        ({"audio_window_end": ...}, {"window_end": None}),
        ({"audio_window_end": float("nan")}, {"window_end": None}),
        ({"audio_window_end": 1e300}, {"window_end": None}),
        ({"end_of_turn_confidence": 7}, {"confidence": None}),
    ],
)
def test_fields_that_cannot_be_used(changes: dict[str, Any], found: dict[str, Any]) -> None:
    _, plain = decode(json.dumps(TURN_INFO))
    _, info = decode(changed(**changes), latest=100)
    assert isinstance(plain, TurnInfo)
    assert isinstance(info, TurnInfo)
    assert info == replace(plain, **found)


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (..., (ProviderWord("Hi"),)),
        (["Hi"], (ProviderWord("Hi"),)),
        ([{"word": ""}], (ProviderWord("Hi"),)),
        ([{"word": "Hi", "start": -1, "end": 0}], (ProviderWord("Hi", None, 0),)),
        ([{"word": "Hi", "start": 0, "end": "now"}], (ProviderWord("Hi", 0),)),
    ],
)
def test_text_is_kept(words: Any, found: tuple[ProviderWord, ...]) -> None:
    _, info = decode(changed(transcript="Hi", words=words))
    assert isinstance(info, TurnInfo)
    assert (info.text, info.words) == ("Hi", found)


@pytest.mark.parametrize("odd", ["0.7", "high", True, [], {}, None, 10**400])
def test_optional_fields(odd: Any) -> None:
    sequence, info = decode(
        changed(
            end_of_turn_confidence=odd,
            sequence_id="x",
            words=[{"word": "Hi", "confidence": odd, "start": 0.42, "end": 0.56}],
            transcript="Hi",
            trigger=7,
            languages="en",
        )
    )
    assert sequence is None
    assert isinstance(info, TurnInfo)
    assert info.confidence is None
    assert info.words == (ProviderWord("Hi", 0.42, 0.56, None),)


def test_the_sequence() -> None:
    sequence = Sequence()
    assert [sequence.check(n) for n in (0, 1, 2)] == [None] * 3
    gap = sequence.check(5)
    assert gap is not None
    assert gap.code == "sequence_gap"
    assert "5" in gap.message
    assert "3" in gap.message
    assert sequence.check(6) is None
    # Some samples of the documentation have none, whether they count or not.
    assert [sequence.check(n) for n in (None, 8, 9)] == [None] * 3
    assert sequence.check(9) is not None


# ---- errors ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "again", "kind", "cause"),
    [
        ("INTERNAL_SERVER_ERROR", False, Unavailable, "server_error"),
        ("INACTIVE_CLIENT", False, Dropped, "dropped"),
        ("UNPARSABLE_CLIENT_MESSAGE", False, RequestRefused, "request"),
        ("SOMETHING_NEW", False, Unavailable, "server_error"),
        ("SOMETHING_NEW", True, RequestRefused, "request"),
    ],
)
def test_fatal_errors(code: str, again: bool, kind: type[ProviderError], cause: str) -> None:
    error = fatal_error(FatalError(code, "why"), again=again)
    assert type(error) is kind
    assert (error.cause, error.code) == (cause, code)
    assert "why" in str(error)


@pytest.mark.parametrize(
    ("code", "finishing", "kind"),
    [
        (1005, True, None),
        (1000, True, None),
        (1005, False, Dropped),
        (1000, False, Dropped),
        (None, True, Dropped),
        (1001, False, Dropped),
        (1011, True, Dropped),
        (1008, False, RequestRefused),
        (1008, True, RequestRefused),
    ],
)
def test_closes(code: int | None, finishing: bool, kind: type[ProviderError] | None) -> None:
    error = close_error(Closed(code), finishing=finishing)
    assert (None if error is None else type(error)) is kind


@pytest.mark.parametrize(
    ("status", "kind"), [(400, RequestRefused), (403, RequestRefused), (429, Unavailable)]
)
def test_refused_handshakes(status: int, kind: type[ProviderError]) -> None:
    error = handshake_error(status, {"dg-error": "why", "dg-request-id": "r1"})
    assert type(error) is kind
    assert error.provider == "deepgram-flux"
    assert "why, request r1" in str(error)
