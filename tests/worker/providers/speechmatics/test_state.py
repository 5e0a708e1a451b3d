"""The protocol state: audio sent, answers received, answers outstanding."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest

from natterjack.plugin.errors import (
    Dropped,
    RemoteProtocolError,
    RequestRefused,
    Stalled,
    Unavailable,
)
from natterjack.plugin.provider import Notice, Turn, Usage
from natterjack.plugin.websocket import Closed
from worker.providers.speechmatics.exchange import Limits
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
from worker.providers.speechmatics.settings import SpeechmaticsSettings
from worker.providers.speechmatics.state import StreamState
from worker.providers.speechmatics.window import Patience, Window

from ..emulated.streams import request

SECOND = 32_000
"""Bytes per second of audio."""
WORD = Result(False, "yeah", 0.2, 0.5, 0.9)


def state(**limits: Any) -> StreamState:
    defaults: dict[str, Any] = {
        "max_unacknowledged_seconds": 3.0,
        "max_unacknowledged_frames": 100,
        "final_timeout_seconds": 10.0,
        "silence_margin_seconds": 0.0,
    }
    made = recognition(SpeechmaticsSettings(), request())
    return StreamState(made, Limits(**{**defaults, **limits}))


# ---- the window -----------------------------------------------------------------------------


def test_the_window_is_bounded_in_seconds_and_in_frames() -> None:
    window = Window(max_seconds=1.0, max_frames=3)
    window.sent(0.5)
    assert window.open
    window.sent(0.5)
    assert not window.open
    assert window.added(1)
    assert window.open
    window.sent(0.1)
    window.sent(0.1)
    assert not window.open, "three frames are not acknowledged"
    assert window.added(4)
    assert (window.frames, window.acknowledged) == (4, window.seconds)


def test_an_acknowledgement_covers_all_earlier_frames() -> None:
    window = Window(max_seconds=10, max_frames=10)
    for _ in range(5):
        window.sent(0.5)
    assert window.added(3)
    assert window.acknowledged == 1.5
    assert window.added(2), "an older one changes nothing"
    assert window.acknowledged == 1.5
    assert not window.added(6)
    assert not Window(1, 1).added(1)


def test_a_session_waits_after_a_temporary_error() -> None:
    patience = Patience(5)
    assert patience.wait("a", 100) == 0
    patience.failed("a", Unavailable("p", "rate_limit", "full"), 100)
    assert (patience.wait("a", 101), patience.wait("b", 101), patience.wait("a", 106)) == (4, 0, 0)
    patience.failed("b", Unavailable("p", "server_error", "down"), 110)
    assert patience.wait("b", 110) == 5
    patience.failed("c", Unavailable("p", "connect", "gone"), 110)
    patience.failed("c", Dropped("p", "gone"), 110)
    assert patience.wait("c", 110) == 0


# ---- out ------------------------------------------------------------------------------------


def test_sending_waits_for_acknowledgements() -> None:
    stream = state()
    for _ in range(3):
        assert stream.ready
        stream.sent(bytes(SECOND))
    assert not stream.ready
    assert stream.receive(AudioAdded(1)) == [Notice("audio_added", "1.00 s")]
    assert stream.ready
    assert stream.receive(AudioAdded(1)) == []
    (notice,) = stream.receive(AudioAdded(9))
    assert isinstance(notice, Notice)
    assert notice.code == "malformed"


def test_frames_are_counted_from_one_and_audio_in_seconds() -> None:
    stream = state()
    for _ in range(7):
        stream.sent(bytes(2560))
    assert json.loads(stream.finalize() or "") == {
        "message": "ForceEndOfUtterance",
        "timestamp": 0.56,
    }
    assert json.loads(stream.finish()) == {"message": "EndOfStream", "last_seq_no": 7}
    assert json.loads(state().finish())["last_seq_no"] == 0, "each connection counts from zero"


def test_changes_accumulate() -> None:
    stream = state()
    stream.configure({"max_delay": 1.0})
    changed = json.loads(stream.configure({"enable_partials": False}))["transcription_config"]
    assert (changed["max_delay"], changed["enable_partials"]) == (1.0, False)
    with pytest.raises(RequestRefused):
        stream.configure({"language": "de"})


# ---- in -------------------------------------------------------------------------------------


def test_the_normal_end() -> None:
    stream = state()
    stream.sent(bytes(SECOND))
    stream.receive(AudioAdded(1))
    stream.receive(Transcript(True, 0.2, 0.5, (WORD,)))
    stream.finish()
    assert stream.receive(EndOfTranscript()) == [Turn("ended", 0.5), Usage(audio_seconds=1.0)]
    assert stream.over


def test_words_that_never_became_final_are_transcribed_again() -> None:
    """They are published if that comes again and again."""
    stream = state()
    stream.sent(bytes(SECOND))
    stream.receive(AudioAdded(1))
    stream.receive(Transcript(False, 0.2, 0.5, (WORD,)))
    stream.finish()
    with pytest.raises(RemoteProtocolError, match=r"up to 0.5 s") as caught:
        stream.receive(EndOfTranscript())
    assert caught.value.readable is not None
    assert (caught.value.readable.text, caught.value.readable.end) == (WORD.text, 0.5)


def test_an_early_end_is_an_error() -> None:
    with pytest.raises(Dropped):
        state().receive(EndOfTranscript())


def test_the_duration_limit_needs_another_stream() -> None:
    stream = state()
    stream.sent(bytes(SECOND))
    assert stream.receive(DurationLimit("enough")) == [Notice("duration_limit_exceeded", "enough")]
    assert not stream.ready, "it would be ignored"
    assert stream.receive(Transcript(True, 0.2, 0.5, (WORD,)))
    stream.finish()
    with pytest.raises(Dropped, match="enough"):
        stream.receive(EndOfTranscript())
    assert not stream.over


def test_a_word_that_never_becomes_final() -> None:
    stream = state(max_unacknowledged_seconds=1e6)
    for _ in range(40):
        stream.sent(bytes(SECOND))
    numbers = itertools.count(1)
    for _ in range(15):
        stream.receive(AudioAdded(next(numbers)))  # silence may last
    stream.receive(Transcript(False, 0.2, 15, (WORD,)))
    for _ in range(10):
        stream.receive(AudioAdded(next(numbers)))
        stream.receive(Transcript(False, 0.2, 15, (WORD,)))
    with pytest.raises(Stalled) as caught:
        stream.receive(AudioAdded(next(numbers)))
    assert caught.value.cause == "mute"


def test_finals_keep_long_speech_alive() -> None:
    stream = state(max_unacknowledged_seconds=1e6)
    for second in range(1, 40):
        stream.sent(bytes(SECOND))
        stream.receive(AudioAdded(second))
        spoken = Result(False, "on", second - 0.5, second + 0.0)
        stream.receive(Transcript(False, second - 0.5, second, (spoken,)))
        if second % 5 == 0:
            stream.receive(Transcript(True, second - 5, second - 2, (spoken,)))


def test_errors_and_unusual_messages() -> None:
    stream = state()
    with pytest.raises(Unavailable):
        stream.receive(Error("job_error", "why"))
    assert isinstance(stream.closed(Closed(1006)), Dropped)
    assert stream.receive(Notice("unknown")) == [Notice("unknown")]
    assert stream.receive(LanguageInfo("ja", "")) == []
    assert stream.receive(EndOfUtterance(1)) == []
    (notice,) = stream.receive(RecognitionStarted("again", " "))
    assert isinstance(notice, Notice)
    assert notice.code == "malformed"
