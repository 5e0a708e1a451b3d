"""The Speechmatics emulator: accepted messages, transcripts, and injected faults."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from natterjack.emulators import tones
from natterjack.emulators.session import Close, Elapsed
from natterjack.emulators.speechmatics.faults import CLOSE_CODES, SpeechmaticsFaults
from natterjack.emulators.speechmatics.realtime import RecognitionSession
from natterjack.emulators.speechmatics.spec import AGENT
from natterjack.emulators.speechmatics.spec import REALTIME as spec

AUDIO_FORMAT = {"type": "raw", "encoding": "pcm_s16le", "sample_rate": 16000}
CONFIG: dict[str, Any] = {
    "language": "en",
    "max_delay": 1.0,
    "enable_partials": True,
    "conversation_config": {"end_of_utterance_silence_trigger": 0.5},
}


def start(audio_format: Any = None, **config: Any) -> str:
    return json.dumps(
        {
            "message": "StartRecognition",
            "audio_format": audio_format or AUDIO_FORMAT,
            "transcription_config": {**CONFIG, **config},
        }
    )


def session(faults: SpeechmaticsFaults | None = None, **config: Any) -> RecognitionSession:
    stream = RecognitionSession(faults or SpeechmaticsFaults())
    stream.greeting()
    stream.text(start(**config))
    return stream


def feed(stream: RecognitionSession, audio: bytes, chunk: int = 3200) -> list[Any]:
    return [m for at in range(0, len(audio), chunk) for m in stream.audio(audio[at : at + chunk])]


def end(stream: RecognitionSession) -> list[Any]:
    return stream.text(json.dumps({"message": "EndOfStream", "last_seq_no": stream.frames}))


def of(messages: list[Any], kind: str) -> list[dict[str, Any]]:
    return [m for m in messages if isinstance(m, dict) and m["message"] == kind]


def text(message: dict[str, Any]) -> str:
    return str(message["metadata"]["transcript"])


def words_of(messages: list[Any]) -> list[str]:
    return tones.words_of("".join(text(m) for m in of(messages, "AddTranscript")))


def failed(answers: list[Any]) -> str:
    """Assert that the answers are an Error and a close, and return the error's type."""
    error, close = answers
    assert error["message"] == "Error"
    assert close == Close(CLOSE_CODES[error["type"]], error["type"])
    return str(error["type"])


# ---- the start ------------------------------------------------------------------------------


def test_the_greeting_comes_first() -> None:
    greeting: list[Any] = RecognitionSession(SpeechmaticsFaults()).greeting()
    kinds = [message["type"] for message in greeting]
    assert kinds == ["recognition_quality", "concurrent_session_usage"]


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("}{", "invalid_message"),
        ("[]", "invalid_message"),
        ("{}", "invalid_message"),
        ('{"message": "AddAudio"}', "invalid_message"),
        ('{"message": "AudioAdded", "seq_no": 1}', "invalid_message"),
        ('{"message": "EndOfStream", "last_seq_no": 0}', "protocol_error"),
        ('{"message": "StartRecognition"}', "invalid_config"),
        (start({"type": "raw"}), "invalid_audio_type"),
        (start({**AUDIO_FORMAT, "encoding": "alaw"}), "invalid_audio_type"),
        (start({**AUDIO_FORMAT, "sample_rate": "16k"}), "invalid_audio_type"),
        (start({"type": "file"}), "invalid_audio_type"),
        (start(language=7), "invalid_language"),
        (start(language="xx"), "invalid_language"),
        (start(model="nova-3"), "invalid_model"),
        (start(operating_point="best"), "invalid_model"),
        (start(max_delay=0.5), "invalid_config"),
        (start(max_delay=4.1), "invalid_config"),
        (start(max_delay_mode="loose"), "invalid_config"),
        (start(enable_partials="true"), "invalid_config"),
        (start(diarization="all"), "invalid_config"),
        (start(diarization="channel"), "invalid_config"),
        (start(speaker_diarization_config={"max_speakers": 1}), "invalid_config"),
        (start(additional_vocab=[{"sounds_like": ["a"]}]), "invalid_config"),
        (start(unheard_of=1), "invalid_config"),
        (
            start(conversation_config={"end_of_utterance_silence_trigger": 2.1}),
            "invalid_config",
        ),
        (start(conversation_config={"trigger": 1}), "invalid_config"),
        (start(punctuation_overrides={"permitted_marks": ["..."]}), "invalid_config"),
    ],
)
def test_a_bad_start_is_refused(message: str, kind: str) -> None:
    stream = RecognitionSession(SpeechmaticsFaults())
    assert failed(stream.text(message)) == kind
    assert stream.text(start()) == [], "nothing follows an Error"


