"""The emulator of Agent STT: accepted messages, segments, turns and injected faults."""

from __future__ import annotations

import json
from typing import Any

import pytest

from natterjack.emulators import tones
from natterjack.emulators.session import Close
from natterjack.emulators.speechmatics.agent import AgentSession
from natterjack.emulators.speechmatics.faults import CLOSE_CODES, AgentFaults
from natterjack.emulators.speechmatics.spec import AGENT as spec

AUDIO_FORMAT = {"type": "raw", "encoding": "pcm_s16le", "sample_rate": 16000}
CONFIG: dict[str, Any] = {
    "language": "en",
    "model": "linden-1",
    "enable_partials": True,
    "emit_sentences": True,
}


def start(mode: str | None = None, audio_format: Any = None, **config: Any) -> str:
    message = {
        "message": "StartRecognition",
        "audio_format": audio_format or AUDIO_FORMAT,
        "transcription_config": {**CONFIG, **config},
    }
    if mode is not None:
        message["turn_config"] = {"turn_detection_mode": mode}
    return json.dumps(message)


def session(
    mode: str | None = None, faults: AgentFaults | None = None, **config: Any
) -> AgentSession:
    stream = AgentSession(faults or AgentFaults())
    stream.greeting()
    stream.text(start(mode, **config))
    return stream


def feed(stream: AgentSession, audio: bytes, chunk: int = 3200) -> list[Any]:
    return [m for at in range(0, len(audio), chunk) for m in stream.audio(audio[at : at + chunk])]


def end(stream: AgentSession) -> list[Any]:
    return stream.text(json.dumps({"message": "EndOfStream", "last_seq_no": stream.frames}))


def force(stream: AgentSession, timestamp: float) -> list[Any]:
    return stream.text(json.dumps({"message": "ForceEndOfUtterance", "timestamp": timestamp}))


def kinds(messages: list[Any]) -> list[str]:
    """The kinds of messages, without acknowledgements and interims."""
    left = {"AudioAdded", "AddPartialSegment"}
    found = [m["message"] for m in messages if isinstance(m, dict)]
    return [kind for kind in found if kind not in left]


def texts(messages: list[Any], kind: str = "AddSegment") -> list[str]:
    return [
        m["segment"]["transcript"] for m in messages if isinstance(m, dict) and m["message"] == kind
    ]


def failed(answers: list[Any]) -> str:
    """Assert that the answers are an Error and a close, and return the error's type."""
    error, close = answers
    assert error["message"] == "Error"
    assert close == Close(CLOSE_CODES[error["type"]], error["type"])
    return str(error["type"])


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        (start(model="enhanced"), "invalid_model"),
        (start(language="xx"), "invalid_language"),
        (start(audio_format={**AUDIO_FORMAT, "encoding": "mulaw"}), "invalid_audio_type"),
        (start(audio_format={**AUDIO_FORMAT, "sample_rate": 48000}), "invalid_audio_type"),
        (start(max_delay=1.0), "invalid_config"),
        (start(enable_entities=True), "invalid_config"),
        (start(conversation_config={}), "invalid_config"),
        (start(diarization="channel"), "invalid_config"),
        (start(speaker_diarization_config={"get_speakers": True}), "invalid_config"),
        (start("smart"), "invalid_config"),
        ('{"message": "EndOfChannel"}', "invalid_message"),
        ('{"message": "EndOfStream", "last_seq_no": 0}', "protocol_error"),
    ],
)
def test_a_bad_start_is_refused(message: str, kind: str) -> None:
    stream = AgentSession(AgentFaults())
    assert failed(stream.text(message)) == kind
    assert stream.text(start()) == [], "nothing follows an Error"


def test_a_force_needs_a_timestamp() -> None:
    stream = session("external")
    assert failed(stream.text('{"message": "ForceEndOfUtterance"}')) == "invalid_message"


