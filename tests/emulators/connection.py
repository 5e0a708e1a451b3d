"""One WebSocket of an emulator: moves frames, keeps time, commits faults."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from aiohttp import WSMsgType, web

from .faults import ConnectionLog
from .session import Close, Outgoing, Session

if TYPE_CHECKING:
    from .server import Emulator


class Connection:
    """One WebSocket: receives, hears at the pace allowed, sends with the latency wanted."""

    def __init__(
        self,
        emulator: Emulator,
        session: Session,
        socket: web.WebSocketResponse,
        request: web.Request,
        entry: ConnectionLog,
    ) -> None:
        self.session = session
        self.ticket = False
        """Whether this connection is one of those that `Faults.connections` counts."""
        self._emulator = emulator
        self._socket = socket
        self._request = request
        self._entry = entry
        self._inbox: asyncio.Queue[str | bytes | None] = asyncio.Queue()
        """Unbounded, as the real one's socket takes more than it hears. None: timed out."""
        self._outbox: asyncio.Queue[tuple[float, Outgoing | str | bytes]] = asyncio.Queue()
        self._garbage_sent: set[str] = set()
        self._muted = False
        self._loop = asyncio.get_running_loop()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            side = [
                tasks.create_task(self._hear(), name=f"hear {self._entry.id}"),
                tasks.create_task(self._send(), name=f"send {self._entry.id}"),
            ]
            await self._receive()
            for task in side:
                task.cancel()

    def drop(self, fault: str) -> None:
        """Abort the TCP connection."""
        self._entry.fault = fault
        self._entry.end("dropped")
        if self._request.transport is not None:
            self._request.transport.abort()

    async def _receive(self) -> None:
        last_life = self._loop.time()
        audio_seen = False
        while True:
            # Deepgram docs, "Keep Alive": ten seconds without audio or a text message, or without
            # any audio at all after the opening, and the connection is closed.
            limit = last_life + self._emulator.receive_timeout_seconds
            try:
                async with asyncio.timeout_at(limit):
                    message = await self._socket.receive()
            except TimeoutError:
                self._inbox.put_nowait(None)
                message = await self._socket.receive()
            now = self._loop.time()
            if message.type is WSMsgType.BINARY:
                self._entry.audio_frames += 1
                if message.data:
                    audio_seen, last_life = True, now
                self._inbox.put_nowait(message.data)
            elif message.type is WSMsgType.TEXT:
                if audio_seen and self.session.resets_timer(message.data):
                    last_life = now
                self._inbox.put_nowait(message.data)
            else:
                if message.type is WSMsgType.CLOSE:
                    self._entry.end(f"client {message.data}")
                else:
                    self._entry.end("lost")
                return
            if self._due("stop_reading_after_seconds"):
                await self._stop_reading()

    async def _hear(self) -> None:
        self._queue(self.session.greeting())
        busy_until = 0.0
        while True:
            frame = await self._inbox.get()
            if frame is None:
                self._queue(self.session.timed_out())
            elif isinstance(frame, str):
                kind = _type_of(frame)
                self._entry.texts[kind] = self._entry.texts.get(kind, 0) + 1
                self._queue(self.session.text(frame))
            else:
                if pace := self._emulator.faults.pace:
                    begin = max(busy_until, self._loop.time())
                    busy_until = begin + self.session.seconds_in(frame) / pace
                    await asyncio.sleep(busy_until - self._loop.time())
                answers = self.session.audio(frame)
                self._entry.audio_seconds = round(self.session.seconds, 6)
                if self._stream_faults():
                    return
                self._queue(answers)

    def _due(self, switch: str) -> bool:
        mark = getattr(self._emulator.faults, switch)
        if mark is None or self.session.seconds < mark or not self._emulator.hits(self):
            return False
        self._entry.fault = switch
        return True

    def _stream_faults(self) -> bool:
        """Commit what is due; whether the connection is gone."""
        faults = self._emulator.faults
        mid_word = (
            faults.drop_mid_word is not None
            and self.session.mid_word
            and len(self.session.words) >= faults.drop_mid_word
            and self._emulator.hits(self)
        )
        if mid_word or self._due("drop_after_seconds"):
            self.drop("drop_mid_word" if mid_word else "drop_after_seconds")
            return True
        if self._due("close_after_seconds"):
            self._queue([Close(faults.close_code, faults.close_reason)])
            return True
        if not self._muted and self._due("mute_after_seconds"):
            self._muted = True
        elif self._muted and faults.mute_after_seconds is None:
            self._muted = False
        return False

    def _queue(self, messages: Sequence[Outgoing]) -> None:
        if self._muted:
            return
        faults = self._emulator.faults
        due = self._loop.time() + faults.latency_seconds
        for message in messages:
            self._garbage(due)
            self._outbox.put_nowait((due, message))

    def _garbage(self, due: float) -> None:
        wanted = self._emulator.faults.garbage
        if not wanted or not self._emulator.hits(self):
            return
        kinds = self.session.garbage()
        for kind in kinds if "all" in wanted else wanted:
            if kind not in self._garbage_sent:
                self._garbage_sent.add(kind)
                self._outbox.put_nowait((due, kinds[kind]))
                return

    async def _send(self) -> None:
        while True:
            due, message = await self._outbox.get()
            if (wait := due - self._loop.time()) > 0:
                await asyncio.sleep(wait)
            if isinstance(message, Close):
                self._entry.end(f"server {message.code}")
                await self._socket.close(code=message.code, message=message.reason.encode())
                return
            try:
                if isinstance(message, dict):
                    kind = str(message.get("type"))
                    faults = self._emulator.faults
                    summary = kind == self.session.summary_type
                    if summary and faults.drop_before_summary and self._emulator.hits(self):
                        self.drop("drop_before_summary")
                        return
                    await self._socket.send_str(json.dumps(message))
                    self._entry.messages[kind] = self._entry.messages.get(kind, 0) + 1
                    if said := self.session.said(message):
                        self._entry.said.append(said)
                elif isinstance(message, bytes):
                    await self._socket.send_bytes(message)
                else:
                    await self._socket.send_str(message)
            except ConnectionError:
                return  # the receiving side says how it ended

    async def _stop_reading(self) -> None:
        transport = self._request.transport
        if transport is None:
            return
        assert isinstance(transport, asyncio.ReadTransport)
        transport.pause_reading()
        while self._emulator.faults.stop_reading_after_seconds is not None:
            await asyncio.sleep(0.02)
            if transport.is_closing():
                return
        transport.resume_reading()


def _type_of(message: str) -> str:
    try:
        return str(json.loads(message)["type"])
    except (ValueError, TypeError, KeyError):
        return "?"
