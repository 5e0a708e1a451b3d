"""One WebSocket of an emulator: it moves frames, keeps time and applies faults."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
from collections.abc import Sequence
from typing import Any, Protocol

from aiohttp import WSMsgType, web

from . import tones
from .faults import ConnectionLog, Faults
from .mutations import mutations
from .session import Close, Elapsed, Outgoing, Session

_random = secrets.SystemRandom()

_OTHERS = 0.03
"""Share of messages other than finals that are changed."""


class Live(Protocol):
    """An open connection or a request in progress."""

    ticket: bool
    """Whether `Faults.connections` has counted it."""

    def drop(self, fault: str) -> None:
        """Abort the TCP connection."""

    def switch(self, faults: Faults) -> None:
        """Apply changed switches."""


class Owner(Protocol):
    """The emulator of a connection, as far as the connection needs it."""

    faults: Faults
    receive_timeout_seconds: float

    def hits(self, connection: Live) -> bool:
        """Whether faults affect this connection. Call it only when a fault is due: it counts."""


class Connection:
    """One WebSocket: receives, processes at the configured pace, sends with latency."""

    def __init__(
        self,
        emulator: Owner,
        session: Session,
        socket: web.WebSocketResponse,
        request: web.Request,
        entry: ConnectionLog,
    ) -> None:
        self.session = session
        self.ticket = False
        """Whether `Faults.connections` has counted this connection."""
        self._emulator = emulator
        self._socket = socket
        self._request = request
        self._entry = entry
        self._inbox: asyncio.Queue[str | bytes | None] = asyncio.Queue()
        """Unbounded: the real server, too, receives more than it processes. None is a timeout."""
        self._outbox: asyncio.Queue[tuple[float, Outgoing | str | bytes]] = asyncio.Queue()
        self._garbage_sent: set[str] = set()
        self._mutated = False
        self._muted = False
        self._loop = asyncio.get_running_loop()
        self._opened = self._audio_at = self._life_at = self._loop.time()
        session.hits = lambda: emulator.hits(self)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            side = [
                tasks.create_task(self._process(), name=f"process {self._entry.id}"),
                tasks.create_task(self._send(), name=f"send {self._entry.id}"),
            ]
            if self.session.tick_seconds is not None:
                side.append(tasks.create_task(self._tick(), name=f"tick {self._entry.id}"))
            await self._receive()
            for task in side:
                task.cancel()

    def drop(self, fault: str) -> None:
        """Abort the TCP connection."""
        self._entry.fault = fault
        self._entry.end("dropped")
        if self._request.transport is not None:
            self._request.transport.abort()

    def switch(self, faults: Faults) -> None:
        """Apply changed switches."""
        self.session.faults = faults

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
            if message.type is WSMsgType.PING:
                self._life_at = now
                await self._pong(message.data)
            elif message.type is WSMsgType.PONG:
                self._life_at = now
            elif message.type is WSMsgType.BINARY:
                self._audio_at = self._life_at = now
                self._entry.audio_frames += 1
                if message.data:
                    audio_seen, last_life = True, now
                self._inbox.put_nowait(message.data)
            elif message.type is WSMsgType.TEXT:
                kind = _type_of(message.data, self.session.type_field)
                self._entry.texts[kind] = self._entry.texts.get(kind, 0) + 1
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
            await self._wait_for_room()

    async def _pong(self, payload: bytes) -> None:
        # The connection may have ended; the next `receive` reports it.
        with contextlib.suppress(ConnectionError):
            await self._socket.pong(payload)

    async def _wait_for_room(self) -> None:
        """Wait while the queue holds as many frames as the session allows."""
        limit, transport = self.session.read_ahead_frames, self._request.transport
        while limit is not None and self._inbox.qsize() >= limit:
            if transport is None or transport.is_closing() or self._entry.closed is not None:
                return
            await asyncio.sleep(0.005)  # polling interval; the loop waits for room in the queue

    async def _tick(self) -> None:
        assert self.session.tick_seconds is not None
        while True:
            await asyncio.sleep(self.session.tick_seconds)
            if self.session.speaks:
                self._entry.audio_seconds = round(self.session.seconds, 6)
                if self._stream_faults():
                    return
            now = self._loop.time()
            elapsed = Elapsed(now - self._opened, now - self._audio_at, now - self._life_at)
            self._queue(self.session.tick(elapsed))

    async def _process(self) -> None:
        self._queue(self.session.greeting())
        busy_until = 0.0
        while True:
            frame = await self._inbox.get()
            if frame is None:
                self._queue(self.session.timed_out())
            elif isinstance(frame, str):
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
        """Apply due faults. Return whether the connection is gone."""
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
                self._entry.fault = "garbage"
                self._outbox.put_nowait((due, kinds[kind]))
                return

    async def _send(self) -> None:
        while True:
            due, message = await self._outbox.get()
            if (wait := due - self._loop.time()) > 0:
                await asyncio.sleep(wait)
            if isinstance(message, Close):
                await self._close(message)
                return
            try:
                if isinstance(message, dict):
                    kind = str(message.get(self.session.type_field))
                    faults = self._emulator.faults
                    summary = kind == self.session.summary_type
                    if summary and faults.drop_before_summary and self._emulator.hits(self):
                        self.drop("drop_before_summary")
                        return
                    word = faults.unreadable_word
                    text = self.session.final_text(message)
                    if word in tones.words_of(text):
                        self._entry.fault = "unreadable_word"
                        values = message.items()
                        flat = {k: 7 if isinstance(v, dict | list) else v for k, v in values}
                        await self._socket.send_str(json.dumps(flat))
                        continue
                    await self._send_message(message, final=bool(text))
                    self._entry.messages[kind] = self._entry.messages.get(kind, 0) + 1
                    if text:
                        self._entry.finals.append(text)
                elif isinstance(message, bytes):
                    await self._socket.send_bytes(message)
                else:
                    await self._socket.send_str(message)
            except ConnectionError:
                return  # the receiving side records how it ended

    async def _send_message(self, message: dict[str, Any], *, final: bool) -> None:
        """Send a message, possibly with a change in it: mostly in finals, which are rare."""
        chosen = self._emulator.faults.mutated and (final or _random.random() < _OTHERS)
        if not chosen or self._mutated or not self._emulator.hits(self):
            await self._socket.send_str(json.dumps(message))
            return
        self._mutated = True
        what, changed = _random.choice(list(mutations(message)))
        self._entry.fault = "mutated"
        self._entry.mutation = f"{what} of {json.dumps(message)}"
        if isinstance(changed, bytes):
            await self._socket.send_bytes(changed)
        else:
            await self._socket.send_str(changed)

    async def _close(self, close: Close) -> None:
        faults = self._emulator.faults
        last = not self.session.summary_type  # the close is then the only end marker
        if last and faults.drop_before_summary and self._emulator.hits(self):
            self.drop("drop_before_summary")
            return
        self._entry.end(f"server {close.code or 1005}")
        if close.code is not None:
            await self._socket.close(code=close.code, message=close.reason.encode())
            return
        with contextlib.suppress(ConnectionError):
            await self._socket.send_frame(b"", WSMsgType.CLOSE)

    async def _stop_reading(self) -> None:
        # uvloop's transports have the methods of asyncio.Transport, but not the class.
        transport: Any = self._request.transport
        if transport is None:
            return
        transport.pause_reading()
        while self._emulator.faults.stop_reading_after_seconds is not None:
            await asyncio.sleep(0.02)  # polling interval; the loop waits for the switch
            if transport.is_closing():
                return
        transport.resume_reading()


def _type_of(message: str, field: str) -> str:
    try:
        return str(json.loads(message)[field])
    except (ValueError, TypeError, KeyError):
        return "?"
