from __future__ import annotations

import pytest

from natterjack.errors import InvalidKey
from natterjack.subjects import (
    SessionKey,
    audio_subject,
    control_subject,
    parse_key,
    session_subject,
    transcript_filter,
    transcript_subject,
)

KEY = SessionKey("acme", "call-7", "agent_1")


def test_subjects() -> None:
    assert session_subject(KEY) == "stt.session.acme.call-7.agent_1"
    assert audio_subject(KEY) == "stt.audio.acme.call-7.agent_1"
    assert control_subject(KEY) == "stt.control.acme.call-7.agent_1"
    assert transcript_subject(KEY, "final") == "stt.transcript.acme.call-7.agent_1.final"


def test_keys_are_parsed_from_subjects() -> None:
    for subject in (session_subject(KEY), audio_subject(KEY), transcript_subject(KEY, "turn")):
        assert parse_key(subject) == KEY
    assert SessionKey.parse(str(KEY)) == KEY


def test_filters() -> None:
    assert transcript_filter() == "stt.transcript.*.*.*.*"
    assert transcript_filter("acme") == "stt.transcript.acme.*.*.*"
    assert transcript_filter(None, None, "agent") == "stt.transcript.*.*.agent.*"
    assert transcript_filter("a", "b", "c", "final") == "stt.transcript.a.b.c.final"


@pytest.mark.parametrize(
    "token", ["", "a.b", "a b", "*", ">", "a\n", "é", "x" * 65, "a/b", "$JS", "a\r\nPUB x 0"]
)
def test_invalid_tokens_are_rejected(token: str) -> None:
    with pytest.raises(InvalidKey, match=r"conversation .* is not valid: use 1 to 64 of"):
        SessionKey.checked("t", token, "s")
    with pytest.raises(InvalidKey):
        transcript_filter(token)


@pytest.mark.parametrize("subject", ["stt.audio.a.b", "other.audio.a.b.c", "stt.audio.a.b.c d", ""])
def test_subjects_without_a_key(subject: str) -> None:
    with pytest.raises(InvalidKey):
        parse_key(subject)
