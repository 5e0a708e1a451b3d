"""Applications and players of many voice sessions, as a process of its own:
`python -m bench.voice.load`.

It opens the sessions, publishes an utterance every few seconds in each, receives the speech, and
reports what would be played. Its commands and replies are those of bench.voice.peer. With `--bare`
it opens no sessions, for the relay of bench.voice.floor.
"""

from __future__ import annotations

import argparse
import asyncio
import time

from natterjack.broker.client.wire import parse_headers
from natterjack.broker.connection import Broker, connected
from natterjack.settings import BrokerSettings
from natterjack.subjects import (
    SPEECH_PREFIX,
    played_subject,
    text_subject,
    voice_session_subject,
)
from natterjack.voice.audio import FRAME_BYTES, decode_speech_headers
from natterjack.voice.spec import Played, PlayState, TextPiece, VoiceSpec

from . import floor
from .peer import RATE, OnAudio, Session, serve

_REPORT_S = 0.2
_TICK_S = 0.02


def _spec(number: int) -> VoiceSpec:
    return VoiceSpec(
        session_id=f"bench-session-{number:06}", tenant="bench", conversation=f"c{number}",
        speaker="assistant", sample_rate=RATE,
    )  # fmt: skip


class _Session:
    """An application and a player."""

    def __init__(self, broker: Broker, number: int, on_audio: OnAudio) -> None:
        self._broker = broker
        self._spec = _spec(number)
        self._hear = on_audio
        self._text = text_subject(self._spec.key)
        self._played = played_subject(self._spec.key)
        self._utterance = 0
        self._until = 0
        """The end of the speech that was received."""
        self._began: float | None = None
        """When position 0 would have been played, if all had been played without a pause."""
        self._report_at = 0.0

    async def open(self) -> None:
        headers = {"Nats-Msg-Id": self._spec.session_id}
        await self._broker.client.jetstream().publish(
            voice_session_subject(self._spec.key), self._spec.encode(), headers=headers
        )

    async def say(self, text: str) -> None:
        piece = TextPiece(
            session_id=self._spec.session_id, utterance=self._utterance, piece=0, text=text,
            flush=True,
        )  # fmt: skip
        self._utterance += 1
        headers = {"Nats-Msg-Id": piece.msg_id}
        self._broker.client.post(self._text, piece.encode(), headers=headers)

    def receive(self, headers: bytes, data: bytes, now: float) -> None:
        if not data:
            return
        header = decode_speech_headers(parse_headers(headers), len(data))
        if self._began is None:
            self._began = now - header.pos / RATE
        self._until = header.pos + len(data) // FRAME_BYTES
        self._hear(data)

    def report(self, now: float) -> None:
        """Report what would be played, as a player does."""
        if self._began is None or now < self._report_at:
            return
        self._report_at = now + _REPORT_S
        position = round((now - self._began) * RATE)
        if position < self._until:
            self._report(position, "playing")
        else:
            self._began = None
            self._report(self._until, "idle")

    def _report(self, position: int, state: PlayState) -> None:
        played = Played(
            session_id=self._spec.session_id, utterance=max(0, self._utterance - 1),
            position=position, state=state,
        )  # fmt: skip
        self._broker.client.post(self._played, played.encode())


class _Sessions:
    """All sessions."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._sessions: dict[bytes, _Session] = {}

    async def open(self, on_audio: OnAudio) -> Session:
        number = len(self._sessions)
        session = _Session(self._broker, number, on_audio)
        self._sessions[f"{SPEECH_PREFIX}.{_spec(number).key}".encode()] = session
        await session.open()
        return session

    def received(self, subject: bytes, _reply: bytes, headers: bytes | None, data: bytes) -> None:
        self._sessions[subject].receive(headers or b"", data, time.monotonic())

    async def report(self) -> None:
        while True:
            await asyncio.sleep(_TICK_S)
            now = time.monotonic()
            for session in self._sessions.values():
                session.report(now)


class _BareSession:
    def __init__(self, broker: Broker, number: int) -> None:
        self._broker = broker
        self._subject = floor.text_subject(number)

    async def say(self, text: str) -> None:
        self._broker.client.post(self._subject, text.encode())


class _Bare:
    """Sessions of the bare relay."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._ears: dict[bytes, OnAudio] = {}

    async def open(self, on_audio: OnAudio) -> Session:
        number = len(self._ears)
        self._ears[floor.audio_subject(number).encode()] = on_audio
        return _BareSession(self._broker, number)

    def received(self, subject: bytes, _reply: bytes, _headers: bytes | None, data: bytes) -> None:
        self._ears[subject](data)


async def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--nats", required=True)
    parser.add_argument("--sessions", type=int, required=True)
    parser.add_argument("--bare", action="store_true", help="open no sessions")
    arguments = parser.parse_args()
    async with connected(BrokerSettings(url=arguments.nats), name="bench") as broker:
        if arguments.bare:
            bare = _Bare(broker)
            await broker.client.listen("bench.audio.*", bare.received)
            await serve(arguments, bare, ())
            return
        sessions = _Sessions(broker)
        await broker.client.listen(f"{SPEECH_PREFIX}.>", sessions.received)
        reporting = asyncio.create_task(sessions.report())
        await serve(arguments, sessions, ())
        reporting.cancel()


if __name__ == "__main__":
    import uvloop

    uvloop.run(main())
