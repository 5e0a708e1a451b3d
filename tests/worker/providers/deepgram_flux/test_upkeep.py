"""When silence is sent, and how a stream ends, with a simulated clock and no socket."""

from __future__ import annotations

import math
import random

import pytest

from natterjack.audio import AudioFormat, Encoding
from natterjack.emulators import pcm, tones
from worker.providers.deepgram_flux.clock import Clock
from worker.providers.deepgram_flux.upkeep import (
    FRAME_SECONDS,
    Act,
    Phase,
    Upkeep,
    Waits,
    ends_in_pause,
)

LINEAR_16K = AudioFormat("linear16", 16000, 1)
FRAME = 2560
SPEECH = tones.encode(["able"])[:FRAME]
PAUSE = bytes(FRAME)


class Line:
    """An Upkeep with a simulated clock."""

    def __init__(self, waits: Waits | None = None) -> None:
        self.now = 100.0
        self.clock = Clock(LINEAR_16K)
        self.upkeep = Upkeep(waits or Waits(), self.clock, "linear16", self.now)
        self.acts: list[tuple[float, Act]] = []

    def send(self, frame: bytes = PAUSE, times: int = 1) -> None:
        for _ in range(times):
            self.upkeep.sent(self.now, frame, self.clock.audio(len(frame)))
            self.run(FRAME_SECONDS)

    def run(self, seconds: float) -> list[Act]:
        """Advance the time, and do what is due."""
        until, done = self.now + seconds, len(self.acts)
        while (deadline := self.upkeep.deadline) <= until:
            assert deadline < math.inf
            self.now = max(self.now, deadline)
            due = self.upkeep.due(self.now)
            for act in due:
                self.acts.append((self.now, act))
                if act is Act.SILENCE:
                    self.clock.silence(FRAME)
        self.now = until
        return [act for _, act in self.acts[done:]]

    def transcribed(self, *, turn_open: bool, seconds: float | None = None) -> None:
        end = self.clock.sent if seconds is None else seconds
        self.upkeep.transcribed(self.now, end, turn_open=turn_open)


def test_no_silence_while_audio_flows() -> None:
    line = Line()
    line.send(SPEECH, 100)
    line.transcribed(turn_open=True)
    line.send(times=100)
    assert line.acts == []


def test_silence_ends_a_turn_in_which_audio_stops() -> None:
    """Silence is sent in real time, until the turn has ended and all of it is transcribed."""
    line = Line()
    line.send(times=10)
    line.transcribed(turn_open=True)
    assert line.run(0.49) == []
    acts = line.run(1.0)
    assert set(acts) == {Act.SILENCE}
    assert 12 <= len(acts) <= 13
    line.transcribed(turn_open=False)
    assert line.run(4.9 - 0.08) == []
    assert line.clock.given == pytest.approx(0.8)
    assert line.clock.sent == pytest.approx(0.8 + 0.08 * len(acts))


def test_silence_is_sent_for_words_without_a_transcript() -> None:
    """The last audio is not transcribed, so it may contain a turn."""
    line = Line()
    line.send(times=10)
    line.transcribed(turn_open=False, seconds=0.5)
    assert Act.SILENCE in line.run(1)


def test_no_silence_in_the_middle_of_a_word() -> None:
    """If audio continues after a minute, the word is complete."""
    line = Line()
    line.send(SPEECH, 10)
    line.transcribed(turn_open=True)
    assert line.run(60) == []
    line.send(PAUSE, 2)
    assert Act.SILENCE in line.run(0.6)


def test_no_silence_between_bursts_of_audio() -> None:
    """Audio that arrives in seconds is expected to last as long."""
    line = Line()
    for _ in range(10):
        for _ in range(12):
            line.upkeep.sent(line.now, PAUSE, line.clock.audio(FRAME))
        line.transcribed(turn_open=True)
        line.run(0.96)
    assert line.acts == []
    assert Act.SILENCE in line.run(0.6)


def test_no_wait_for_recorded_audio_that_was_sent_fast() -> None:
    line = Line()
    for _ in range(1000):
        line.upkeep.sent(line.now, PAUSE, line.clock.audio(FRAME))
    line.transcribed(turn_open=True)
    assert Act.SILENCE in line.run(2.6)


def test_an_idle_stream_is_kept_alive() -> None:
    line = Line()
    line.run(21)
    assert [act for _, act in line.acts] == [Act.SILENCE] * 4
    assert line.clock.given == 0
    line.send(times=5)
    line.transcribed(turn_open=False, seconds=9)
    assert line.run(4.9) == []
    assert line.run(0.2) == [Act.SILENCE]


def test_inserted_silence_is_limited() -> None:
    """Even if the provider never ends the turn."""
    line = Line()
    line.send(times=10)
    line.transcribed(turn_open=True)
    silent = line.run(200)
    assert 70 / 0.08 <= len(silent) <= 70 / 0.08 + 30


# ---- the end of a stream --------------------------------------------------------------------