def test_only_partials_can_be_reconfigured() -> None:
    stream = session()
    change = {"message": "SetRecognitionConfig", "transcription_config": {"language": "en"}}
    assert stream.text(json.dumps(change)) == []
    change["transcription_config"] = {"language": "en", "enable_partials": False}
    assert stream.text(json.dumps(change)) == []
    assert not texts(feed(stream, tones.encode(tones.sequence(4))), "AddPartialSegment")
    change["transcription_config"] = {"emit_sentences": False}
    assert failed(stream.text(json.dumps(change))) == "invalid_config"


def test_the_order_of_messages_of_a_turn() -> None:
    stream = session()
    words = tones.sequence(4)
    audio = tones.encode(words, lead_seconds=0.3, tail_seconds=1.0)
    messages = feed(stream, audio)
    turn = ["SpeechStarted", "StartOfTurn", "SpeechEnded", "AddSegment", "EndOfTurn"]
    assert kinds(messages) == turn
    assert texts(messages) == ["Able about above acorn."]
    assert texts(messages, "AddPartialSegment")[0] == "Able"
    places = tones.places(words, lead_seconds=0.3)
    (segment,) = [m for m in messages if m["message"] == "AddSegment"]
    assert segment["metadata"]["start_time"] == pytest.approx(places[0].start, abs=0.006)
    assert segment["metadata"]["end_time"] == pytest.approx(places[-1].end, abs=0.006)
    assert messages[-1]["message"] == "AudioAdded", "silence has no message of its own"
    assert kinds(end(stream)) == ["EndOfTranscript"]


def test_sentences_are_segments_only_on_request() -> None:
    audio = tones.encode(tones.sequence(14), tail_seconds=1.0)
    assert [len(text.split()) for text in texts(feed(session(), audio))] == [6, 6, 2]
    (whole,) = texts(feed(session(emit_sentences=False), audio))
    assert whole.count(".") == 3
    assert tones.words_of(whole) == tones.sequence(14)


def test_the_longest_segment() -> None:
    faults = AgentFaults(segment_cap_seconds=2)
    found = texts(
        feed(session(faults=faults, emit_sentences=False), tones.encode(tones.sequence(14)))
    )
    assert [len(text.split()) for text in found] == [6, 6]


def test_in_external_mode_the_client_ends_turns() -> None:
    stream = session("external")
    audio = tones.encode(tones.sequence(4), phrase_words=2, pause_seconds=2, tail_seconds=2)
    assert kinds(feed(stream, audio)) == ["StartOfTurn"], "neither speech nor ends of turns"
    closing = force(stream, 8.0)
    assert kinds(closing) == ["AddSegment", "EndOfTurn"]
    assert closing[1]["metadata"] == {"end_time": 8.0}
    (warning,) = force(stream, 8.0)
    assert warning["message"] == "Warning"
    assert force(stream, 9.0) == [], "no turn is open"
    feed(stream, tones.encode(tones.sequence(2)))
    assert kinds(end(stream)) == ["AddSegment", "EndOfTranscript"], "the turn has no end"


def test_in_vad_mode_a_force_is_ignored() -> None:
    stream = session()
    feed(stream, tones.encode(tones.sequence(2)))
    assert force(stream, 0.5) == force(stream, 0.5) == []


def test_speakers_alternate_with_turns() -> None:
    audio = tones.encode(tones.sequence(6), phrase_words=2, tail_seconds=1.0)
    messages = feed(session(diarization="speaker"), audio)
    found = [m["segment"]["speaker"] for m in messages if m["message"] == "AddSegment"]
    assert found == ["S1", "S2", "S1"]
    plain = feed(session(), audio)
    assert not [m for m in plain if "speaker" in m.get("segment", {})]


def test_unusual_messages() -> None:
    audio = tones.encode(tones.sequence(2), tail_seconds=1.0)
    mixed = feed(session(faults=AgentFaults(word_messages=True)), audio)
    assert {"AddTranscript", "LanguageInfo"} <= {m["message"] for m in mixed}
    greeting = AgentSession(AgentFaults(untyped_warning=True)).greeting()
    assert isinstance(greeting[0], dict)
    assert "type" not in greeting[0]
    assert spec.problems(greeting[0]) == []
    cut = feed(session(faults=AgentFaults(unreadable_final_after_seconds=0)), audio)
    assert [m["segment"] for m in cut if m["message"] == "AddSegment"] == [None]
