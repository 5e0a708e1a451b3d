"""An application and a player of voice sessions, for tests."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator
from typing import Any

from nats.errors import Error as NatsError

from natterjack.broker import streams
from natterjack.broker.connection import Broker
from natterjack.broker.stored import StreamStore
from natterjack.emulators import tones
from natterjack.subjects import (
    VOICE_EVENT_PREFIX,
    played_subject,
    speech_subject,
    text_subject,
    voice_control_subject,
    voice_session_subject,
)
from natterjack.voice.audio import SpeechHeader, decode_speech_headers
from natterjack.voice.control import VoiceReply, VoiceRequest
from natterjack.voice.events import (
    UtteranceEvent,
    VoiceEvent,
    VoiceStatusEvent,
    VoiceUsage,
    parse_voice_event,
)
from natterjack.voice.spec import Played, TextPiece, VoiceSpec
from tests.waiting import until

RATE = 16_000


class Application:
    """Opens a session and publishes its text."""

    def __init__(self, broker: Broker, **spec: Any) -> None:
        key = {"tenant": "t", "conversation": "c", "speaker": "s", "sample_rate": RATE}
        self.spec = VoiceSpec(**{**key, **spec})
        self._broker = broker
        self._js = broker.client.jetstream()
        self.said: list[str] = []
        """The text of each utterance."""

    async def open(self) -> None:
        await self._js.publish(
            voice_session_subject(self.spec.key), self.spec.encode(),
            headers={"Nats-Msg-Id": self.spec.session_id},
        )  # fmt: skip

    async def say(self, text: str, *, end: bool = False, pieces: int = 3) -> None:
        number = len(self.said)
        self.said.append(text)
        size = -(-len(text) // pieces)
        parts = [text[start : start + size] for start in range(0, len(text), size)]
        for index, part in enumerate(parts):
            last = index == len(parts) - 1
            await self.piece(number, index, part, flush=last, end=end and last)

    async def piece(self, utterance: int, piece: int, text: str, **flags: bool) -> None:
        message = TextPiece(
            session_id=self.spec.session_id, utterance=utterance, piece=piece, text=text, **flags
        )
        headers = {"Nats-Msg-Id": message.msg_id}
        subject = text_subject(self.spec.key)
        for attempt in itertools.count():
            try:
                await self._js.publish(subject, message.encode(), headers=headers)
                return
            except NatsError:  # the broker may be restarting
                if attempt == 20:
                    raise
                await self._broker.wait_connected()

    async def request(self, command: Any, **fields: Any) -> VoiceReply:
        payload = VoiceRequest(command=command, **fields).model_dump_json().encode()
        answer = await self._broker.client.request(
            voice_control_subject(self.spec.key), payload, timeout=10
        )
        return VoiceReply.model_validate_json(answer.data)

    async def events(self) -> list[VoiceEvent]:
        store = StreamStore(self._broker, streams.VOICE_EVENTS)
        await store.start()
        try:
            stored = await store.read_all(f"{VOICE_EVENT_PREFIX}.{self.spec.key}.*")
        finally:
            await store.stop()
        events = [parse_voice_event(message.data) for message in stored]
        return [event for event in events if event.session_id == self.spec.session_id]

    async def utterances(self) -> list[tuple[int, str]]:
        events = await self.events()
        return [(e.utterance, e.event) for e in events if isinstance(e, UtteranceEvent)]

    async def closed(self, timeout: float = 60) -> VoiceStatusEvent:
        """Wait for the closing event. The numbers of all events are checked."""

        async def look() -> VoiceStatusEvent | None:
            for event in await self.events():
                if isinstance(event, VoiceStatusEvent) and event.closing:
                    return event
            return None

        found = await until(look, "the session is closed", timeout)
        assert isinstance(found, VoiceStatusEvent)
        events = await self.events()
        assert [event.sequence for event in events] == list(range(len(events)))
        return found

    async def usage(self) -> VoiceUsage:
        return [event for event in await self.events() if isinstance(event, VoiceUsage)][-1]

    async def stored_chunks(self) -> list[tuple[SpeechHeader, bytes]]:
        """The chunks of the session, as they are stored."""
        store = StreamStore(self._broker, streams.SPEECH)
        await store.start()
        try:
            stored = await store.read_all(speech_subject(self.spec.key))
        finally:
            await store.stop()
        chunks = [(decode_speech_headers(m.headers, len(m.data)), m.data) for m in stored]
        own = [chunk for chunk in chunks if chunk[0].session_id == self.spec.session_id]
        return [chunk for chunk in own if not chunk[0].fence]


def heard(chunks: list[tuple[SpeechHeader, bytes]]) -> list[str]:
    """The words in stored chunks, whose numbers and positions are checked."""
    position = 0
    for number, (header, audio) in enumerate(chunks):
        assert (header.seq, header.pos) == (number, position)
        position += len(audio) // 2
    return words(b"".join(audio for _, audio in chunks))


def words(audio: bytes, rate: int = RATE) -> list[str]:
    decoder = tones.Decoder(rate)
    return [word.word for word in [*decoder.feed(audio), *decoder.flush()]]


class Player:
    """Plays what it receives live, at `speed` times real time, and reports like a player."""

    def __init__(self, broker: Broker, spec: VoiceSpec, speed: float) -> None:
        self._broker, self._spec, self.speed = broker, spec, speed
        self.audio = bytearray()
        """The audio that was played."""
        self.cuts = 0
        self.missing: int | None = None
        self.stop_at: int | None = None
        """The position beyond which it plays nothing."""
        self.loses: range = range(0)
        """The numbers of chunks that do not reach it."""
        self._chunks: dict[int, tuple[SpeechHeader, bytes]] = {}
        self._next = self._utterance = 0
        self._waiting = bytearray()
        self._interrupted, self._after = False, 0
        self.position = 0

    async def _received(self, message: Any) -> None:
        header = decode_speech_headers(message.headers, len(message.data))
        own = header.session_id == self._spec.session_id and not header.fence
        if own and header.seq not in self.loses:
            self._chunks.setdefault(header.seq, (header, message.data))

    def _take(self) -> None:
        cut = max((seq for seq, (header, _) in self._chunks.items() if header.cut), default=-1)
        if cut > self._next:  # nothing before it is to be played
            self._next = cut
        while (found := self._chunks.pop(self._next, None)) is not None:
            header, audio = found
            self._next += 1
            self._utterance = header.utterance
            if header.cut:
                self.cuts += 1
                self._waiting.clear()
                self.audio += bytes(2 * (self._spec.sample_rate // 10))  # words do not run together
                self._interrupted, self._after = True, header.pos
            elif audio and self._interrupted:
                self._interrupted, self.position = False, self._after
            self._waiting += audio

    async def run(self) -> None:
        subject = speech_subject(self._spec.key)
        subscription = await self._broker.client.subscribe(subject, cb=self._received)
        last, report_at = time.monotonic(), 0.0
        try:
            while True:
                await asyncio.sleep(0.02)  # the interval at which it looks
                now = time.monotonic()
                self._take()
                frames = round((now - last) * self.speed * self._spec.sample_rate)
                last = now
                if self.stop_at is not None:
                    frames = max(0, min(frames, self.stop_at - self.position))
                played = bytes(self._waiting[: 2 * frames])
                del self._waiting[: 2 * frames]
                self.audio += played
                self.position += len(played) // 2
                missing = self._next if self._chunks else self.missing
                if now >= report_at or missing is not None or self._interrupted:
                    report_at = now + 0.2 / self.speed
                    state: Any = "playing" if self._waiting else "idle"
                    if self._interrupted:
                        state = "interrupted"
                    report = Played(
                        session_id=self._spec.session_id, utterance=self._utterance,
                        position=self.position, state=state, missing=missing,
                    )  # fmt: skip
                    self.missing = None
                    await self._broker.client.publish(
                        played_subject(self._spec.key), report.encode()
                    )
        finally:
            await subscription.unsubscribe()

    @property
    def starved(self) -> bool:
        """Whether it has played all that it has."""
        return not self._waiting

    @property
    def words(self) -> list[str]:
        return words(bytes(self.audio), self._spec.sample_rate)


@contextlib.asynccontextmanager
async def playing(broker: Broker, spec: VoiceSpec, speed: float = 8) -> AsyncIterator[Player]:
    """Play the session's speech during the block."""
    player = Player(broker, spec, speed)
    task = asyncio.create_task(player.run())
    try:
        yield player
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
