"""How soon an utterance is heard, and how soon it is silent after an interrupt.

The whole way: an application with `natterjack.speak()`, a broker, a worker, an emulated provider,
and `natterjack-edge play` on a loudspeaker whose monitor is recorded. Half of the interrupts are
those of the application, the others those of a turn event of a transcription session.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from array import array
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import natterjack
from natterjack.broker.client.wire import parse_headers
from natterjack.broker.connection import Broker, connected
from natterjack.events import TurnEvent
from natterjack.settings import BrokerSettings
from natterjack.speaking.session import Speaking
from natterjack.subjects import SessionKey, speech_subject, transcript_subject
from natterjack.voice.audio import AUDIO_CUT
from natterjack.voice.events import UtteranceEvent
from tests.waiting import until

from ..emulator import percentiles
from ..loudspeaker import Recorder, playing
from ..processes import Emulator, broker, emulator, progress, worker

VOICES = ("deepgram-aura", "deepgram-flux-voice")
KEY = SessionKey("bench", "call", "assistant")
_CALLER = SessionKey("bench", "call", "caller")
_QUIET_S = 0.3
"""The emulator's tone has no pauses."""
TEXT = "The quick brown fox jumps over the lazy dog, and then it runs back into the wood. " * 6
"""Half a minute of speech, most of which is never sent."""
HOW = ("application", "turn")
WORKER = ("-m", "worker")


@dataclass
class Round:
    """One utterance and its interrupt. All times are in milliseconds."""

    how: str
    """`application` or `turn`: who interrupted."""
    sent: float
    """From `say()` to the text at the provider."""
    own: float
    """The provider's own time: from the text to its first audio."""
    arrives: float
    """From `say()` to the first audio at the edge, without the provider's own time."""
    audible: float
    """From `say()` to the first audible sample, without the provider's own time."""
    told: float
    """From the interrupt to its arrival at the provider."""
    cut: float
    """From the interrupt to the cut at the edge."""
    silent: float
    """From the interrupt to the last audible sample."""
    trip: float
    """A bare round trip to the broker and back, just before: how busy the machine is."""
    late_characters: int
    """Text of the utterance that reached the provider after the interrupt."""
    unsent_characters: int
    """Text of the utterance that never reached it."""
    late_audio: float
    """Audio that the provider made between the interrupt and being told: milliseconds of speech."""
    stray_audio: float
    """Audio that it made after that."""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class Listener:
    """Notes when chunks of speech reach a subscriber, as they reach the player."""

    def __init__(self) -> None:
        self.first = self.cut = 0.0

    def reset(self) -> None:
        self.first = self.cut = 0.0

    def received(self, _subject: bytes, _reply: bytes, headers: bytes | None, data: bytes) -> None:
        now = time.monotonic()
        if data and not self.first:
            self.first = now
        if not self.cut and AUDIO_CUT in parse_headers(headers or b""):
            self.cut = now


@dataclass
class Setup:
    """The parts of a measurement."""

    broker: Broker
    speaking: Speaking
    listener: Listener
    recorder: Recorder

    async def turn(self, number: int) -> None:
        """Publish that the caller begins to talk, as a worker does."""
        event = TurnEvent(
            session_id="a-transcription", **_CALLER._asdict(), epoch=1, sequence=number,
            published_at=datetime.now(UTC), turn=number, event="started",
        )  # fmt: skip
        await self.broker.client.jetstream().publish(
            transcript_subject(_CALLER, "turn"), event.encode()
        )

    async def interrupted(self, utterance: int) -> UtteranceEvent:
        """Wait for the event that says what was heard."""
        async for event in self.speaking:
            if not isinstance(event, UtteranceEvent) or event.event != "interrupted":
                continue
            if event.utterance == utterance:
                return event
        raise RuntimeError("the session has ended")


@contextlib.asynccontextmanager
async def setup(voice: str, provider: str, *, keeps: bool = False) -> AsyncIterator[Setup]:
    """Run everything that an utterance passes through, except for the provider, whose address is
    given. `keeps`: keep what is recorded."""
    async with (
        broker() as server,
        worker(server.url, provider, 10, arguments=WORKER, **worker_settings(voice)),
        playing(server.url, KEY.tenant, KEY.conversation, keeps=keeps) as recorder,
        connected(BrokerSettings(url=server.url), name="bench") as connection,
        natterjack.speak(
            *KEY, interrupt_on=str(_CALLER), settings=BrokerSettings(url=server.url)
        ) as speaking,
    ):
        listener = Listener()
        arrivals = await connection.client.listen(speech_subject(KEY), listener.received)
        yield Setup(connection, speaking, listener, recorder)
        await arrivals.end()


