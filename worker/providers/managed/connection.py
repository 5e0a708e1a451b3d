"""One stream through the proxy: reads and decodes messages, writes audio. No policy."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final, NamedTuple

from natterjack.plugin.errors import RemoteProtocolError, Stalled
from natterjack.plugin.provider import Final as FinalEvent
from natterjack.plugin.provider import Interim, Notice, ProviderEvent
from natterjack.plugin.websocket import Closed, Socket, WebSocketStream

from .. import wire
from . import protocol
from .memory import MuteMemory
from .protocol import BYTES_PER_SECOND, FRAME_MS, NAME
from .transcript import Texts

_GRACE_SECONDS: Final = 5.0
"""How long to wait for transcripts and the close after a fatal error."""
_POLL_SECONDS: Final = 0.5
"""Interval of checks whether the audio sent so far completes a final."""
_PENDING_POLL_SECONDS: Final = 0.1
"""Interval of these checks while a text waits for its position."""
_UNANSWERED_SECONDS: Final = 1.5
"""Speech without a text from which on a stream that has ended is sent again."""
_LATE_FRACTION: Final = 1 / 3
"""Fraction of `quiet` within which the proxy may still respond to audio."""
_SAME_LENGTH_SECONDS: Final = 0.5
"""Difference up to which the lengths of the same audio, sent twice, count as equal."""
_FRAME_BYTES: Final = BYTES_PER_SECOND * FRAME_MS // 1000


class Ending(NamedTuple):
    """How to end a stream, and when it has ended. Times in seconds."""

    extended: bool
    """Whether the proxy supports `end`, and closes when it is done."""
    finalize: bool
    """Whether the proxy is known to support `finalize`."""
    silence: float
    settle: float
    wait: float


class Muteness(NamedTuple):
    """When the proxy counts as mute, and the memory that the streams of a session share."""

    session_id: str
    memory: MuteMemory
    quiet: float
    """Seconds, both of audio and of time, for which speech may remain without a text."""


async def wait_ready(socket: Socket, auth: protocol.Auth, timeout_seconds: float) -> protocol.Ready:
    """Send the first frame and wait for `ready`.

    Raises: the error that the proxy's error or close means; RemoteProtocolError for any other first
    reply; Stalled (mute) if none arrives in time.
    """
    failed: protocol.Error | None = None
    try:
        async with asyncio.timeout(timeout_seconds):
            await socket.send(protocol.encode_client(auth))
            while True:
                message = await socket.receive()
                if isinstance(message, Closed):
                    raise protocol.ready_error(failed, message)
                try:
                    reply = protocol.decode_server(message)
                except RemoteProtocolError:
                    continue  # 1: text that is not JSON is ignored; no audio was sent yet
                if isinstance(reply, protocol.Ready):
                    return reply
                if not isinstance(reply, protocol.Error):
                    what = f"unexpected first reply {type(reply).__name__}"
                    raise RemoteProtocolError(NAME, what)
                failed = reply
                if protocol.is_fatal(reply):
                    raise protocol.ready_error(reply, None)
                # With an unknown code, the close that follows determines the kind of error.
    except TimeoutError:
        if failed is not None:
            raise protocol.ready_error(failed, None) from None
        raise Stalled(NAME, "mute", f"not ready within {timeout_seconds:g} s") from None


class ManagedStream(WebSocketStream):
    """An open session of the proxy, after `ready`."""

    def __init__(
        self,
        socket: Socket,
        texts: Texts,
        ending: Ending,
        muteness: Muteness,
        reference: str | None,
    ) -> None:
        super().__init__(socket)
        self.reference = reference
        self._muteness = muteness
        self._texts = texts
        self._ending = ending
        self._finished_at: float | None = None
        self._text_at = self._loop.time()
        """Time of the last text, or of the end of audio."""
        self._mute_before = muteness.memory.take(muteness.session_id, self._text_at)
        """Audio on which the session's previous stream was mute. If this one is too, it is not
        speech."""
        self._final = 0.0
        """End of the last final returned."""
        self._productive = False
        """Whether any of them had text."""
        self._kept: list[FinalEvent] = []
        """Finals since the end of audio, which are held back."""
        self._unanswered_at: float | None = None
        """Time since which there is speech without a text."""
        self._error: protocol.Error | None = None
        self._error_at = 0.0

    def on_audio(self, audio: bytes) -> None:
        self._texts.add_audio(audio)

    def encode_finish(self) -> str:
        return protocol.encode_client(protocol.End())

    async def finish(self) -> None:
        if self.finishing:
            return
        self._finished_at = self._text_at = self._loop.time()
        self._texts.finish()
        if self._ending.extended:
            await super().finish()
            return
        self.finishing = True
        # 3.3: there is no message for the end, and closing would lose the last texts. Silence makes
        # the upstream finish the last utterance.
        left = round(self._ending.silence * BYTES_PER_SECOND / 2) * 2
        while left > 0:
            await self.socket.send(bytes(min(left, _FRAME_BYTES)))
            left -= _FRAME_BYTES

    async def finalize(self) -> None:
        """Send `finalize`, if the proxy is known to support it (setting `extensions`)."""
        if not self._ending.finalize:
            raise NotImplementedError
        await self.socket.send(protocol.encode_client(protocol.Finalize()))

    async def configure(self, changes: Mapping[str, Any]) -> None:
        raise NotImplementedError

    async def __aiter__(self) -> AsyncIterator[ProviderEvent]:
        while True:
            message: str | bytes | Closed | None = None
            try:
                async with asyncio.timeout(
                    _PENDING_POLL_SECONDS if self._texts.holding else _POLL_SECONDS
                ):
                    message = await self.socket.receive()
            except TimeoutError:
                pass
            if isinstance(message, Closed):
                if not self._ended_well(message):
                    raise protocol.session_error(self._error, message)
                break
            if message is not None:
                for event in self._hold_back(self.decode(message)):
                    yield event
            for event in self._hold_back(self._texts.due()):
                yield event
            if message is None:  # otherwise more messages may be waiting
                for event in self._hold_back(self._mute()):
                    yield event
            if self._over():
                break
        for event in [*self._kept, *self._texts.end()]:
            yield event

    def _hold_back(self, events: list[ProviderEvent]) -> list[ProviderEvent]:
        """Hold back finals after the end of audio, as interims, until the proxy seems to be done.

        This applies to proxies without `end`. If the proxy is not done, the worker sends this audio
        again.
        """
        given: list[ProviderEvent] = []
        for event in events:
            if isinstance(event, FinalEvent):
                if self._finished_at is None or self._ending.extended:
                    self._final = event.end
                    self._productive |= bool(event.text)
                    given.append(event)
                    continue
                self._kept.append(event)
                if event.text:
                    given.append(self._interim_since_final("", event.end))
            elif isinstance(event, Interim) and self._kept:
                given.append(self._interim_since_final(event.text, event.end))
            else:
                given.append(event)
        return given

    def _interim_since_final(self, text: str, end: float) -> Interim:
        """An interim with everything since the last final that was returned."""
        parts = [kept.text for kept in self._kept] + [text]
        start = self._kept[0].start
        return Interim(" ".join(filter(None, parts)), start, end, times_estimated=True)

    def decode(self, message: str | bytes) -> list[ProviderEvent]:
        try:
            decoded = protocol.decode_server(message)
        except wire.Harmless as error:
            return [Notice("malformed", str(error), harmless=True)]
        if isinstance(decoded, protocol.Error):
            self._error, self._error_at = decoded, self._loop.time()
        elif isinstance(decoded, protocol.Transcript) and decoded.text.strip():
            self._text_at = self._loop.time()
        return self._texts.receive(decoded)

    def _ended_well(self, closed: Closed) -> bool:
        """Whether the proxy closed because all texts were sent."""
        if self._error is not None and protocol.is_fatal(self._error):
            return False
        return closed.code == 1000 and self._finished_at is not None and self._ending.extended

    def _mute(self) -> list[ProviderEvent]:
        """Return a final over audio that is not speech, if speech has had no text for too long.

        Raises: Stalled if the worker should send the audio again.
        """
        quiet, now = self._muteness.quiet, self._loop.time()
        if self.failure is not None or self._finished_at is not None:
            return []
        waiting = self._texts.waiting_seconds
        if waiting <= 0:
            self._unanswered_at = None
            return []
        # Audio alone is not enough: it may be sent faster than the proxy usually responds.
        self._unanswered_at = self._unanswered_at or now
        if waiting < quiet or now - max(self._unanswered_at, self._text_at) < quiet:
            return []
        late = quiet * _LATE_FRACTION
        end = min(self._mute_before, self._texts.sent - late)
        if not self._productive and end > self._final:
            self._mute_before = 0.0
            return self._texts.skip(end)
        self._note(self._texts.sent - self._final - late)
        raise Stalled(NAME, "mute", f"no response to {waiting:.0f} s of audio")

    def _note(self, seconds: float) -> None:
        muteness = self._muteness
        muteness.memory.note(muteness.session_id, seconds, self._loop.time())

    def _over(self) -> bool:
        """Whether to stop waiting. Raises: the error for a fatal error without a close."""
        now = self._loop.time()
        if self._error is not None and protocol.is_fatal(self._error):
            # 5: a close should follow; transcripts may arrive before it.
            if now - self._error_at >= _GRACE_SECONDS:
                raise protocol.session_error(self._error, None)
            return False
        if self.failure is not None:
            raise self.failure
        if self._finished_at is None or self._ending.extended:
            return False
        quiet = now - self._text_at
        if quiet < self._ending.wait:
            return quiet >= self._ending.settle and self._texts.settled
        if self._texts.unanswered_speech < _UNANSWERED_SECONDS:
            return True  # within the error of a position that was estimated too early
        sent = self._texts.sent
        if not self._productive and self._mute_before >= sent - _SAME_LENGTH_SECONDS:
            return True  # the previous stream was mute on the same audio
        self._note(sent - self._final)
        raise Stalled(NAME, "finish", f"no response to part of the last {sent - self._final:.1f} s")
