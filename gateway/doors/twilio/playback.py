"""Speech of a voice session, played to a caller: an output of the edge's player."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from edge_capture.playback.playout import Playout
from edge_capture.sources.boot_clock import boot_time
from natterjack.voice.audio import FRAME_BYTES

from .mulaw import to_mulaw
from .protocol import SAMPLE_RATE, encode_clear, encode_mark, encode_media

_BLOCK_S = 0.1
_AHEAD_S = 0.3
"""How much is sent ahead of what is heard: Twilio plays without holes, and a cut drops the rest."""
_TICK_S = 0.05
_MARK_S = 0.5
"""How often Twilio is asked how far it has played."""
_FIRST_LATENCY_S = 0.1
_MAX_LATENCY_S = 5.0
_LEARNING = 0.3


class Schedule:
    """When what is sent is heard, learned from marks that come back. Pure: callers pass the time.

    Twilio plays what it was sent one after another, as soon as it has it.
    """

    def __init__(self) -> None:
        self.latency = _FIRST_LATENCY_S
        """Seconds from sending to hearing."""
        self._until = 0.0
        """When everything that was sent will have been heard."""
        self._marks: dict[str, float] = {}
        """When each mark is expected: the end of what was sent before it."""
        self._number = 0
        self._marked_at = 0.0

    def next_at(self, now: float) -> float:
        """When audio that is sent now will be heard."""
        return max(self._until, now + self.latency)

    def ahead(self, now: float) -> float:
        """Seconds that Twilio has and has not played."""
        return max(0.0, self._until - now - self.latency)

    def sent(self, now: float, seconds: float) -> None:
        """Audio was sent."""
        self._until = self.next_at(now) + seconds

    def mark(self, *, ended: bool) -> str | None:
        """The name of a mark that is to be sent now, if one is due: from time to time, and when
        nothing more is there to be sent (`ended`)."""
        if self._until - self._marked_at < (1e-6 if ended else _MARK_S):
            return None
        self._marked_at = self._until
        self._number += 1
        name = f"played-{self._number}"
        self._marks[name] = self._until
        return name

    def played(self, name: str, now: float) -> None:
        """A mark came back."""
        expected = self._marks.pop(name, None)
        if expected is None:
            return
        error = now - expected
        self.latency = min(max(self.latency + _LEARNING * error, 0.0), _MAX_LATENCY_S)
        if self._until > expected:
            self._until = max(now, self._until + error)

    def cleared(self) -> None:
        """Note that unplayed audio was dropped. Marks that come back later are ignored."""
        self._marks.clear()
        self._until = self._marked_at = 0.0


class CallOutput:
    """A call, as an `edge_capture.playback.outputs.Output`."""

    rate = SAMPLE_RATE
    waiting_for = None

    def __init__(self, stream_sid: str, send: Callable[[str], Awaitable[None]]) -> None:
        """`send` sends a text to Twilio."""
        self.name = f"call {stream_sid}"
        self._stream_sid, self._send = stream_sid, send
        self._schedule = Schedule()
        self._closed = False

    async def play(self, playout: Playout) -> None:
        schedule, frames = self._schedule, round(_BLOCK_S * self.rate)
        while not self._closed:
            now = boot_time()
            while schedule.ahead(now) < _AHEAD_S:
                audio = playout.pull(frames, schedule.next_at(now))
                if audio:
                    schedule.sent(now, len(audio) / FRAME_BYTES / self.rate)
                    await self._send(encode_media(self._stream_sid, to_mulaw(audio)))
                ended = len(audio) < frames * FRAME_BYTES
                if (name := schedule.mark(ended=ended)) is not None:
                    await self._send(encode_mark(self._stream_sid, name))
                if ended:
                    break
            await asyncio.sleep(_TICK_S)

    async def drop(self) -> None:
        self._schedule.cleared()
        await self._send(encode_clear(self._stream_sid))

    def marked(self, name: str) -> None:
        """Twilio has played everything before a mark."""
        self._schedule.played(name, boot_time())

    def close(self) -> None:
        self._closed = True
