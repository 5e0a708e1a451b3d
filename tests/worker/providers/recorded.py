"""Recorded streams of all protocols, and players that decode their messages without sockets."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from natterjack.emulators import tones
from natterjack.plugin.provider import Notice, ProviderEvent
from tests.emulators import (
    test_deepgram,
    test_deepgram_flux,
    test_managed,
    test_speechmatics,
    test_speechmatics_agent,
)
from worker.providers import wire
from worker.providers.deepgram import protocol as deepgram
from worker.providers.deepgram.transcript import Transcript as DeepgramTranscript
from worker.providers.deepgram_flux import protocol as flux
from worker.providers.deepgram_flux.clock import Clock
from worker.providers.deepgram_flux.open_turn import CommitRules
from worker.providers.deepgram_flux.transcript import Transcript as FluxTranscript
from worker.providers.deepgram_rest import protocol as rest
from worker.providers.deepgram_rest.transcript import Transcript as RestTranscript
from worker.providers.managed import protocol as managed
from worker.providers.managed.transcript import Texts
from worker.providers.speechmatics import messages
from worker.providers.speechmatics import protocol as speechmatics
from worker.providers.speechmatics.transcript import Transcripts
from worker.providers.speechmatics_agent import messages as agent_messages
from worker.providers.speechmatics_agent import protocol as agent
from worker.providers.speechmatics_agent.transcript import Segments

from .emulated.streams import LINEAR_16K

WORDS = tones.sequence(9)
AUDIO = tones.encode(WORDS, phrase_words=3, lead_seconds=0.4, tail_seconds=1.0)
BYTES_PER_SECOND = 32_000
_STEP_BYTES = 8_000
_AHEAD_SECONDS = 1.0


class Recorded(NamedTuple):
    """A message of a server."""

    message: dict[str, Any]
    sent: int
    """Bytes of audio sent before it."""


class Player(ABC):
    """Decodes the messages of one stream, as its plugin does."""

    def receive(self, message: str | bytes, sent: float) -> list[ProviderEvent]:
        """The events of a message, after `sent` seconds of audio. Raises: ProviderError."""
        try:
            return self.decode(message, sent)
        except wire.Harmless as error:
            return [Notice("malformed", str(error), harmless=True)]

    @abstractmethod
    def decode(self, message: str | bytes, sent: float) -> list[ProviderEvent]: ...

    def audio(self, audio: bytes) -> list[ProviderEvent]:
        """The events that become due with more audio."""
        return []

    def end(self) -> list[ProviderEvent]:
        return []


class DeepgramPlayer(Player):
    def __init__(self, channels: int = 1) -> None:
        self.transcript = DeepgramTranscript(interims=True, channels=channels)

    def decode(self, message: str | bytes, sent: float) -> list[ProviderEvent]:
        decoded = deepgram.decode(message, latest=sent + _AHEAD_SECONDS)
        return [event for item in decoded for event in self.transcript.receive(item)]

    def end(self) -> list[ProviderEvent]:
        return self.transcript.end()


class FluxPlayer(Player):
    def __init__(self) -> None:
        self.clock = Clock(LINEAR_16K)
        self.transcript = FluxTranscript(self.clock, CommitRules())

    def audio(self, audio: bytes) -> list[ProviderEvent]:
        self.clock.audio(len(audio))
        return []

    def decode(self, message: str | bytes, sent: float) -> list[ProviderEvent]:
        decoded = flux.decode(message, sent + _AHEAD_SECONDS).message
        return self.transcript.receive(decoded) if isinstance(decoded, flux.TurnInfo) else []

    def end(self) -> list[ProviderEvent]:
        return self.transcript.end()


class RestPlayer(Player):
    def __init__(self) -> None:
        self.transcript = RestTranscript()

    def decode(self, message: str | bytes, sent: float) -> list[ProviderEvent]:
        body = message.encode(errors="surrogatepass") if isinstance(message, str) else message
        return self.transcript.speech(rest.decode(body), sent, paused=True)


class ManagedPlayer(Player):
    def __init__(self) -> None:
        self.texts = Texts(hold_seconds=15, quiet_seconds=15)

    def audio(self, audio: bytes) -> list[ProviderEvent]:
        self.texts.add_audio(audio)
        return self.texts.due()

    def decode(self, message: str | bytes, sent: float) -> list[ProviderEvent]:
        return self.texts.receive(managed.decode_server(message))

    def end(self) -> list[ProviderEvent]:
        self.texts.finish()
        return self.texts.end()


class SpeechmaticsPlayer(Player):
    def __init__(self) -> None:
        self.transcripts = Transcripts(" ", 0.0)

    def decode(self, message: str | bytes, sent: float) -> list[ProviderEvent]:
        decoded = speechmatics.decode(message, sent + _AHEAD_SECONDS)
        if isinstance(decoded, messages.Transcript):
            return self.transcripts.transcript(decoded)
        if isinstance(decoded, messages.EndOfUtterance):
            return self.transcripts.end_of_utterance(decoded)
        return []

    def end(self) -> list[ProviderEvent]:
        return self.transcripts.end()


class AgentPlayer(Player):
    def __init__(self) -> None:
        self.segments = Segments()

    def decode(self, message: str | bytes, sent: float) -> list[ProviderEvent]:
        decoded = agent.decode(message, sent + _AHEAD_SECONDS)
        match decoded:
            case agent_messages.Segment():
                return self.segments.segment(decoded)
            case agent_messages.StartOfTurn():
                return self.segments.start_of_turn(decoded)
            case agent_messages.EndOfTurn():
                return self.segments.end_of_turn(decoded)
        return []

    def end(self) -> list[ProviderEvent]:
        return self.segments.end()


@dataclass(frozen=True)
class Recording:
    """The messages of one stream of one protocol."""

    name: str
    audio: bytes
    messages: list[Recorded]
    player: Callable[[], Player]

    def __str__(self) -> str:
        return self.name


def _recorded(
    audio: bytes, answers: Callable[[bytes], Iterable[Any]], last: Callable[[], Iterable[Any]]
) -> list[Recorded]:
    found, sent = [], 0
    for at in range(0, len(audio), _STEP_BYTES):
        step = audio[at : at + _STEP_BYTES]
        sent += len(step)
        found += [Recorded(m, sent) for m in answers(step) if isinstance(m, dict)]
    return found + [Recorded(m, sent) for m in last() if isinstance(m, dict)]


def _deepgram() -> list[Recorded]:
    stream = test_deepgram.session(interim_results="true", vad_events="true", diarize="true")
    return _recorded(AUDIO, stream.audio, lambda: stream.text('{"type": "CloseStream"}'))


def _two_channels() -> list[Recorded]:
    stream = test_deepgram.session(interim_results="true", channels="2", multichannel="true")
    return _recorded(_stereo(), stream.audio, lambda: stream.text('{"type": "CloseStream"}'))


def _stereo() -> bytes:
    frames = len(AUDIO) // 2
    silent = bytes(2 * frames)
    return b"".join(AUDIO[at : at + 2] + silent[at : at + 2] for at in range(0, 2 * frames, 2))


def _flux() -> list[Recorded]:
    stream = test_deepgram_flux.session()
    return _recorded(AUDIO, stream.audio, lambda: stream.text('{"type": "CloseStream"}'))


def _speechmatics() -> list[Recorded]:
    stream = test_speechmatics.session()
    return _recorded(AUDIO, stream.audio, lambda: test_speechmatics.end(stream))


def _agent() -> list[Recorded]:
    stream = test_speechmatics_agent.session()
    return _recorded(AUDIO, stream.audio, lambda: test_speechmatics_agent.end(stream))


def _managed(**switches: Any) -> list[Recorded]:
    stream = test_managed.ready(**switches)
    return _recorded(AUDIO, stream.audio, lambda: stream.text('{"type": "end"}'))


def _rest() -> list[Recorded]:
    """A response for each phrase, made of the finals of a stream."""
    found: list[Recorded] = []
    start = 0.0
    for message, _ in _deepgram():
        if message["type"] != "Results" or not message["is_final"]:
            continue
        alternatives = json.loads(json.dumps(message["channel"]["alternatives"]))
        for word in alternatives[0]["words"]:
            word["start"] = round(word["start"] - start, 3)
            word["end"] = round(word["end"] - start, 3)
        channels = [{"alternatives": alternatives, "detected_language": "en"}]
        body = {"metadata": {"request_id": "r"}, "results": {"channels": channels}}
        start = message["start"] + message["duration"]
        found.append(Recorded(body, round(start * BYTES_PER_SECOND)))
    return found


RECORDINGS = (
    Recording("deepgram", AUDIO, _deepgram(), DeepgramPlayer),
    Recording("deepgram, two channels", _stereo(), _two_channels(), lambda: DeepgramPlayer(2)),
    Recording("deepgram-flux", AUDIO, _flux(), FluxPlayer),
    Recording("deepgram-rest", AUDIO, _rest(), RestPlayer),
    Recording("managed", AUDIO, _managed(), ManagedPlayer),
    Recording("managed, with times", AUDIO, _managed(extended=True), ManagedPlayer),
    Recording("speechmatics", AUDIO, _speechmatics(), SpeechmaticsPlayer),
    Recording("speechmatics-agent", AUDIO, _agent(), AgentPlayer),
)
