"""Decoding of recorded messages and encoding; no loop, no clock."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import SecretStr

from natterjack.emulators.speechmatics.spec import REALTIME as spec
from natterjack.plugin.errors import RemoteProtocolError, RequestRefused
from natterjack.plugin.provider import Notice
from worker.providers import wire
from worker.providers.speechmatics import control, protocol
from worker.providers.speechmatics.messages import (
    AudioAdded,
    DurationLimit,
    EndOfTranscript,
    EndOfUtterance,
    Error,
    LanguageInfo,
    RecognitionStarted,
    Result,
    Transcript,
)
from worker.providers.speechmatics.options import recognition
from worker.providers.speechmatics.protocol import decode
from worker.providers.speechmatics.settings import SpeechmaticsSettings

from ..emulated.streams import request
from ..emulated.table import SPEECHMATICS

SECRET = SPEECHMATICS.secret

STARTED: dict[str, Any] = {
    "message": "RecognitionStarted",
    "id": "807670e9-14af-4fa2-9e8f-5d525c22156e",
    "orchestrator_version": "2025.11.07+cd4ff775c0+14.7.0",
    "language_pack_info": {
        "adapted": False,
        "itn": True,
        "language_description": "English",
        "word_delimiter": " ",
        "writing_direction": "left-to-right",
    },
}
WORD: dict[str, Any] = {
    "type": "word",
    "start_time": 0.36,
    "end_time": 0.75,
    "volume": 12.5,
    "alternatives": [
        {
            "content": "Hello",
            "confidence": 0.99,
            "language": "en",
            "speaker": "S1",
            "display": {"direction": "ltr"},
        },
        {"content": "Yellow", "confidence": 0.2},
    ],
}
COMMA: dict[str, Any] = {
    "type": "punctuation",
    "start_time": 0.75,
    "end_time": 0.75,
    "attaches_to": "previous",
    "is_eos": False,
    "alternatives": [{"content": ",", "confidence": 1.0, "language": "en", "speaker": "S1"}],
}
METADATA: dict[str, Any] = {"start_time": 0.36, "end_time": 1.62, "transcript": "Hello, world. "}
TRANSCRIPT: dict[str, Any] = {
    "message": "AddTranscript",
    "format": "2.9",
    "metadata": METADATA,
    "results": [
        WORD,
        COMMA,
        {
            "type": "word",
            "start_time": 1.05,
            "end_time": 1.62,
            "alternatives": [{"content": "world", "confidence": 0.98, "speaker": "UU"}],
        },
    ],
}


def changed(**changes: Any) -> str:
    return json.dumps({**TRANSCRIPT, **changes})


# ---- out ------------------------------------------------------------------------------------


def test_the_upgrade_request() -> None:
    made = control.connect_request("wss://eu/v2", SecretStr(SECRET), "", "an-id")
    assert made.url == "wss://eu/v2"
    assert made.headers == {
        "Authorization": f"Bearer {SECRET}",
        "X-Request-Id": "an-id",
    }
    assert SECRET not in repr(made)
    assert control.connect_request("wss://eu/v2", SecretStr("k"), "a&b", "i").url == (
        "wss://eu/v2?sm-app=a%26b"
    )
    assert control.connect_request("wss://eu/v2?x=1", SecretStr("k"), "a", "i").url == (
        "wss://eu/v2?x=1&sm-app=a"
    )


def test_control_messages_fit_the_specification() -> None:
    made = recognition(SpeechmaticsSettings(), request())
    _, later = protocol.encode_changes(made.transcription_config, {"max_delay": 0.7})
    messages = [
        control.encode_start(made),
        control.encode_end_of_stream(1234),
        control.encode_force_end_of_utterance(63.50049),
        protocol.encode_changes(
            later, {"audio_filtering_config": {"volume_threshold": 2.0}, "enable_partials": False}
        )[0],
    ]
    decoded = [json.loads(message) for message in messages]
    for message in decoded:
        assert spec.problems(message) == []
    assert decoded[1] == {"message": "EndOfStream", "last_seq_no": 1234}
    assert decoded[2] == {"message": "ForceEndOfUtterance", "timestamp": 63.5}
    assert decoded[3] == {
        "message": "SetRecognitionConfig",
        "transcription_config": {
            "language": "en",
            "max_delay": 0.7,
            "max_delay_mode": "flexible",
            "enable_partials": False,
            "audio_filtering_config": {"volume_threshold": 2.0},
            "conversation_config": {"end_of_utterance_silence_trigger": 0.6},
        },
    }


@pytest.mark.parametrize(
    "changes",
    [
        {"language": "de"},
        {"diarization": "speaker"},
        {"max_delay": 9},
        {"enable_partials": "true"},
        {"conversation_config": {"end_of_utterance_silence_trigger": 3}},
        {"conversation_config": {"trigger": 1}},
    ],
)
def test_a_bad_change_is_refused_by_name(changes: dict[str, Any]) -> None:
    with pytest.raises(RequestRefused, match=next(iter(changes))):
        protocol.encode_changes({"language": "en"}, changes)


# ---- in -------------------------------------------------------------------------------------


def test_a_final() -> None:
    assert spec.problems(TRANSCRIPT) == []
    assert decode(json.dumps(TRANSCRIPT)) == Transcript(
        final=True,
        start=0.36,
        end=1.62,
        results=(
            Result(False, "Hello", 0.36, 0.75, 0.99, "en", "S1"),
            Result(True, ",", 0.75, 0.75, 1.0, "en", "S1", "previous"),
            Result(False, "world", 1.05, 1.62, 0.98),
        ),
    )


def test_confidences_of_partials_are_dropped() -> None:
    partial = decode(changed(message="AddPartialTranscript", results=[WORD]))
    assert isinstance(partial, Transcript)
    assert not partial.final
    assert partial.results[0].confidence is None


def test_an_entity_is_one_word() -> None:
    entity = {
        **WORD,
        "type": "entity",
        "entity_class": "date",
        "spoken_form": [],
        "written_form": [],
        "alternatives": [{"content": "17th of January 2022", "confidence": 0.9}],
    }
    found = decode(changed(results=[entity]))
    assert isinstance(found, Transcript)
    assert [(r.text, r.punctuation) for r in found.results] == [("17th of January 2022", False)]


def test_unused_results_are_skipped() -> None:
    results = [
        {"type": "word_group", "start_time": 1, "end_time": 2, "alternatives": []},
        {"type": "speaker_change", "start_time": 1, "end_time": 2},
        {**WORD, "alternatives": [{"content": " ", "confidence": 1}]},
    ]
    metadata = {**METADATA, "transcript": ""}
    found = decode(changed(results=results, metadata=metadata, forced=True, channel="x"))
    assert isinstance(found, Transcript)
    assert found.results == ()


def test_optional_fields_of_results() -> None:
    bare = {
        "type": "punctuation",
        "start_time": 2,
        "end_time": 1,
        "alternatives": [{"content": "?"}],
    }
    found = decode(changed(results=[bare, {**bare, "attaches_to": "sideways"}]))
    assert isinstance(found, Transcript)
    assert found.results == (Result(True, "?", 2, 2, attaches="previous"),) * 2


@pytest.mark.parametrize("kind", [None, 7, "odd", []])
def test_a_mark_is_no_word_whatever_its_type(kind: object) -> None:
    found = decode(changed(results=[{**WORD, "type": kind}, {**COMMA, "type": kind}]))
    assert isinstance(found, Transcript)
    assert [result.punctuation for result in found.results] == [False, True]


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (STARTED, RecognitionStarted("807670e9-14af-4fa2-9e8f-5d525c22156e", " ")),
        ({"message": "RecognitionStarted"}, RecognitionStarted(None, " ")),
        (
            {**STARTED, "id": "j", "language_pack_info": {"word_delimiter": ""}},
            RecognitionStarted("j", ""),
        ),
        ({"message": "AudioAdded", "seq_no": 7}, AudioAdded(7)),
        (
            {"message": "EndOfUtterance", "metadata": {"start_time": 2.26, "end_time": 2.26}},
            EndOfUtterance(2.26),
        ),
        ({"message": "EndOfTranscript"}, EndOfTranscript()),
        (
            {"message": "Error", "type": "job_error", "reason": "why", "code": 4013},
            Error("job_error", "why"),
        ),
        ({"message": "Error"}, Error("", "")),
        (
            {
                "message": "Warning",
                "type": "duration_limit_exceeded",
                "reason": "why",
                "duration_limit": 7200,
            },
            DurationLimit("why"),
        ),
        (
            {"message": "Warning", "type": "idle_timeout", "reason": "in 15m"},
            Notice("idle_timeout", "in 15m"),
        ),
        ({"message": "Warning", "type": "weather", "reason": "w"}, Notice("warning", "w")),
        (
            {"message": "Info", "type": "recognition_quality", "reason": "r", "quality": "x"},
            Notice("recognition_quality", "r"),
        ),
        (
            {
                "message": "Info",
                "type": "concurrent_session_usage",
                "reason": "r",
                "usage": 1,
                "quota": 2,
            },
            Notice("concurrent_session_usage", "1 of 2"),
        ),
        ({"message": "Info"}, Notice("info")),
        (
            {"message": "LanguageInfo", "language": "ar", "word_delimiter": " ", "partial": True},
            LanguageInfo("ar", " "),
        ),
        (
            {"message": "SpeakersResult", "speakers": []},
            Notice("not_asked_for", "SpeakersResult"),
        ),
        ({"message": "Weather"}, Notice("unknown", "message 'Weather'")),
    ],
)
def test_the_other_messages(message: dict[str, Any], expected: Any) -> None:
    assert decode(json.dumps(message)) == expected


def test_every_message_of_the_specification_is_known() -> None:
    for kind in spec.messages("subscribe"):
        try:
            decoded = decode(json.dumps({"message": kind}))
        except RemoteProtocolError:
            continue
        assert decoded != Notice("unknown", f"message {kind!r}")


@pytest.mark.parametrize(
    "message",
    [
        b"\x00",
        "",
        "no JSON",
        "[]",
        "7",
        "null",
        "{}",
        '{"message": 1}',
        "[" * 100_000,
        '{"message": "AudioAdded"}',
        '{"message": "AudioAdded", "seq_no": -1}',
        '{"message": "AudioAdded", "seq_no": true}',
        '{"message": "AudioAdded", "seq_no": 1.5}',
        '{"message": "EndOfUtterance"}',
        '{"message": "EndOfUtterance", "metadata": {"end_time": "now"}}',
        '{"message": "EndOfUtterance", "metadata": {"end_time": NaN}}',
        '{"message": "LanguageInfo", "language": "ar"}',
        changed(message="AddPartialTranscript", metadata=None, results=None),
        changed(message="AddPartialTranscript", metadata=None, results=["Hello"]),
    ],
)
def test_messages_that_are_skipped(message: str | bytes) -> None:
    with pytest.raises(wire.Harmless) as error:
        decode(message)
    assert len(str(error.value)) < 400
    assert error.value.provider == "speechmatics"


@pytest.mark.parametrize(
    "message",
    [
        json.dumps(TRANSCRIPT)[:-1],
        json.dumps(TRANSCRIPT)[1:],
        '{"type": "AudioAdded"}',
        '["text"]',
        changed(metadata=None, results=None),
        changed(metadata=None, results=["Hello"]),
        changed(metadata=None, results=[{**WORD, "alternatives": "Hello"}]),
        changed(metadata=None, results=[{**WORD, "alternatives": [{"content": 7}]}]),
        changed(metadata={**METADATA, "transcript": None}, results=None),
    ],
)
def test_a_final_that_cannot_be_read(message: str) -> None:
    with pytest.raises(RemoteProtocolError) as error:
        decode(message)
    assert not isinstance(error.value, wire.Harmless)


@pytest.mark.parametrize(
    "changes",
    [
        {"metadata": {**METADATA, "start_time": "0"}},
        {"metadata": {**METADATA, "end_time": None}},
        {"metadata": {**METADATA, "end_time": -1}},
        {"metadata": {**METADATA, "end_time": float("inf")}},
        {"metadata": {**METADATA, "end_time": 10**400}},
        {"metadata": {**METADATA, "end_time": 0.1}},
        {"metadata": None},
    ],
)
def test_a_final_is_kept(changes: dict[str, Any]) -> None:
    assert decode(changed(**changes)) == decode(json.dumps(TRANSCRIPT))


@pytest.mark.parametrize("kind", ["Weather", None, 7])
def test_a_transcript_of_another_kind_may_be_a_final(kind: Any) -> None:
    """Its text is kept in case it comes again."""
    with pytest.raises(RemoteProtocolError) as error:
        decode(changed(message=kind))
    assert error.value.readable is not None
    assert error.value.readable.text == "Hello , world"


@pytest.mark.parametrize(
    ("changes", "results"),
    [
        ({"start_time": True}, Result(False, "Hello", 0.36, 0.75)),
        ({"start_time": -0.01}, Result(False, "Hello", 0.36, 0.75)),
        ({"end_time": "now"}, Result(False, "Hello", 0.36, 1.62)),
        ({"end_time": 0.1}, Result(False, "Hello", 0.36, 0.36)),
    ],
)
def test_times_of_words_that_cannot_be_used(changes: dict[str, Any], results: Result) -> None:
    word = {**WORD, "alternatives": [{"content": "Hello", "confidence": "1"}]}
    found = decode(changed(results=[{**word, "start_time": 0.36, "end_time": 0.75, **changes}]))
    assert isinstance(found, Transcript)
    assert found.results == (results,)
    assert found.estimated == (changes != {"end_time": 0.1})


@pytest.mark.parametrize("results", [None, ["Hello"], [{**WORD, "alternatives": "Hello"}], []])
def test_the_text_as_a_whole_is_used_if_results_cannot_be_read(results: Any) -> None:
    metadata = {**METADATA, "start_time": 1, "end_time": 2, "transcript": "Hello, world."}
    found = decode(changed(metadata=metadata, results=results))
    assert isinstance(found, Transcript)
    assert found.results == (
        Result(False, "Hello,", 1, 1.5),
        Result(False, "world.", 1.5, 2),
    )
    assert found.estimated
