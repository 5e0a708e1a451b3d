"""One call: its tracks become sessions, and the speech of a voice session is played to it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Mapping

from aiohttp import WSMsgType, web

from edge_capture.playback.player import Player
from edge_capture.playback.playout import PlayOptions
from natterjack.errors import NatterjackError
from natterjack.notices import DROPPED
from natterjack.subjects import SessionKey
from natterjack.telemetry.log import fields

from ...errors import SessionEnded
from ...gateway import Gateway
from ...session import ClientSession
from ..client import Close
from .playback import CallOutput
from .protocol import BadMessage, Dtmf, Mark, Media, Start, Stop, Timeline, Unknown, decode

log = logging.getLogger(__name__)

_SILENT_S = 60.0
"""4: audio comes every 20 ms, also in silence. The connection is dead without it."""


class Call:
    """A call after its first messages, until either side ends it."""

    def __init__(
        self,
        gateway: Gateway,
        socket: web.WebSocketResponse,
        start: Start,
        sessions: Mapping[str, ClientSession],
        sequence: int | None,
    ) -> None:
        """`sessions` by track; `sequence` is the number of the message `start`."""
        self._gateway, self._socket, self._start = gateway, socket, start
        self._sessions = sessions
        self._timelines = {track: Timeline() for track in sessions}
        self._sequence = sequence
        self._sending = asyncio.Lock()
        self._close: asyncio.Future[Close | None] = asyncio.get_running_loop().create_future()
        self._output: CallOutput | None = None
        self._lost_frames = 0

    async def run(self, voice: SessionKey | None) -> Close | None:
        """Serve the call, and play the speech of `voice` to it. Returns how to close the
        connection; None if it is lost."""
        async with asyncio.TaskGroup() as tasks:
            side = [tasks.create_task(self._read(), name=f"read {self._start.call_sid}")]
            side += [
                tasks.create_task(self._follow(session), name=f"follow {session.key}")
                for session in self._sessions.values()
            ]
            side.append(tasks.create_task(self._drain(), name="drain"))
            if voice is not None:
                side.append(tasks.create_task(self._speak(voice), name=f"speak {voice}"))
            try:
                return await self._close
            finally:
                for task in side:
                    task.cancel()
                if self._lost_frames:
                    log.warning(
                        "parts of the call are missing",
                        extra=self._fields(seconds=self._lost_frames / 8000),
                    )

    # ---- from Twilio ----------------------------------------------------------------------------

    async def _read(self) -> None:
        try:
            while not self._close.done():
                async with asyncio.timeout(_SILENT_S):
                    message = await self._socket.receive()
                match message.type:
                    case WSMsgType.TEXT:
                        self._take(message.data)
                    case WSMsgType.BINARY:
                        raise BadMessage("a binary message")
                    case WSMsgType.PING:
                        await self._socket.pong(message.data)
                    case WSMsgType.PONG:
                        pass
                    case _:  # 5: a close without `stop` is the end of the audio, too
                        log.info("the call's connection is lost", extra=self._fields())
                        self._resolve(None)
        except TimeoutError:
            self._resolve(Close(1011, f"nothing was sent for {_SILENT_S:.0f} s"))
        except BadMessage as error:
            log.warning("call ended: %s", error, extra=self._fields())
            self._resolve(Close(1008, str(error)))
        except (ConnectionError, RuntimeError):
            self._resolve(None)

    def _take(self, text: str) -> None:
        message, sequence = decode(text)
        if sequence is not None:
            if self._sequence is not None and sequence > self._sequence + 1:
                for timeline in self._timelines.values():
                    timeline.lose()
            self._sequence = max(sequence, self._sequence or 0)
        match message:
            case Media():
                self._audio(message)
            case Mark(name) if self._output is not None:
                self._output.marked(name)
            case Dtmf(digit):
                log.info("a key was pressed and is ignored", extra=self._fields(digit=digit))
            case Stop():
                self._resolve(Close(1000))
            case Unknown(event):
                log.debug("message %s is ignored", event)

    def _audio(self, media: Media) -> None:
        session = self._sessions.get(media.track)
        if session is None:
            return
        hole = self._timelines[media.track].place(media)
        frames = len(media.payload)
        try:
            if hole:
                self._lost_frames += hole
                session.skip(hole, DROPPED)
            if session.has_room:
                session.feed(media.payload)
            else:
                # 5: whoever reads too slowly loses audio as well, and does not know how much.
                self._lost_frames += frames
                session.skip(frames, DROPPED)
        except SessionEnded:
            pass  # `_follow` ends the call

    # ---- sessions -------------------------------------------------------------------------------

    async def _follow(self, session: ClientSession) -> None:
        """Read the session's events, so that it goes on; nobody on the call reads them."""
        async for _ in session:
            pass
        closing = session.closing
        if closing is not None and not session.ending:
            why = f"{closing.reason or closing.state}: {closing.detail or ''}"
            log.warning("a session of the call ended: %s", why, extra=self._fields())
            self._resolve(Close(1008, why))

    async def _drain(self) -> None:
        """5: Twilio does not connect again, so a call goes on as long as this process may."""
        await self._gateway.draining.wait()
        await asyncio.sleep(max(0.0, self._gateway.drain_until - time.monotonic()))
        self._resolve(Close(1001, "this gateway ends"))

    # ---- to Twilio ------------------------------------------------------------------------------

    async def _speak(self, key: SessionKey) -> None:
        broker = self._gateway.broker
        assert broker is not None
        self._output = output = CallOutput(self._start.stream_sid, self._send)
        player = Player(key, output, PlayOptions())
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(player.play(), name=f"play {key}")
                tasks.create_task(player.run(broker, outage=False), name=f"player {key}")
        except* NatterjackError as group:
            log.error("nothing is played to the call: %s", group, extra=self._fields())
        finally:
            player.stop()

    async def _send(self, text: str) -> None:
        limit = self._gateway.settings.slow_client_seconds
        try:
            async with self._sending, asyncio.timeout(limit):
                await self._socket.send_str(text)
        except TimeoutError:
            self._gateway.metrics.slow.labels("twilio").inc()
            self._resolve(None)
        except (ConnectionError, RuntimeError):
            self._resolve(None)

    def _resolve(self, close: Close | None) -> None:
        with contextlib.suppress(asyncio.InvalidStateError):
            self._close.set_result(close)

    def _fields(self, **values: object) -> dict[str, dict[str, object]]:
        return fields(call=self._start.call_sid, stream=self._start.stream_sid, **values)
