"""The part of a worker that the tests of players need: it publishes speech ahead, and publishes
again the chunks that a player lacks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from nats.aio.msg import Msg

from natterjack.broker.connection import Broker
from natterjack.emulators import tones
from natterjack.subjects import SessionKey, played_subject, speech_subject
from natterjack.voice.audio import FRAME_BYTES, SpeechHeader, encode_speech_headers
from natterjack.voice.spec import Played, parse_played

KEY = SessionKey("acme", "room", "assistant")
RATE = 24_000
CHUNK_S = 0.1


class Voice:
    """A voice session, whose chunks are stored and reach the players."""

    def __init__(
        self, broker: Broker, session_id: str = "a-voice-session", rate: int = RATE
    ) -> None:
        self._broker = broker
        self._js = broker.client.jetstream()
        self.session_id = session_id
        self.rate = rate
        self.reports: list[Played] = []
        self.epoch = 1
        self.utterance = 0
        self.seq = self.pos = 0
        self.published: list[tuple[SpeechHeader, bytes]] = []
        self.deaf = False
        """Whether it ignores what players lack."""

    @property
    def played(self) -> int:
        """The greatest position that was reported."""
        return max((report.position for report in self.reports), default=0)

    @property
    def last(self) -> Played:
        return self.reports[-1]

    async def reported(self, message: Msg) -> None:
        report = parse_played(message.data)
        if report.session_id != self.session_id:
            return
        self.reports.append(report)
        if report.missing is None or self.deaf:
            return
        for header, payload in self.published[report.missing :]:
            end = header.pos + len(payload) // FRAME_BYTES
            if end > self.played or (header.cut and header.pos > self.played):
                await self._send(header, payload)

    async def _send(self, header: SpeechHeader, payload: bytes) -> None:
        await self._broker.client.publish(
            speech_subject(KEY), payload, headers=encode_speech_headers(header)
        )

    async def publish(
        self, payload: bytes = b"", *, end: bool = False, cut: bool = False, sent: bool = True
    ) -> None:
        """Publish one chunk. Without `sent` it is lost on its way to the players."""
        header = SpeechHeader(
            self.session_id, self.epoch, self.utterance, self.seq, self.pos, self.rate, end, cut
        )
        self.published.append((header, payload))
        if sent:
            await self._js.publish(
                speech_subject(KEY), payload, headers=encode_speech_headers(header)
            )
        self.seq += 1
        self.pos += len(payload) // FRAME_BYTES

    async def say(
        self, words: Sequence[str], *, end: bool = True, lost: Sequence[int] = ()
    ) -> None:
        """Publish an utterance at once. The chunks with the indexes `lost` do not arrive."""
        audio = tones.encode(words, self.rate, lead_seconds=0.1, tail_seconds=0.1)
        size = round(self.rate * CHUNK_S) * FRAME_BYTES
        starts = range(0, len(audio), size)
        for index, start in enumerate(starts):
            last = end and start == starts[-1]
            await self.publish(audio[start : start + size], end=last, sent=index not in lost)
        if end:
            self.utterance += 1

    async def cut(self) -> None:
        """Interrupt what is said."""
        await self.publish(cut=True)
        self.utterance += 1


@asynccontextmanager
async def speaking(broker: Broker, *voices: Voice) -> AsyncIterator[None]:
    """Receive what players report to `voices` during the block."""

    async def reported(message: Msg) -> None:
        for voice in voices:
            await voice.reported(message)

    subscription = await broker.client.subscribe(played_subject(KEY), cb=reported)
    await broker.client.flush()
    try:
        yield
    finally:
        await subscription.unsubscribe()
        await asyncio.sleep(0)


def heard(audio: bytes, rate: int) -> list[str]:
    """The tone words in what was played."""
    decoder = tones.Decoder(rate)
    return [each.word for each in [*decoder.feed(audio), *decoder.flush()]]
