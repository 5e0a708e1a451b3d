"""Decoding and encoding of the messages that only Agent STT has."""

from __future__ import annotations

import json
from typing import Any

import pytest

from natterjack.emulators.speechmatics.spec import AGENT as spec
from natterjack.plugin.errors import RemoteProtocolError, RequestRefused
from natterjack.plugin.provider import Notice
from worker.providers import wire
from worker.providers.speechmatics import control
from worker.providers.speechmatics.messages import AudioAdded, EndOfTranscript, Error
from worker.providers.speechmatics_agent import protocol
from worker.providers.speechmatics_agent.messages import EndOfTurn, Segment, Speech, StartOfTurn
from worker.providers.speechmatics_agent.options import recognition
from worker.providers.speechmatics_agent.protocol import decode
from worker.providers.speechmatics_agent.settings import SpeechmaticsAgentSettings

from ..emulated.streams import request

SEGMENT: dict[str, Any] = {
    "message": "AddSegment",
    "segment": {"transcript": "Hello, I'd like to check on my order.", "speaker": "S1"},
    "metadata": {"start_time": 1.02, "end_time": 3.24},
}


def changed(**changes: Any) -> str:
    return json.dumps({**SEGMENT, **changes})


def test_messages_fit_the_specification() -> None:
    made = recognition(SpeechmaticsAgentSettings(), request(keyterms=("gnocchi",)))
    change, config = protocol.encode_changes(made.transcription_config, {"enable_partials": False})
    assert not config["enable_partials"]
    messages = [
        control.encode_start(made),
        control.encode_force_end_of_utterance(63.5),
        control.encode_end_of_stream(7),
        change,
    ]
    for message in messages:
        assert spec.problems(json.loads(message)) == []
    assert json.loads(change)["transcription_config"] == {
        "language": "en",
        "enable_partials": False,
    }


@pytest.mark.parametrize(
    "changes", [{"language": "de"}, {"emit_sentences": True}, {"max_delay": 1}]
)
def test_a_bad_change_is_refused_by_name(changes: dict[str, Any]) -> None:
    with pytest.raises(RequestRefused, match=next(iter(changes))):
        protocol.encode_changes({"language": "en"}, changes)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (SEGMENT, Segment(True, SEGMENT["segment"]["transcript"], 1.02, 3.24, "S1")),
        (
            {**SEGMENT, "message": "AddPartialSegment", "segment": {"transcript": " Hello "}},
            Segment(False, "Hello", 1.02, 3.24),
        ),
        (
            {**SEGMENT, "metadata": {}},
            Segment(True, SEGMENT["segment"]["transcript"], None, None, "S1"),
        ),
        (
            {**SEGMENT, "segment": {"transcript": "a", "speaker": "UU"}},
            Segment(True, "a", 1.02, 3.24),
        ),
        (
            {
                **SEGMENT,
                "segment": {"transcript": "a"},
                "metadata": {"start_time": 2, "end_time": 1},
            },
            Segment(True, "a", 2, None),
        ),
        ({"message": "StartOfTurn", "metadata": {"start_time": 1.02}}, StartOfTurn(1.02)),
        ({"message": "EndOfTurn", "metadata": {"end_time": 3.24}}, EndOfTurn(3.24)),
        ({"message": "EndOfTurn"}, EndOfTurn(None)),
        ({"message": "EndOfTurn", "metadata": {"end_time": 1e9}}, EndOfTurn(None)),
        ({"message": "SpeechStarted", "metadata": {"start_time": 1}}, Speech(True)),
        ({"message": "SpeechEnded", "metadata": {"end_time": 1}}, Speech(False)),
        ({"message": "AudioAdded", "seq_no": 3}, AudioAdded(3)),
        ({"message": "EndOfTranscript"}, EndOfTranscript()),
        (
            {"message": "Error", "type": "job_error", "reason": "why"},
            Error("job_error", "why"),
        ),
        ({"message": "Warning", "reason": "why"}, Notice("warning", "why")),
        (
            {"message": "Warning", "type": "unsupported_language", "reason": "why"},
            Notice("unsupported_language", "why"),
        ),
        (
            {"message": "Info", "type": "concurrent_session_usage", "reason": "1 of 2"},
            Notice("concurrent_session_usage", "1 of 2"),
        ),
        ({"message": "AddTranscript", "results": []}, Notice("not_asked_for", "AddTranscript")),
        ({"message": "Weather"}, Notice("unknown", "message 'Weather'")),
    ],
)
def test_decoding(message: dict[str, Any], expected: object) -> None:
    assert decode(json.dumps(message), latest=100) == expected


@pytest.mark.parametrize("segment", [None, 7, "Hello", [], {}, {"transcript": None}])
def test_a_final_without_readable_text_is_an_error(segment: Any) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        decode(changed(segment=segment))
    assert not isinstance(caught.value, wire.Harmless)
    with pytest.raises(wire.Harmless):
        decode(changed(segment=segment, message="AddPartialSegment"))


@pytest.mark.parametrize("kind", ["", "Segment", None, 7])
def test_a_segment_is_known_by_its_shape(kind: Any) -> None:
    """Its text is kept, in case the server always sends it like this."""
    with pytest.raises(RemoteProtocolError) as caught:
        decode(changed(message=kind))
    assert not isinstance(caught.value, wire.Harmless)
    assert caught.value.readable is not None
    assert caught.value.readable.text == SEGMENT["segment"]["transcript"]
