"""One stream through the proxy: reads, decodes, hands over, writes. No policy."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final, NamedTuple

from natterjack.plugin.errors import RemoteProtocolError, Stalled
from natterjack.plugin.provider import Final as FinalEvent
from natterjack.plugin.provider import Interim, Notice, ProviderEvent
from natterjack.plugin.websocket import Closed, Socket, WebSocketStream

from . import protocol
from .memory import MuteMemory
from .protocol import BYTES_PER_SECOND, FRAME_MS, NAME
from .transcript import Texts

_GRACE_SECONDS: Final = 5.0
"""After an error that ends the session, what is still said is heard for so long."""
_LOOK_SECONDS: Final = 0.5
"""How often the audio is looked at for what it makes certain ..."""
_HOLDING_SECONDS: Final = 0.1
"""... and while a text waits for it."""
_OWED_SECONDS: Final = 1.5
"""Of speech without a text, from which on a stream that is over is sent once more."""
_LATE_PART: Final = 1 / 3
"""Of the seconds after which the proxy is mute: what was sent in them may yet be answered."""
_ALIKE_SECONDS: Final = 0.5
"""By so much may the lengths of the same audio differ, sent twice."""
_FRAME_BYTES: Final = BYTES_PER_SECOND * FRAME_MS // 1000


class Ending(NamedTuple):
    """How the end of audio is said, and when all was said. In seconds."""

    extended: bool
    """The proxy takes `end`, and closes when it is done."""
    finalize: bool
    """It is known beforehand to take `finalize`."""
    silence: float
    settle: float
    wait: float


class Muteness(NamedTuple):
    """When the proxy is mute, and what another stream of the session has found out of that."""

    session_id: str
    memory: MuteMemory
    quiet: float
    """Seconds, of audio and of time, that speech may be without an answer."""


async def wait_ready(socket: Socket, auth: protocol.Auth, timeout_seconds: float) -> protocol.Ready:
    """Send the first frame and wait for `ready`.

    Raises: what the proxy's error or close means; RemoteProtocolError for any other first reply;
    Stalled (mute) when none comes in time.
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
                    continue  # 1: text that is no JSON is ignored
                if isinstance(reply, protocol.Ready):
                    return reply
                if not isinstance(reply, protocol.Error):
                    what = f"the first reply is {type(reply).__name__}"
                    raise RemoteProtocolError(NAME, what)
                failed = reply
                if protocol.is_fatal(reply):
                    raise protocol.ready_error(reply, None)
                # Without a code that is known the close that follows tells its kind.
    except TimeoutError:
        if failed is not None:
            raise protocol.ready_error(failed, None) from None
        raise Stalled(NAME, "mute", f"not ready within {timeout_seconds:g} s") from None