def worker_settings(voice: str) -> dict[str, str]:
    """Settings of a worker that speaks. The limits of a default account would end these
    measurements after a few utterances. Phrases are shorter than with one, since a phrase is as
    long as the limit of flushes asks for."""
    return {
        "WORKER_KINDS": "transcribe,speak",
        "WORKER_VOICE": voice,
        "DEEPGRAM_SPEAK_CHARACTERS_PER_MINUTE": "100000000",
        "DEEPGRAM_SPEAK_FLUSHES_PER_MINUTE": "100000",
    }


async def measure(rounds: int, voice: str = VOICES[0]) -> list[Round]:
    """Interrupt `rounds` utterances in each way."""
    found = []
    async with (
        emulator(module="bench.voice.emulator") as provider,
        setup(voice, provider.address) as each,
    ):
        for number in range(len(HOW) * rounds + 1):
            if number % 10 == 0:
                progress(f"{voice}, utterance {number} of {len(HOW) * rounds}")
            found.append(await _round(each, provider, HOW[number % len(HOW)], number))
        return found[1:]  # the first one includes connecting


async def _round(each: Setup, provider: Emulator, how: str, number: int) -> Round:
    recorder, listener = each.recorder, each.listener
    await provider.events()
    recorder.reset()
    listener.reset()
    said = time.monotonic()
    utterance = await each.speaking.say(TEXT)
    await until(lambda: recorder.first, "it is audible")
    await asyncio.sleep(random.uniform(0.3, 1.3))  # noqa: S311
    before = time.monotonic()
    await each.broker.client.flush()
    interrupted = time.monotonic()
    if how == "turn":
        await each.turn(number)
    else:
        await each.speaking.interrupt()
    await until(lambda: time.monotonic() - recorder.last > _QUIET_S, "it is silent")
    await each.interrupted(utterance)
    events = await provider.events()
    at = {kind: when / 1e9 for _, kind, when, _ in reversed(events)}  # the first of each kind
    late = [
        (kind, when / 1e9, amount) for _, kind, when, amount in events if when / 1e9 > interrupted
    ]
    audio = [(when, amount / 48) for kind, when, amount in late if kind == "audio"]
    own = at["first"] - at["speak"]
    return Round(
        how=how,
        sent=1000 * (at["speak"] - said),
        own=1000 * own,
        arrives=1000 * (listener.first - said - own),
        audible=1000 * (recorder.first - said - own),
        told=1000 * (at["clear"] - interrupted),
        cut=1000 * (listener.cut - interrupted),
        silent=1000 * max(0.0, recorder.last - interrupted),
        trip=1000 * (interrupted - before),
        late_characters=sum(amount for kind, _, amount in late if kind == "speak"),
        unsent_characters=len(TEXT)
        - sum(amount for _, kind, _, amount in events if kind == "speak"),
        late_audio=sum(ms for when, ms in audio if when <= at["clear"]),
        stray_audio=sum(ms for when, ms in audio if when > at["clear"]),
    )


_ROWS = (
    ("say() to the text at the provider", "sent", None, ""),
    ("say() to audio at the edge, above the provider's own time", "arrives", None, "p95 <= 60"),
    ("say() to audible, above the provider's own time", "audible", None, ""),
    ("interrupt() to the provider told", "told", HOW[0], "<= 20"),
    ("interrupt() to the cut at the edge", "cut", HOW[0], ""),
    ("interrupt() to the last audible sample", "silent", HOW[0], "p99 <= 100"),
    ("turn event to the provider told", "told", HOW[1], "<= 20"),
    ("turn event to the cut at the edge", "cut", HOW[1], ""),
    ("turn event to the last audible sample", "silent", HOW[1], "p99 <= 100"),
    ("a bare round trip to the broker", "trip", None, ""),
)


def spread(values: Sequence[float]) -> dict[str, float]:
    """Percentiles of milliseconds."""
    return percentiles(array("l", (round(1000 * value) for value in values)))


def rows(rounds: Sequence[Round]) -> list[list[str]]:
    """Return the lines of a table, the first of them with the names of its columns."""
    found = [["milliseconds", "p50", "p95", "p99", "most", "goal"]]
    for name, member, how, goal in _ROWS:
        figures = spread([getattr(one, member) for one in rounds if how in (None, one.how)])
        if figures:
            found.append([name, *(f"{figures[p]:.1f}" for p in ("p50", "p95", "p99", "max")), goal])
    return found


def summary(rounds: Sequence[Round]) -> str:
    """Say what the interrupts have cost."""
    late = sum(one.late_characters for one in rounds)
    unsent = sum(one.unsent_characters for one in rounds)
    return (
        f"{len(rounds)} interrupts: {late} characters reached the provider after the interrupt, "
        f"{unsent} never did. Until it was told, it made "
        f"{max(one.late_audio for one in rounds):.0f} ms of speech at most, and after that "
        f"{sum(one.stray_audio for one in rounds):.0f} ms in all"
    )
