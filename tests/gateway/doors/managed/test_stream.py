"""The messages that a client of the managed protocol gets, without a socket."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.access import Reason
from gateway.doors.managed.stream import (
    MAX_FRAME_BYTES,
    REFUSALS,
    BadMessage,
    End,
    Finalize,
    ManagedStream,
    close_code,
    error_message,
    first_message,
    later_message,
)

from ..samples import final, interim, status

AUTH: dict[str, Any] = {
    "type": "auth", "token": "t",
    "config": {"model": "nova-2", "language": "en-US", "sample_rate": 16000, "channels": 1,
               "encoding": "linear16", "interim_results": True},
}  # fmt: skip


def auth(**config: Any) -> str:
    return json.dumps({**AUTH, "config": {**AUTH["config"], **config}})


def told(messages: list[str]) -> list[dict[str, Any]]:
    return [json.loads(message) for message in messages]


def test_the_first_frame_says_who_the_client_is() -> None:
    message = first_message(json.dumps(AUTH))
    assert message.token.get_secret_value() == "t"
    assert (message.config.model, message.config.language) == ("nova-2", "en-US")
    bare = first_message('{"type": "auth", "token": "t"}').config
    assert (bare.sample_rate, bare.encoding, bare.interim_results) == (16000, "linear16", True)
    assert first_message(auth(more=[1], color="blue")).config == message.config


@pytest.mark.parametrize(
    "frame",
    [
        b"\x00\x00", b"", "", "{", "null", "[]", '"auth"', "5", '{"type": "ready"}', "{}",
        '{"type": "auth"}', '{"type": "auth", "token": ""}', '{"type": "auth", "token": 5}',
        '{"type": "auth", "token": "t", "config": []}', "[" * 100_000, '{"type": "finalize"}',
        auth(sample_rate=8000), auth(channels=2), auth(encoding="mulaw"), auth(sample_rate="16000"),
        auth(interim_results="yes"), auth(encoding="<b>"), auth(model=5),
    ],
)  # fmt: skip
def test_any_other_first_frame_is_refused(frame: str | bytes) -> None:
    with pytest.raises(BadMessage) as caught:
        first_message(frame)
    assert caught.value.code == "bad_request"
    assert len(error_message("bad_request", str(caught.value))) < 1000


def test_later_texts() -> None:
    assert later_message('{"type": "finalize"}') == Finalize()
    assert later_message('{"type": "end"}') == End()
    assert later_message('{"type": "hello"}') is None
    for bad in ("{", "[]", "null", json.dumps(AUTH)):
        with pytest.raises(BadMessage):
            later_message(bad)


def test_each_reason_of_a_refusal_has_a_code_and_a_close() -> None:
    assert set(REFUSALS) == set(Reason)
    assert {code: close_code(code) for code in set(REFUSALS.values())} == {
        "auth_failed": 4401, "credits_exhausted": 4402, "too_many_sessions": 4429,
    }  # fmt: skip


def test_texts_are_told_once_and_blank_ones_never() -> None:
    stream = ManagedStream("id-1")
    messages = [
        message
        for event in (
            interim("hello", 0.1, 0.5), interim("  ", 0.1, 0.5), interim("hello wor", 0.1, 0.8),
            final("hello world", 0.1, 0.9), final("", 0.9, 2.0), final(" ", 2.0, 3.0),
            final("<b>x</b>", 3.0, 4.0),
        )
        for message in stream.receive(event)
    ]  # fmt: skip
    assert told(messages) == [
        {"type": "transcript", "text": text, "is_final": is_final, "start": start, "end": end,
         "seq": seq, "session_id": "id-1"}
        for seq, (text, is_final, start, end) in enumerate([
            ("hello", False, 0.1, 0.5), ("hello wor", False, 0.1, 0.8),
            ("hello world", True, 0.1, 0.9), ("<b>x</b>", True, 3.0, 4.0),
        ])
    ]  # fmt: skip


def test_the_client_is_told_ready_again_when_the_provider_is_back() -> None:
    stream = ManagedStream("id-1")
    ready = [{"type": "ready", "session_id": "id-1"}]
    assert told([stream.ready()]) == ready
    for state, expected in (
        ("assigned", []), ("streaming", []), ("recovering", []), ("streaming", ready),
        ("streaming", []), ("handed_over", []), ("assigned", []), ("streaming", ready),
    ):  # fmt: skip
        assert told(stream.receive(status(state))) == expected, state


def test_audio_is_counted_by_bytes_and_odd_ones_are_carried_over() -> None:
    stream = ManagedStream("id-1")
    got = b"".join(stream.audio(part) for part in (b"a", b"", b"bc", b"d", b"ef", b"g"))
    assert got == b"abcdef"
    assert stream.seconds == 7 / 32_000
    whole = bytes(2048)
    assert ManagedStream("id-1").audio(whole) is whole
    stream.audio(bytes(MAX_FRAME_BYTES))
    with pytest.raises(BadMessage) as caught:
        stream.audio(bytes(MAX_FRAME_BYTES + 1))
    assert caught.value.code == "audio_too_large"
    assert close_code("audio_too_large") == 1009


def test_credits_are_low_once_at_each_threshold() -> None:
    stream = ManagedStream("id-1")
    found = [
        message["seconds_remaining"]
        for left in (None, 500, 301, 299.6, 200, 60, 59, 0, None)
        for message in told(stream.balance(left))
    ]
    assert found == [300, 60]
    assert told(ManagedStream("id-1").balance(10)) == [
        {"type": "credits_low", "seconds_remaining": 10}
    ], "one message, although it is below both"


def test_the_end_names_the_seconds_that_were_used() -> None:
    stream = ManagedStream("id-1")
    stream.audio(bytes(32_000))
    assert json.loads(stream.end()) == {"type": "session_end", "seconds_used": 1.0}


@pytest.mark.parametrize(
    ("event", "code", "close"),
    [
        (status("closed", reason="budget", detail="tenant t has used 5 of 5 s"),
         "credits_exhausted", 4402),
        (status("closed", reason="budget", detail="max_seconds: 5 s of audio"),
         "session_limit", 4408),
        (status("closed", reason="stopped: by an operator"), "session_limit", 4408),
        (status("failed", reason="provider"), "upstream_unavailable", 1013),
    ],
)  # fmt: skip
def test_an_end_that_the_client_has_not_asked_for_is_an_error(
    event: Any, code: str, close: int
) -> None:
    found, message = ManagedStream("id-1").closing(event)
    assert (found, close_code(found)) == (code, close)
    assert message
