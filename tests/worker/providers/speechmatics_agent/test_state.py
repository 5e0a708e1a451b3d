"""The protocol state: silence, ends of turns by the client, words that never become final."""

from __future__ import annotations

import json
from typing import Any

import pytest

from natterjack.emulators import tones
from natterjack.plugin.errors import RemoteProtocolError, Stalled
from natterjack.plugin.provider import Final, ProviderEvent
from worker.providers.speechmatics.exchange import Limits
from worker.providers.speechmatics.messages import AudioAdded, EndOfTranscript
from worker.providers.speechmatics_agent.messages import EndOfTurn, Segment, Speech, StartOfTurn
from worker.providers.speechmatics_agent.options import recognition
from worker.providers.speechmatics_agent.settings import SpeechmaticsAgentSettings
from worker.providers.speechmatics_agent.silences import Silences
from worker.providers.speechmatics_agent.state import AgentState

from ..emulated.streams import request

SECOND = tones.silence(1)
WORD = tones.encode(tones.sequence(1), lead_seconds=0.3, tail_seconds=0.41)


class Stream:
    """A stream whose audio is acknowledged as it is sent."""

    def __init__(self, noise: float = 0.0, timeout: float = 0.0, **settings: Any) -> None:
        made = recognition(SpeechmaticsAgentSettings(**settings), request())
        self.state = AgentState(made, Limits(1e6, 10**6, timeout, 5.0), noise)
        self.frames = 0

    def hear(self, *audio: bytes) -> list[ProviderEvent]:
        """Send pieces of audio; return the finals for silence."""
        events: list[ProviderEvent] = []
        for piece in audio:
            self.state.sent(piece)
            self.frames += 1
            events += self.state.receive(AudioAdded(self.frames))
        return [event for event in events if isinstance(event, Final)]


def spans(finals: list[ProviderEvent]) -> list[tuple[float, float]]:
    return [(one.start, one.end) for one in finals if isinstance(one, Final) and not one.text]


# ---- silence --------------------------------------------------------------------------------


def test_silence_becomes_final_at_the_margin() -> None:
    stream = Stream()
    assert spans(stream.hear(*[SECOND] * 5)) == []
    assert spans(stream.hear(*[SECOND] * 3)) == [(0, 1), (1, 2), (2, 3)]


def test_a_sound_is_no_silence_whatever_the_server_says() -> None:
    """The server may not have heard it: acknowledgements do not confirm transcription."""
    stream = Stream()
    assert spans(stream.hear(SECOND, SECOND, SECOND, WORD, *[SECOND] * 30))[-1][1] < 3.3
    stream.state.receive(Segment(True, "able", 3.3, 3.6))
    stream.state.receive(EndOfTurn(3.6))
    assert spans(stream.hear(SECOND))[-1][1] > 29, "until its words are final"


def test_a_sound_that_the_server_takes_for_noise_counts_as_silence_later() -> None:
    stream = Stream(noise=20)
    assert spans(stream.hear(SECOND, SECOND, WORD, *[SECOND] * 16))[-1][1] < 2.3
    assert spans(stream.hear(*[SECOND] * 8))[-1][1] > 6


@pytest.mark.parametrize("opened", [Speech(True), StartOfTurn(0.1), Segment(False, "a", 0.1, 0.2)])
def test_no_silence_while_words_may_be_on_their_way(opened: Any) -> None:
    stream = Stream()
    stream.state.receive(opened)
    assert spans(stream.hear(*[SECOND] * 60)) == []
    stream.state.receive(Speech(False))
    stream.state.receive(EndOfTurn(0.2))
    assert spans(stream.hear(SECOND)) == [(0, 56)]


def test_in_a_turn_that_nobody_ends_interims_show_words() -> None:
    external: dict[str, Any] = {"agent_turn_detection_mode": "external"}
    stream = Stream(**external)
    stream.state.receive(Segment(False, "a", 0.1, 0.2))
    assert spans(stream.hear(*[SECOND] * 60)) == []
    stream.state.receive(Segment(True, "a", 0.1, 0.2))
    assert spans(stream.hear(SECOND)) == [(0.2, 56)]
    blind = Stream(**external, agent_enable_partials=False)
    blind.state.receive(StartOfTurn(0.1))
    assert spans(blind.hear(*[SECOND] * 60)) == []


def test_audio_that_was_not_examined_is_no_silence() -> None:
    silences = Silences(16000, 0.05, 0)
    silences.sent(SECOND)
    silences.sent(SECOND[:1600])
    assert silences.until(0.0, 1.1) == 1.0


def test_no_margin_is_no_silence() -> None:
    silences = Silences(16000, 0, 0)
    silences.sent(SECOND)
    assert silences.until(2.0, 100.0) == 2.0


# ---- the rest -------------------------------------------------------------------------------


def test_timestamps_of_forced_ends_increase() -> None:
    stream = Stream(agent_turn_detection_mode="external")
    assert stream.state.finalize() is None, "no audio was sent"
    stream.hear(SECOND)
    assert json.loads(stream.state.finalize() or "")["timestamp"] == 1.0
    assert stream.state.finalize() is None
    stream.hear(SECOND)
    assert json.loads(stream.state.finalize() or "")["timestamp"] == 2.0


def test_the_server_ignores_a_force_in_vad_mode() -> None:
    with pytest.raises(NotImplementedError):
        Stream().state.finalize()


def test_an_interim_that_never_becomes_final() -> None:
    stream = Stream(timeout=10)
    stream.state.receive(Segment(False, "able", 0.3, 0.6))
    with pytest.raises(Stalled) as caught:
        stream.hear(*[SECOND] * 11)
    assert caught.value.cause == "mute"


def test_an_end_without_the_last_final_is_an_error() -> None:
    stream = Stream()
    stream.hear(SECOND)
    stream.state.receive(Segment(False, "able", 0.3, 0.6))
    stream.state.finish()
    with pytest.raises(RemoteProtocolError, match="never became final") as caught:
        stream.state.receive(EndOfTranscript())
    assert caught.value.readable is not None
    assert caught.value.readable.text == "able"