class ManagedStream(WebSocketStream):
    """A session of the proxy that is ready."""

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
        self._heard_at = self._loop.time()
        """When the proxy last said something."""
        self._passable = muteness.memory.take(muteness.session_id, self._heard_at)
        """So far the stream before was mute on this audio: if this one is too, it is no speech."""
        self._final = 0.0
        """End of the last final given."""
        self._productive = False
        """Whether one with a text was."""
        self._kept: list[FinalEvent] = []
        """Finals since the end of audio."""
        self._owed_at: float | None = None
        """Since when there is speech without an answer."""
        self._error: protocol.Error | None = None
        self._error_at = 0.0

    def on_audio(self, audio: bytes) -> None:
        self._texts.hear(audio)

    def encode_finish(self) -> str:
        return protocol.encode_client(protocol.End())

    async def finish(self) -> None:
        if self.finishing:
            return
        self._finished_at = self._heard_at = self._loop.time()
        self._texts.finish()
        if self._ending.extended:
            await super().finish()
            return
        self.finishing = True
        # 3.3: there is no message for it, and closing would lose what is still to be said. Silence
        # makes the upstream end the last utterance.
        left = round(self._ending.silence * BYTES_PER_SECOND / 2) * 2
        while left > 0:
            await self.socket.send(bytes(min(left, _FRAME_BYTES)))
            left -= _FRAME_BYTES

    async def finalize(self) -> None:
        """Only of a proxy that is known to take it (setting `extensions`)."""
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
                    _HOLDING_SECONDS if self._texts.holding else _LOOK_SECONDS
                ):
                    message = await self.socket.receive()
            except TimeoutError:
                pass
            if isinstance(message, Closed):
                if not self._ended_well(message):
                    raise protocol.session_error(self._error, message)
                break
            if message is not None:
                for event in self._give(self.decode(message)):
                    yield event
            for event in self._give(self._texts.due()):
                yield event
            if message is None:  # else more may wait to be read
                for event in self._give(self._mute()):
                    yield event
            if self._over():
                break
        for event in [*self._kept, *self._texts.end()]:
            yield event

    def _give(self, events: list[ProviderEvent]) -> list[ProviderEvent]:
        """Of a proxy that does not say when it is done, finals after the end of audio are interims
        until it seems to be: if it is not, the worker sends all of that once more."""
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
                    given.append(self._shown("", event.end))
            elif isinstance(event, Interim) and self._kept:
                given.append(self._shown(event.text, event.end))
            else:
                given.append(event)
        return given

    def _shown(self, text: str, end: float) -> Interim:
        """All since the last final that was given."""
        parts = [kept.text for kept in self._kept] + [text]
        start = self._kept[0].start
        return Interim(" ".join(filter(None, parts)), start, end, times_estimated=True)

    def decode(self, message: str | bytes) -> list[ProviderEvent]:
        try:
            decoded = protocol.decode_server(message)
        except RemoteProtocolError as error:
            return [Notice("malformed", str(error))]
        if isinstance(decoded, protocol.Error):
            self._error, self._error_at = decoded, self._loop.time()
        elif isinstance(decoded, protocol.Transcript) and decoded.text.strip():
            self._heard_at = self._loop.time()
        return self._texts.receive(decoded)

    def _ended_well(self, closed: Closed) -> bool:
        """Whether the proxy closed because all was said."""
        if self._error is not None and protocol.is_fatal(self._error):
            return False
        return closed.code == 1000 and self._finished_at is not None and self._ending.extended

    def _mute(self) -> list[ProviderEvent]:
        """What to give if speech has had no answer for long. Raises: Stalled, if the worker is to
        send it once more."""
        quiet, now = self._muteness.quiet, self._loop.time()
        if self.failure is not None or self._finished_at is not None:
            return []
        owed = self._texts.owed
        if owed <= 0:
            self._owed_at = None
            return []
        # Not by the audio alone: that may be sent faster than the proxy is wont to answer.
        self._owed_at = self._owed_at or now
        if owed < quiet or now - max(self._owed_at, self._heard_at) < quiet:
            return []
        late = quiet * _LATE_PART
        end = min(self._passable, self._texts.sent - late)
        if not self._productive and end > self._final:
            self._passable = 0.0
            return self._texts.pass_over(end)
        self._note(self._texts.sent - self._final - late)
        raise Stalled(NAME, "mute", f"no answer to {owed:.0f} s of audio")

    def _note(self, seconds: float) -> None:
        muteness = self._muteness
        muteness.memory.note(muteness.session_id, seconds, self._loop.time())

    def _over(self) -> bool:
        """Whether to wait no longer. Raises what a fatal error means that no close followed."""
        now = self._loop.time()
        if self._error is not None and protocol.is_fatal(self._error):
            # 5: a close should follow; transcripts may come before it.
            if now - self._error_at >= _GRACE_SECONDS:
                raise protocol.session_error(self._error, None)
            return False
        if self.failure is not None:
            raise self.failure
        if self._finished_at is None or self._ending.extended:
            return False
        quiet = now - self._heard_at
        if quiet < self._ending.wait:
            return quiet >= self._ending.settle and self._texts.settled
        if self._texts.unanswered < _OWED_SECONDS:
            return True  # no more than a place that was guessed too early may leave
        sent = self._texts.sent
        if not self._productive and self._passable >= sent - _ALIKE_SECONDS:
            return True  # the stream before had the same audio, and no answer to it either
        self._note(sent - self._final)
        raise Stalled(NAME, "finish", f"no answer to some of the last {sent - self._final:.1f} s")