def test_the_order_of_messages() -> None:
    assert failed(RecognitionSession(SpeechmaticsFaults()).audio(bytes(3200))) == "protocol_error"
    assert failed(session().text(start())) == "protocol_error"
    late = RecognitionSession(SpeechmaticsFaults(start_delay_seconds=5))
    assert late.text(start()) == []
    assert late.tick(Elapsed(1, 1, 1)) == []
    assert late.tick(Elapsed(5, 5, 5)) == []
    (started,) = late.tick(Elapsed(6.1, 6.1, 6.1))
    assert isinstance(started, dict)
    assert started["message"] == "RecognitionStarted"
    assert late.audio(bytes(3200))
    hasty = RecognitionSession(SpeechmaticsFaults(start_delay_seconds=5))
    hasty.text(start())
    assert failed(hasty.audio(bytes(3200))) == "protocol_error"


# ---- transcripts ----------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [2, 777, 3200, 10**6])
def test_every_frame_is_acknowledged_and_every_word_final_once(chunk: int) -> None:
    words = tones.sequence(40)
    how: dict[str, Any] = {"phrase_words": 15, "lead_seconds": 5}
    audio = tones.encode(words, tail_seconds=4, **how)
    if chunk == 2:
        audio = audio[: 32000 * 9]
    stream = session()
    messages = feed(stream, audio, chunk) + end(stream)
    numbers = [m["seq_no"] for m in of(messages, "AudioAdded")]
    assert numbers == list(range(1, stream.frames + 1))
    assert messages[-2:] == [{"message": "EndOfTranscript"}, Close(1000)]
    received = words_of(messages)
    assert received == words[: len(received)]
    assert len(received) >= 10
    frontier = 0.0
    places = tones.places(words, **how)
    for final in of(messages, "AddTranscript"):
        metadata = final["metadata"]
        assert frontier <= metadata["start_time"] <= metadata["end_time"]
        frontier = metadata["end_time"]
        assert not [p for p in places if p.start + 0.01 < frontier < p.end - 0.01]
        for result in final["results"]:
            assert metadata["start_time"] <= result["start_time"]
            assert result["end_time"] <= metadata["end_time"]
    assert not of(messages, "AddTranscript")[0]["results"], "silence has a separate final"


def test_a_word_is_final_within_max_delay() -> None:
    stream = session(max_delay=1.0)
    pending: dict[str, float] = {}
    audio = tones.encode(tones.sequence(40))
    for at in range(0, 32000 * 10, 640):
        for message in of(stream.audio(audio[at : at + 640]), "AddTranscript"):
            for final in tones.words_of(text(message)):
                pending.pop(final)
        for word in stream.words:
            if stream.seconds - word.end > 1.03:
                assert word.word not in pending, f"{word} is late"
            elif word.end > stream.seconds - 0.05:
                pending.setdefault(word.word, word.end)
    assert len(pending) < 4


def test_partials_repeat_pending_words() -> None:
    stream = session()
    messages = feed(stream, tones.encode(tones.sequence(20), lead_seconds=0.5), 640)
    assert len(of(messages, "AddPartialTranscript")) >= 20
    frontier = 0.0
    for message in messages:
        if message["message"] == "AddTranscript":
            frontier = message["metadata"]["end_time"]
        elif message["message"] == "AddPartialTranscript":
            assert message["metadata"]["start_time"] >= frontier
            for result in message["results"]:
                assert result["start_time"] >= frontier
                assert result["alternatives"][0]["confidence"] == 0
    position = [m["message"] for m in messages]
    after_finals = [position[i + 1] for i, kind in enumerate(position) if kind == "AddTranscript"]
    assert set(after_finals) == {"AddPartialTranscript"}
    quiet = session(enable_partials=False)
    assert not of(feed(quiet, tones.encode(tones.sequence(5))), "AddPartialTranscript")


def test_silence_after_words_ends_an_utterance_once() -> None:
    stream = session()
    audio = tones.encode(tones.sequence(8), phrase_words=4, pause_seconds=0.9, tail_seconds=3)
    messages = [m for m in feed(stream, audio, 640) if "Partial" not in m["message"]]
    kinds = [m["message"] for m in messages if m["message"] != "AudioAdded"]
    first = kinds.index("EndOfUtterance")
    assert kinds[first - 1] == "AddTranscript"
    ends = of(messages, "EndOfUtterance")
    assert len(ends) == 2
    place = tones.places(tones.sequence(8), phrase_words=4, pause_seconds=0.9)[3]
    at = ends[0]["metadata"]
    assert at["start_time"] == at["end_time"] == pytest.approx(place.end + 0.5, abs=0.03)
    never = session(conversation_config={"end_of_utterance_silence_trigger": 0})
    assert not of(feed(never, audio), "EndOfUtterance")


