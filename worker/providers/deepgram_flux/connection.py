"""One stream to Flux: reads and decodes messages, writes audio. No policy."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any

from natterjack.audio import AudioFormat
from natterjack.plugin.errors import Dropped, ProviderError, Stalled
from natterjack.plugin.provider import Final, Notice, ProviderEvent, ProviderStream
from natterjack.plugin.websocket import Closed, Socket

from .. import wire
from ..auto_reset import AutoResetEvent
from . import protocol
from .clock import Clock
from .configure import Configuring
from .options import NAME, parse_changes, refused
from .transcript import Transcript
from .upkeep import FRAME_SECONDS, Act, Phase, Upkeep

FatalErrors = Callable[[protocol.FatalError, bool], ProviderError]
"""Maps an Error message, and whether the stream has made words final, to the error to raise."""


@functools.cache
def _silent_frame(audio_format: AudioFormat) -> bytes:
    return audio_format.silence(round(audio_format.sample_rate * FRAME_SECONDS))


class DeepgramFluxStream(ProviderStream):
    """An open connection to listen v2 whose provider has sent Connected."""

    def __init__(
        self,
        socket: Socket,
        model: str,
        audio_format: AudioFormat,
        clock: Clock,
        transcript: Transcript,
        upkeep: Upkeep,
        configuring: Configuring,
        fatal: FatalErrors,
    ) -> None:
        self.reference = socket.headers.get("dg-request-id")
        self.sequence = protocol.Sequence()
        self._socket = socket
        self._model = model
        self._silence = _silent_frame(audio_format)
        self._clock = clock
        self._transcript = transcript
        self._upkeep = upkeep
        self._configuring = configuring
        self._fatal = fatal
        self._loop = asyncio.get_running_loop()
        self._time = self._loop.time
        self._finishing = False
        self._over = False
        """Whether the server has closed the connection normally."""
        self._productive = False
        """Whether any words have become final."""
        self._failure: ProviderError | None = None
        self._wakeup = AutoResetEvent()
        self._wakeup_at = 0.0
        # Runs until `close` or the end of the stream; the iterator raises its error.
        self._upkeep_task = asyncio.create_task(self._run_upkeep(), name=f"upkeep {self.reference}")

    async def send(self, audio: bytes) -> None:
        # Empty frames are undocumented.
        if not audio:
            return
        if self._finishing:
            raise RuntimeError("send after finish")
        self._sent(audio)
        await self._socket.send(audio)

    def send_nowait(self, audio: bytes) -> bool:
        if not audio or self._finishing or not self._socket.send_nowait(audio):
            return False
        self._sent(audio)
        return True

    def _sent(self, audio: bytes) -> None:
        """Count audio just before or after it is sent. The count and the wire must agree, so
        nothing may be awaited in between."""
        self._upkeep.sent(self._time(), audio, self._clock.audio(len(audio)))
        if self._upkeep.deadline < self._wakeup_at:
            self._wakeup.set()

    async def finish(self) -> None:
        """Start ending the stream; the messages for it are sent as the provider's responses
        arrive."""
        if self._finishing:
            return
        self._finishing = True
        self._upkeep.finish(self._time())
        self._wakeup.set()

    async def finalize(self) -> None:
        """End the open turn with the text decoded so far; audio not decoded yet starts the next
        turn."""
        if not self._finishing:
            await self._socket.send(protocol.encode_force_end_turn())

    async def configure(self, changes: Mapping[str, Any]) -> None:
        """Apply changes; return once the provider confirms them.

        Changes that are requested meanwhile are sent together afterwards.

        Raises: RequestRefused with the provider's reason (the stream continues unchanged); Stalled
        if there is no response in time.
        """
        checked = parse_changes(changes, self._model)
        if self._finishing:
            raise refused("configure: the stream is being finished")
        if self._failure is not None:
            raise self._failure
        if checked.get("numerals"):
            self._transcript.rewrites_numbers = (
                True  # permanently, since the response may come late or never
            )
        answer: asyncio.Future[None] = self._loop.create_future()
        self._configuring.ask(checked, answer)
        self._wakeup.set()
        try:
            async with asyncio.timeout(self._configuring.bound_seconds):
                await answer
        except TimeoutError:
            raise Stalled(NAME, "mute", "Configure could not be sent") from None

    async def __aiter__(self) -> AsyncIterator[ProviderEvent]:
        try:
            while not self._over:
                for event in self._received(await self._socket.receive()):
                    yield event
                    del event  # keep no message alive while waiting for the next
        except ProviderError as error:
            self._failure = self._failure or error
            raise
        finally:
            self._configuring.fail(self._failure or Dropped(NAME, "the stream has ended"))
            self._upkeep_task.cancel()
        for event in self._transcript.end():
            yield event

    def _received(self, received: str | bytes | Closed) -> Iterator[ProviderEvent]:
        if isinstance(received, Closed):
            self._end(received)
            return
        try:
            decoded = protocol.decode(received, self._clock.sent + wire.AHEAD_SECONDS)
        except wire.Harmless as error:
            yield Notice("malformed", str(error), harmless=True)
            return
        if gap := self.sequence.check(decoded.sequence):
            yield gap
        for event in self._events(decoded.message):
            self._productive |= isinstance(event, Final) and bool(event.text)
            yield event

    def _end(self, closed: Closed) -> None:
        # A close before CloseStream was sent is not normal, even if `finish` was called.
        closing = self._upkeep.phase is Phase.CLOSING
        failure = self._failure or protocol.close_error(closed, finishing=closing)
        if failure is None and (missing := self._upkeep.missing):
            # Silence follows the audio, so the provider should have reported on all of it.
            failure = Stalled(NAME, "mute", f"no transcript of the last {missing:.1f} s")
        if failure is not None:
            raise failure
        self._over = True

    def _events(self, message: protocol.Message) -> list[ProviderEvent]:
        match message:
            case protocol.TurnInfo():
                events = self._transcript.receive(message)
                self._upkeep.transcribed(
                    self._time(), message.window_end or 0.0, turn_open=self._transcript.turn_open
                )
                if min(self._upkeep.deadline, self._configuring.deadline) < self._wakeup_at:
                    self._wakeup.set()
                return events
            case protocol.Configured() | protocol.ConfigureFailed():
                self._configuring.answered(message)
                self._wakeup.set()
                taken = isinstance(message, protocol.Configured)
                return [Notice("configured" if taken else "configure_failed")]
            case protocol.Warned():
                if message.code == "FORCE_END_TURN_NO_ACTIVE_TURN":
                    self._upkeep.no_turn()
                    self._wakeup.set()
                return [Notice("warning", f"{message.code}: {message.description}")]
            case protocol.FatalError():
                raise self._fatal(message, self._productive)
            case Notice():
                return [message]
        return [Notice("malformed", "unexpected second Connected", harmless=True)]

    async def close(self) -> None:
        if self._failure is None:
            self._failure = Dropped(NAME, "the stream was closed")
        self._configuring.fail(self._failure)
        self._upkeep_task.cancel()
        await self._socket.close()
        await asyncio.wait([self._upkeep_task])

    async def _run_upkeep(self) -> None:
        """Send whatever is due: silence, the end of the stream, changes of settings."""
        try:
            while True:
                for act in self._upkeep.due(self._time()):
                    await self._do(act)
                if self._upkeep.phase is Phase.CLOSING:
                    return
                if message := self._configuring.due(self._time()):
                    await self._socket.send(message)
                self._wakeup_at = min(self._upkeep.deadline, self._configuring.deadline)
                await self._wakeup.wait(self._wakeup_at)
                self._wakeup_at = 0.0
        except ProviderError as error:
            self._failure = self._failure or error
            self._socket.abort()

    async def _do(self, act: Act) -> None:
        match act:
            case Act.SILENCE:
                self._clock.silence(len(self._silence))
                await self._socket.send(self._silence)
            case Act.FORCE_END_TURN:
                await self._socket.send(protocol.encode_force_end_turn())
            case Act.CLOSE_STREAM:
                # No message may follow it, and responses to changes may no longer arrive.
                self._configuring.fail(Stalled(NAME, "finish", "the stream is ending"))
                await self._socket.send(protocol.encode_close_stream())
