"""The messages of both Speechmatics endpoints for events of any backend, held to the vendor's
specifications."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.doors.speechmatics import protocol
from gateway.doors.speechmatics.agent import Agent
from gateway.doors.speechmatics.errors import Fatal
from gateway.doors.speechmatics.realtime import Realtime
from natterjack.emulators.speechmatics.spec import AGENT, REALTIME, Specification
from natterjack.events import Event
from natterjack.values import Word

from ..samples import final, interim, status, turn, words_of
from .test_protocol import RAW

Messages = list[dict[str, Any]]
TRIGGER = {"end_of_utterance_silence_trigger": 0.5}
TWO_SPEAKERS = [*words_of("Good day.", 0, 1, "0"), *words_of("Hello, you!", 1, 2, "1")]


def start(*, external: bool = False, **config: Any) -> protocol.Start:
    return protocol.start({
        "audio_format": RAW,
        "transcription_config": {"language": "en", "model": "linden-1", **config},
        "turn_config": {"turn_detection_mode": "external" if external else "vad"},
    })  # fmt: skip


def told(dialect: protocol.Dialect, *events: Event) -> Messages:
    found = [message for event in events for message in dialect.receive(event)]
    fit(AGENT if isinstance(dialect, Agent) else REALTIME, found)
    return found


def fit(spec: Specification, messages: Messages) -> None:
    for message in messages:
        assert spec.problems(message) == [], message


def kinds(messages: Messages) -> list[str]:
    return [message["message"] for message in messages]


# ---- both -----------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", [REALTIME, AGENT])
def test_messages_of_both_endpoints_fit_both_specifications(spec: Specification) -> None:
    audio = start().audio
    fit(spec, [
        protocol.recognition_started("id", "ar"),
        protocol.quality(audio),
        json.loads(protocol.audio_added(1)),
        protocol.warning("speaker_id", "a reason"),
        protocol.no_speakers(),
        protocol.END_OF_TRANSCRIPT,
    ])  # fmt: skip
    info = protocol.recognition_started("id", "ar")["language_pack_info"]
    assert (info["word_delimiter"], info["writing_direction"]) == (" ", "right-to-left")
    assert protocol.recognition_started("id", "ja")["language_pack_info"]["word_delimiter"] == ""


def test_errors_fit_the_specifications() -> None:
    common = ("invalid_message", "invalid_model", "invalid_language", "invalid_config", "job_error",
              "invalid_audio_type", "not_authorised", "not_allowed", "protocol_error")  # fmt: skip
    for kind in common:
        fit(AGENT, [Fatal(kind, "a reason").message(coded=False)])
    for kind in (*common, "quota_exceeded", "timelimit_exceeded", "idle_timeout", "unknown_error"):
        fit(REALTIME, [Fatal(kind, "a reason").message(coded=True)])


# ---- /v2 ------------------------------------------------------------------------------------


def test_words_and_punctuation_are_results_of_their_own() -> None:
    (message,) = told(Realtime(start()), final("Hello, “world”.", 1.0, 2.0))
    assert message["metadata"] == {
        "start_time": 1.0, "end_time": 2.0, "transcript": "Hello, “world”. ",
    }  # fmt: skip
    assert [
        (one["type"], one["alternatives"][0]["content"], one.get("attaches_to"), one.get("is_eos"))
        for one in message["results"]
    ] == [
        ("word", "Hello", None, None),
        ("punctuation", ",", "previous", False),
        ("punctuation", "“", "next", False),
        ("word", "world", None, None),
        ("punctuation", "”", "previous", False),
        ("punctuation", ".", "previous", True),
    ]
    word = message["results"][0]
    assert (word["start_time"], word["end_time"]) == (1.0, 1.5)
    assert word["alternatives"] == [{"content": "Hello", "confidence": 0.9, "language": "en"}]


@pytest.mark.parametrize(
    "word", ["$5", "50%", "don't", "C++", "3.14", "@home", "U.S", "well-known"]
)
def test_marks_inside_words_and_signs_belong_to_them(word: str) -> None:
    (message,) = told(Realtime(start()), final(word, 0, 1))
    assert [one["alternatives"][0]["content"] for one in message["results"]] == [word]


def test_the_transcript_is_the_concatenation_of_finals() -> None:
    messages = told(Realtime(start()), final("One.", 0, 1), final("Two three", 1, 2, 1))
    assert "".join(one["metadata"]["transcript"] for one in messages) == "One. Two three "
    japanese = [Word(text="今日", start=0, end=1), Word(text="は", start=1, end=2)]
    (message,) = told(Realtime(start(language="ja")), final("今日は", 0, 2, words=japanese))
    assert message["metadata"]["transcript"] == "今日は"


def test_speakers_have_labels_if_the_client_asks() -> None:
    event = final("Good day. Hello, you!", 0, 2, words=TWO_SPEAKERS)
    (message,) = told(Realtime(start(diarization="speaker")), event)
    spoken = [one["alternatives"][0]["speaker"] for one in message["results"]]
    assert spoken == ["S1"] * 3 + ["S2"] * 4
    (message,) = told(Realtime(start()), event)
    assert all("speaker" not in one["alternatives"][0] for one in message["results"])


def test_partials_and_ends_of_utterances_only_if_the_client_asks() -> None:
    events = (turn("started", 0.0), interim("one", 0, 1), final("one two", 0, 2),
              turn("ended", 2.5))  # fmt: skip
    assert kinds(told(Realtime(start()), *events)) == ["AddTranscript"]
    messages = told(Realtime(start(enable_partials=True, conversation_config=TRIGGER)), *events)
    assert kinds(messages) == ["AddPartialTranscript", "AddTranscript", "EndOfUtterance"]
    assert messages[-1]["metadata"] == {"start_time": 2.5, "end_time": 2.5}


def test_a_backend_without_turns_ends_utterances_with_finals() -> None:
    realtime = Realtime(start(conversation_config=TRIGGER))
    assert kinds(told(realtime, interim("one", 0, 1), final("one", 0, 1), status("closed"))) == [
        "AddTranscript", "EndOfUtterance",
    ]  # fmt: skip


def test_an_utterance_without_a_final_has_no_end() -> None:
    realtime = Realtime(start(conversation_config=TRIGGER))
    assert told(realtime, turn("started", 0.0), interim("uh", 0, 1), turn("ended", 1.0)) == []


def test_times_never_go_back() -> None:
    messages = told(Realtime(start()), final("one", 0, 2), final("two", 1.5, 1.8, 1))
    assert [one["metadata"]["start_time"] for one in messages] == [0, 2]
    assert messages[1]["metadata"]["end_time"] == 2


def test_a_forced_end_is_always_answered() -> None:
    realtime = Realtime(start())
    assert realtime.force(3.0) == (True, [])
    messages = [*told(realtime, final("one", 0, 1)), *realtime.forced(True)]
    assert kinds(messages) == ["AddTranscript", "EndOfUtterance"]
    assert all(one["forced"] for one in messages)
    realtime.force(None)
    messages = realtime.forced(True)
    assert kinds(messages) == ["AddTranscript", "EndOfUtterance"]
    assert messages[0]["metadata"] == {"start_time": 1, "end_time": 1, "transcript": ""}
    fit(REALTIME, messages)
    assert realtime.forced(True) == []
    (plain,) = told(realtime, final("two", 1, 2, 1))
    assert "forced" not in plain


# ---- /v2/agent ------------------------------------------------------------------------------


def test_a_turn_is_around_its_segments() -> None:
    messages = told(
        Agent(start(enable_partials=True)), turn("started", 0.9), interim("hi", 1, 1.5),
        final("Hi there.", 1, 2), final("You.", 2, 3, 1), turn("ended", 3.2),
    )  # fmt: skip
    assert kinds(messages) == [
        "SpeechStarted", "StartOfTurn", "AddPartialSegment", "AddSegment", "AddSegment",
        "SpeechEnded", "EndOfTurn",
    ]  # fmt: skip
    assert messages[1]["metadata"] == {"start_time": 0.9}
    assert messages[3]["segment"] == {"transcript": "Hi there."}
    assert messages[3]["metadata"] == {"start_time": 1, "end_time": 2}
    assert messages[-1]["metadata"] == {"end_time": 3.2}


def test_without_partials_and_turns_of_the_backend() -> None:
    messages = told(
        Agent(start()), interim("hi", 1, 1.5), final("Hi.", 1, 2), final("You", 3, 4, 1)
    )
    assert kinds(messages) == [
        "SpeechStarted", "StartOfTurn", "AddSegment", "SpeechEnded", "EndOfTurn",
    ] * 2  # fmt: skip


def test_segments_end_with_sentences_and_speakers() -> None:
    event = final("Good day. Hello, you!", 0, 2, words=TWO_SPEAKERS)
    (segment,) = [one for one in told(Agent(start()), event) if one["message"] == "AddSegment"]
    assert segment["segment"] == {"transcript": "Good day. Hello, you!"}
    for config in ({"emit_sentences": True}, {"diarization": "speaker"}):
        found = [one for one in told(Agent(start(**config)), event) if "segment" in one]
        assert [one["segment"]["transcript"] for one in found] == ["Good day.", "Hello, you!"]
        assert [one["segment"].get("speaker") for one in found] == (
            ["S1", "S2"] if "diarization" in config else [None, None]
        )
        assert found[0]["metadata"]["end_time"] == found[1]["metadata"]["start_time"] == 1.0


def test_in_external_mode_the_client_ends_turns() -> None:
    agent = Agent(start(external=True))
    messages = told(
        agent, turn("started", 0.0), interim("one", 0, 1), final("one", 0, 1), turn("ended", 1.0),
        turn("started", 2.0, 1), final("two", 2, 3, 1), turn("ended", 3.0, 1),
    )  # fmt: skip
    assert kinds(messages) == ["StartOfTurn", "AddSegment", "AddSegment"]
    assert agent.force(3.0) == (True, [])
    messages = agent.forced(True)
    fit(AGENT, messages)
    assert messages == [{"message": "EndOfTurn", "metadata": {"end_time": 3.0}}]
    assert kinds(told(agent, final("three", 4, 5, 2))) == ["StartOfTurn", "AddSegment"]


def test_forced_ends_of_turns() -> None:
    agent = Agent(start(external=True))
    assert agent.force(1.0) == (True, [])
    assert agent.forced(True) == []  # no turn is open
    wanted, warnings = agent.force(1.0)
    assert not wanted
    assert kinds(warnings) == ["Warning"]
    fit(AGENT, warnings)
    with pytest.raises(Fatal, match="timestamp"):
        agent.force(None)
    assert Agent(start()).force(1.0) == (False, [])