def test_punctuation_belongs_to_the_word_before() -> None:
    stream = session()
    messages = feed(stream, tones.encode(tones.sequence(12), phrase_words=6, tail_seconds=1))
    results = [r for m in of(messages, "AddTranscript") for r in m["results"]]
    marks = [r for r in results if r["type"] == "punctuation"]
    assert [r["is_eos"] for r in marks].count(True) == 2
    assert {r["attaches_to"] for r in marks} == {"previous"}
    for mark in marks:
        assert mark["start_time"] == mark["end_time"]
    transcript = " ".join(text(m).strip() for m in of(messages, "AddTranscript") if text(m))
    assert transcript.startswith("Able about above acorn")
    assert transcript.count(".") == 2
    quiet = session(punctuation_overrides={"permitted_marks": [","]})
    assert "." not in "".join(
        text(m) for m in of(feed(quiet, tones.encode(tones.sequence(12))), "AddTranscript")
    )


def test_forced_ends() -> None:
    force = json.dumps({"message": "ForceEndOfUtterance", "timestamp": 60})
    stream = session()
    feed(stream, tones.silence(1))
    assert stream.text(force) == [], "without speech there is no answer"
    words = tones.sequence(3)
    feed(stream, tones.encode(words))
    final, ended = stream.text(force)
    assert isinstance(final, dict)
    assert isinstance(ended, dict)
    assert (final["forced"], ended["forced"]) == (True, True)
    assert words_of([final]) == words
    assert ended["metadata"]["end_time"] == pytest.approx(stream.seconds, abs=0.01)
    assert stream.text(force) == []
    feed(stream, tones.encode(words))
    until = stream.words[3].end + 0.01
    first, _ = stream.text(json.dumps({"message": "ForceEndOfUtterance", "timestamp": until}))
    assert words_of([first]) == words[:1]


def test_speakers_and_entities() -> None:
    stream = session(diarization="speaker")
    audio = tones.encode(["monday", "able", "eleven"], phrase_words=2, tail_seconds=1)
    messages = feed(stream, audio)
    results = [r for m in of(messages, "AddTranscript") for r in m["results"]]
    spoken = [r for r in results if r["type"] != "punctuation"]
    assert [r["type"] for r in spoken] == ["entity", "word", "entity"]
    assert [r["alternatives"][0]["speaker"] for r in spoken] == ["S1", "S1", "S2"]
    plain = session(enable_entities=False)
    results = [r for m in of(feed(plain, audio), "AddTranscript") for r in m["results"]]
    assert "entity" not in {r["type"] for r in results}
    assert all("speaker" not in r["alternatives"][0] for r in results)


@pytest.mark.parametrize("encoding", ["pcm_f32le", "mulaw"])
def test_encodings(encoding: str) -> None:
    words = tones.sequence(5)
    audio = tones.encode(words, encoding="mulaw" if encoding == "mulaw" else "linear16")
    if encoding == "pcm_f32le":
        audio = (np.frombuffer(audio, "<i2") / 32768).astype("<f4").tobytes()
    stream = RecognitionSession(SpeechmaticsFaults())
    stream.text(start({**AUDIO_FORMAT, "encoding": encoding}))
    assert stream.seconds_in(audio) == pytest.approx(1.6)
    assert words_of(feed(stream, audio, 999) + end(stream)) == words


# ---- control --------------------------------------------------------------------------------


def test_the_configuration_changes_during_the_stream() -> None:
    stream = session()
    changes = {"language": "en", "enable_partials": False, "max_delay": 0.7}
    change = {"message": "SetRecognitionConfig", "transcription_config": changes}
    assert stream.text(json.dumps(change)) == []
    assert not of(feed(stream, tones.encode(tones.sequence(5))), "AddPartialTranscript")


@pytest.mark.parametrize(
    "changes", [{"language": "de"}, {"model": "standard"}, {"max_delay": 9}, {"x": 1}]
)
def test_a_wrong_change_ends_the_session(changes: dict[str, Any]) -> None:
    change = {"message": "SetRecognitionConfig", "transcription_config": changes}
    assert failed(session().text(json.dumps(change))) == "invalid_config"


def test_audio_after_the_end_gets_a_warning_and_is_ignored() -> None:
    stream = session(SpeechmaticsFaults(end_of_transcript="missing"))
    assert end(stream) == []
    (warning,) = stream.audio(bytes(3200))
    assert isinstance(warning, dict)
    assert warning["type"] == "add_audio_after_eos"
    assert stream.audio(bytes(3200)) == []
    assert stream.frames == 0