def test_the_end_with_a_turn_that_is_open() -> None:
    line = Line()
    line.send(SPEECH, 20)
    line.transcribed(turn_open=True, seconds=1.0)
    line.upkeep.finish(line.now)
    assert line.run(0.01) == [Act.SILENCE] * 10
    line.transcribed(turn_open=True, seconds=1.6)
    assert line.run(0.4) == [], "the last audio was transcribed, but no silence after it"
    line.transcribed(turn_open=True, seconds=2.0)
    assert line.run(0.01) == [Act.FORCE_END_TURN]
    line.transcribed(turn_open=False, seconds=2.1)
    assert line.run(10) == [Act.CLOSE_STREAM]
    assert line.upkeep.phase is Phase.CLOSING
    line.upkeep.finish(line.now)
    assert line.run(100) == []


def test_the_end_without_a_turn() -> None:
    line = Line()
    line.send(times=20)
    line.transcribed(turn_open=False, seconds=1.5)
    line.upkeep.finish(line.now)
    line.run(0.1)
    line.transcribed(turn_open=False, seconds=2.25)
    assert line.run(1) == [Act.CLOSE_STREAM]


def test_the_end_of_a_stream_that_is_idle() -> None:
    line = Line()
    line.send(times=20)
    line.transcribed(turn_open=True)
    line.run(2)
    line.transcribed(turn_open=False)
    line.upkeep.finish(line.now)
    assert line.run(0.01) == [Act.CLOSE_STREAM]


def test_the_end_of_a_stream_without_audio() -> None:
    line = Line()
    line.upkeep.finish(line.now)
    assert line.run(0.01) == [Act.CLOSE_STREAM]


def test_the_end_when_the_provider_says_that_no_turn_is_open() -> None:
    line = Line()
    line.send(times=20)
    line.transcribed(turn_open=True)
    line.upkeep.no_turn()  # the answer to a ForceEndTurn of `finalize`
    line.upkeep.finish(line.now)
    line.run(0.1)
    line.transcribed(turn_open=True)
    assert line.run(0.1) == [Act.FORCE_END_TURN]
    line.upkeep.no_turn()
    assert line.run(0.1) == [Act.CLOSE_STREAM]


def test_the_end_when_the_provider_does_not_answer() -> None:
    """CloseStream is sent in any case, so that the provider sends the rest."""
    line = Line()
    line.send(times=20)
    line.transcribed(turn_open=True, seconds=1.0)
    line.upkeep.finish(line.now)
    acts = line.run(1.9)
    assert acts == [Act.SILENCE] * 40, "more silence may help"
    assert line.run(0.2) == [Act.FORCE_END_TURN]
    assert line.run(2.1) == [Act.CLOSE_STREAM]


def test_a_slow_provider_is_awaited() -> None:
    line = Line()
    line.send(SPEECH, 200)
    line.upkeep.finish(line.now)
    line.run(0.1)
    for quarter in range(64):
        line.transcribed(turn_open=True, seconds=quarter / 4)
        assert line.run(0.25) == []


# ---- pauses ---------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["linear16", "mulaw", "alaw"])
def test_pauses_are_distinguished_from_speech(encoding: Encoding) -> None:
    rng = random.Random(7)
    noise = [rng.randrange(-200, 200) for _ in range(640)]
    hiss = b"".join(sample.to_bytes(2, "little", signed=True) for sample in noise)
    for faint in (bytes(1280), hiss):
        assert ends_in_pause(pcm.from_linear16(faint, encoding), encoding)
    loud = b"".join((sample * 10).to_bytes(2, "little", signed=True) for sample in noise)
    for speech in (loud, tones.encode(["able"])[:2560]):
        assert not ends_in_pause(pcm.from_linear16(speech, encoding), encoding)
        assert ends_in_pause(pcm.from_linear16(speech + bytes(640), encoding), encoding)
    assert ends_in_pause(b"", encoding)


# ---- the clock ------------------------------------------------------------------------------


def test_the_clock() -> None:
    clock = Clock(AudioFormat("mulaw", 8000, 1))
    assert clock.audio(8000) == 1.0
    for _ in range(2):
        clock.silence(4000)
    clock.audio(8000)
    clock.silence(8000)
    assert (clock.sent, clock.given, clock.spoken) == (4.0, 2.0, 3.0)
    pairs = {0: 0, 0.5: 0.5, 1: 1, 1.5: 1, 2: 1, 2.25: 1.25, 3: 2, 3.7: 2, 4: 2, 99: 2, -1: 0}
    for provider, given in pairs.items():
        assert clock.to_given(provider) == pytest.approx(given)


def test_the_clock_never_goes_back() -> None:
    rng = random.Random(3)
    clock = Clock(LINEAR_16K)
    for _ in range(200):
        (clock.audio if rng.random() < 0.5 else clock.silence)(2 * rng.randrange(1, 5000))
    times = [clock.to_given(clock.sent * n / 5000) for n in range(5001)]
    assert times == sorted(times)
    assert times[-1] == pytest.approx(clock.given)
