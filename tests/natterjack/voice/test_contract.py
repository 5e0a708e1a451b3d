"""The contract of voice sessions: what is written can be read, and what cannot be is named."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from natterjack.errors import BadChunk, BadEvent
from natterjack.subjects import SessionKey, parse_key, speech_subject, text_subject
from natterjack.voice.audio import (
    SpeechHeader,
    decode_speech_headers,
    encode_speech_headers,
)
from natterjack.voice.events import UtteranceEvent, parse_voice_event
from natterjack.voice.spec import (
    MAX_PIECE_BYTES,
    MAX_TEXT_CHARACTERS,
    Played,
    TextPiece,
    VoiceSpec,
    parse_piece,
    parse_place,
    parse_played,
)
from tests.searching import examples

KEY = SessionKey("acme", "room", "assistant")
IDS = {"tenant": "acme", "conversation": "room", "speaker": "assistant"}
NUMBERS = st.integers(0, 2**53 - 1)
PLAIN = encode_speech_headers(SpeechHeader("a-session", 1, 2, 3, 4, 24_000))


def test_subjects_have_the_key() -> None:
    assert text_subject(KEY) == "tts.text.acme.room.assistant"
    assert parse_key(speech_subject(KEY)) == KEY


RATES = st.integers(8000, 48_000)


@examples(100)
@given(NUMBERS, NUMBERS, NUMBERS, NUMBERS, RATES, st.booleans(), st.booleans())
def test_headers_of_speech_are_read_as_they_were_written(
    epoch: int, utterance: int, seq: int, pos: int, rate: int, end: bool, cut: bool
) -> None:
    header = SpeechHeader("a-session", epoch, utterance, seq, pos, rate, end, cut)
    assert decode_speech_headers(encode_speech_headers(header), 0) == header


@pytest.mark.parametrize(
    "name", ["Session-Id", "Epoch", "Utterance", "Audio-Seq", "Audio-Pos", "Sample-Rate"]
)
def test_a_header_that_is_missing_is_named(name: str) -> None:
    headers = {key: value for key, value in PLAIN.items() if key != name}
    with pytest.raises(BadChunk, match=name):
        decode_speech_headers(headers, 0)


@pytest.mark.parametrize("value", ["-1", "1.5", "", " 1", "\u0661", "9" * 17, "9" * 16, "1e3"])
def test_a_number_that_is_none_is_refused(value: str) -> None:
    with pytest.raises(BadChunk, match="Audio-Pos"):
        decode_speech_headers({**PLAIN, "Audio-Pos": value}, 0)


@pytest.mark.parametrize(
    ("headers", "size", "problem"),
    [
        (None, 0, "Session-Id"),
        (PLAIN, 3, "whole frames"),
        ({**PLAIN, "Audio-Cut": "1"}, 2, "cut"),
        ({**PLAIN, "Audio-Fence": "1"}, 2, "fence"),
        ({**PLAIN, "Audio-Answer": "1"}, 0, "answer"),
        ({**PLAIN, "Audio-End": "yes"}, 2, "Audio-End"),
        ({**PLAIN, "Audio-Pos": str(2**53 - 1)}, 2, "no room"),
        ({**PLAIN, "Sample-Rate": "0"}, 2, "Sample-Rate"),
        ({**PLAIN, "Sample-Rate": "48001"}, 2, "Sample-Rate"),
        ({**PLAIN, "Session-Id": "a b.c d e"}, 2, "Session-Id"),
    ],
    ids=[
        "none",
        "odd",
        "cut with audio",
        "fence with audio",
        "answer that is no fence",
        "flag",
        "far",
        "no rate",
        "high rate",
        "session",
    ],
)
def test_a_chunk_of_speech_that_cannot_be(
    headers: dict[str, str] | None, size: int, problem: str
) -> None:
    with pytest.raises(BadChunk, match=problem):
        decode_speech_headers(headers, size)


@examples(100)
@given(NUMBERS, NUMBERS, st.text(max_size=200), st.booleans())
def test_pieces_are_read_as_they_were_written(
    utterance: int, piece: int, text: str, flush: bool
) -> None:
    made = TextPiece(
        session_id="a-session", utterance=utterance, piece=piece, text=text, flush=flush
    )
    assert parse_piece(made.encode()) == made


def test_the_longest_text_fits_the_largest_message() -> None:
    made = TextPiece(
        session_id="s" * 64, utterance=2**53 - 1, piece=2**53 - 1, text="\x01" * MAX_TEXT_CHARACTERS
    )
    assert len(made.encode()) <= MAX_PIECE_BYTES
    assert parse_piece(made.encode()) == made


@pytest.mark.parametrize(
    ("payload", "problem"),
    [
        (b"", "JSON"),
        (b"[" * 100_000, "JSON"),
        (b'{"session_id":"a-session","utterance":-1,"piece":0}', "utterance"),
        (b'{"session_id":"a-session","utterance":0,"piece":0,"text":7}', "text"),
        (b" " * (MAX_PIECE_BYTES + 1), "too many"),
        (
            json.dumps({
                "session_id": "a-session", "utterance": 0, "piece": 0,
                "text": "a" * (MAX_TEXT_CHARACTERS + 1),
            }).encode(),
            "text",
        ),
    ],
    ids=["empty", "nested", "negative", "not a text", "bytes", "characters"],
)  # fmt: skip
def test_a_piece_that_cannot_be_read(payload: bytes, problem: str) -> None:
    with pytest.raises(BadEvent, match=problem):
        parse_piece(payload)


@pytest.mark.parametrize(
    ("text", "read"),
    [
        (r"\ud83d", "\ufffd"),
        (r"\ude00 \uD83D\uDE00", "\ufffd 😀"),
        (r"a\\ud800b", r"a\ud800b"),
        (r"\u0000", "\x00"),
    ],
)
def test_half_a_character_does_not_cost_the_rest_of_a_piece(text: str, read: str) -> None:
    """Programs that divide text by UTF-16 units cut emoji in two."""
    payload = '{"session_id":"a-session","utterance":0,"piece":3,"text":"' + text + '"}'
    assert parse_piece(payload.encode()).text == read
    again = TextPiece(session_id="a-session", utterance=0, piece=0, text="a\ud800b")
    assert parse_piece(again.encode()).text == "a\ufffdb"


def test_the_place_of_a_piece_is_known_if_its_text_cannot_be_read() -> None:
    payload = b'{"session_id":"a-session","utterance":4,"piece":3,"text":7,"flush":true}'
    place = parse_place(payload)
    assert (place.utterance, place.piece, place.flush, place.end) == (4, 3, True, False)
    with pytest.raises(BadEvent, match="piece"):
        parse_place(b'{"session_id":"a-session","utterance":4,"piece":-3}')


def test_a_report_of_a_player_that_cannot_be_read() -> None:
    with pytest.raises(BadEvent, match="state"):
        parse_played(b'{"session_id":"a-session","utterance":0,"position":0,"state":"dancing"}')


def test_a_player_asks_for_missing_chunks() -> None:
    made = Played(session_id="a-session", utterance=0, position=0, state="starved", missing=7)
    assert parse_played(made.encode()) == made
    plain = parse_played(b'{"session_id":"a-session","utterance":0,"position":0,"state":"idle"}')
    assert plain.missing is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"voice": ""},
        {"voice": []},
        {"voice": ["aura", ""]},
        {"sample_rate": 44},
        {"interrupt_on": "acme.room"},
        {"interrupt_on": "another.room.caller"},
        {"tenant": "a.b"},
        {"session_id": "short"},
    ],
    ids=str,
)
def test_a_request_that_cannot_be(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        VoiceSpec.model_validate({**IDS, **wrong})


def test_voices_in_order() -> None:
    assert VoiceSpec.model_validate(IDS).providers == []
    assert VoiceSpec.model_validate({**IDS, "voice": "a"}).providers == ["a"]
    assert VoiceSpec.model_validate({**IDS, "voice": ["a", "b"]}).providers == ["a", "b"]


def test_events_are_told_apart_by_their_type() -> None:
    event = UtteranceEvent.model_validate(
        {**IDS, "session_id": "a-session", "epoch": 1, "sequence": 0, "utterance": 0}
        | {"event": "started", "published_at": "2026-11-30T00:00:00Z"}
    )
    assert parse_voice_event(event.encode()) == event
    with pytest.raises(BadEvent, match="voice event"):
        parse_voice_event(b'{"type":"final"}')