def test_multichannel_messages_are_refused() -> None:
    message = {"message": "AddChannelAudio", "channel": "a", "data": "AAAA"}
    assert failed(session().text(json.dumps(message))) == "protocol_error"
    assert failed(session().text('{"message": "EndOfStream"}')) == "invalid_message"


# ---- faults and the clock -------------------------------------------------------------------


def test_sessions_time_out_after_warnings() -> None:
    idle = session()
    ticks = [idle.tick(Elapsed(s, s, 0)) for s in range(0, 3601, 60)]
    warnings = [m for answers in ticks[:-1] for m in answers]
    assert [m["reason"].split()[-1] for m in warnings if isinstance(m, dict)] == [
        "15m", "10m", "5m",
    ]  # fmt: skip
    assert failed(list(ticks[-1])) == "idle_timeout"
    long = session()
    ticks = [long.tick(Elapsed(3600 * 47 + s, 0, 0)) for s in range(0, 3601, 60)]
    assert sum(map(len, ticks[:-1])) == 3
    assert failed(list(ticks[-1])) == "session_timeout"
    dead = session()
    assert dead.tick(Elapsed(179, 179, 179)) == []
    (close,) = dead.tick(Elapsed(180, 180, 180))
    assert isinstance(close, Close)
    fast = session(SpeechmaticsFaults(clock_rate=1000))
    assert failed(fast.tick(Elapsed(4, 4, 0))) == "idle_timeout"


def test_the_duration_limit_ends_the_transcript() -> None:
    stream = session(SpeechmaticsFaults(duration_limit_seconds=1.0))
    messages = feed(stream, tones.encode(tones.sequence(10)))
    kinds = [m["message"] for m in messages if isinstance(m, dict)]
    (warning,) = of(messages, "Warning")
    assert warning["duration_limit"] == 1.0
    assert len(words_of(messages)) == 3
    after = kinds[kinds.index("EndOfTranscript") + 1 :]
    assert set(after) == {"AudioAdded"}, "audio is acknowledged and ignored"


@pytest.mark.parametrize(
    ("fault", "missing"),
    [
        ({"withhold_acks_after_seconds": 0.5}, "AudioAdded"),
        ({"no_transcripts_after_seconds": 0.5}, "AddTranscript"),
    ],
)
def test_withheld_messages(fault: dict[str, Any], missing: str) -> None:
    audio = tones.encode(tones.sequence(10))
    honest = of(feed(session(), audio), missing)
    assert 0 <= len(of(feed(session(SpeechmaticsFaults(**fault)), audio), missing)) < len(honest)


def test_injected_distortions() -> None:
    audio = tones.encode(tones.sequence(12), phrase_words=6, tail_seconds=1)
    late = feed(session(SpeechmaticsFaults(late_punctuation=True)), audio)
    alone = [m for m in of(late, "AddTranscript") if text(m) == ". "]
    assert len(alone) == 2
    eager = feed(session(SpeechmaticsFaults(overreaching_finals=True)), audio, 640)
    ends = [m["metadata"]["end_time"] for m in of(eager, "AddTranscript") if m["results"]]
    last = [m["results"][-1]["end_time"] for m in of(eager, "AddTranscript") if m["results"]]
    assert all(a > b for a, b in zip(ends, last, strict=True))
    silent = feed(session(SpeechmaticsFaults(quiet_in_silence=True)), tones.silence(10))
    assert {m["message"] for m in silent} == {"AudioAdded"}
    faults = SpeechmaticsFaults(extra_fields=True, language_info=True)
    extra = feed(session(faults), audio)
    assert all("x_extra" in m for m in extra if m["message"] != "LanguageInfo")
    assert len(of(extra, "LanguageInfo")) == len(of(extra, "AddTranscript"))
    cut = feed(session(SpeechmaticsFaults(unreadable_final_after_seconds=0)), audio)
    assert [m["results"] for m in of(cut, "AddTranscript")].count(None) == 1


# ---- validation -----------------------------------------------------------------------------


def test_validation_detects_errors() -> None:
    valid = json.loads(start(additional_vocab=["a", {"content": "b", "sounds_like": ["c"]}]))
    assert spec.problems(valid) == []
    bad = {**valid, "extra": 1}
    assert spec.problems(bad) == [(("extra",), "unknown field")]
    bad = json.loads(start(speaker_diarization_config={"speakers": [{"labels": "x"}]}))
    wrong = {path for path, _ in spec.problems(bad)}
    inner = ("transcription_config", "speaker_diarization_config", "speakers", 0)
    assert {inner, (*inner, "labels")} <= wrong


def test_the_specification_is_named_and_attributed() -> None:
    attribution = (spec.path.parent / "README.md").read_text()
    assert spec.path.name in attribution
    assert AGENT.path.name in attribution
    assert "The MIT License" in attribution
    assert "Speechmatics Limited" in attribution
