"""One stream to Deepgram: reads and decodes messages, writes audio. No policy."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

from natterjack.audio import AudioFormat
from natterjack.plugin.errors import Dropped, ProviderError, RemoteProtocolError
from natterjack.plugin.provider import Notice, ProviderEvent
from natterjack.plugin.websocket import RECEIVED, Closed, Socket, WebSocketStream

from .. import wire
from . import protocol
from .configure import ANSWER_SECONDS, Configuring
from .options import NAME
from .transcript import Transcript


class DeepgramStream(WebSocketStream):
    """An open connection to listen v1."""

    def __init__(
        self,
        socket: Socket,
        transcript: Transcript,
        audio_format: AudioFormat,
        keepalive_seconds: float,
    ) -> None:
        super().__init__(socket, keepalive_seconds=keepalive_seconds)
        self._bytes_per_second = audio_format.sample_rate * audio_format.frame_bytes
        self.reference = socket.headers.get("dg-request-id")
        self._transcript = transcript
        self._configuring = Configuring(socket.send, ANSWER_SECONDS)
        self._over = False
        """The server has sent its summary."""
        self._summary: list[ProviderEvent] = []

    def encode_keepalive(self) -> str:
        return protocol.encode_keepalive()

    def encode_finish(self) -> str:
        return protocol.encode_close_stream()

    async def finish(self) -> None:
        # Deepgram docs, "Close Stream": no message may follow it.
        self._configuring.finish()
        await super().finish()

    async def finalize(self) -> None:
        """Request finals for all audio sent so far.

        This splits a word that is being spoken, so use it at the end of a turn.
        """
        await self.socket.send(protocol.encode_finalize())

    async def configure(self, changes: Mapping[str, Any]) -> None:
        """Apply changes; return once the provider confirms them.

        Changes that are requested meanwhile are sent together afterwards. Without a response
        (older servers), the change counts as applied, with a Notice `configure_unanswered`.

        Raises: RequestRefused with the provider's reason (the stream continues unchanged).
        """
        await self._configuring.ask(changes)

    async def __aiter__(self) -> AsyncIterator[ProviderEvent]:
        try:
            while not self._over:
                message = await self.socket.receive()
                if isinstance(message, Closed):
                    self.on_close(message)
                    break
                for event in self.decode(message):
                    yield event
                    del event  # keep no message alive while waiting for the next
            if (left := self._transcript.unfinalized) is not None:
                for event in self._summary:
                    yield event
                what = f"interims up to {left.end:.1f} s never became final"
                raise RemoteProtocolError(NAME, what, readable=left)
        except ProviderError as error:
            self._configuring.fail(error)
            raise
        self._configuring.end()
        for event in (*self._transcript.end(), *self._configuring.notices(), *self._summary):
            yield event

    def on_close(self, closed: Closed) -> None:
        error = self.failure or protocol.close_error(closed, finishing=self.finish_sent)
        if error is not None:
            raise error

    def decode(self, message: str | bytes) -> list[ProviderEvent]:
        events: list[ProviderEvent] = []
        for item in self._messages(message):
            if isinstance(item, protocol.ConfigureAnswer):
                self._configuring.answered(item)
            received = self._transcript.receive(item)
            if self.finish_sent and isinstance(item, protocol.Summary):
                self._over, self._summary = True, received
            else:
                events += received
        events += self._configuring.notices()
        return events or [RECEIVED]

    def _messages(self, message: str | bytes) -> tuple[protocol.Message, ...]:
        """Decode a message; one that is malformed and harmless becomes a notice.

        Raises: RemoteProtocolError for any other. The audio has to be sent again on another stream.
        """
        latest = self.sent_bytes / self._bytes_per_second + wire.AHEAD_SECONDS
        try:
            return protocol.decode(message, interims=self._transcript.interims, latest=latest)
        except wire.Harmless as error:
            return (Notice("malformed", str(error), harmless=True),)

    async def close(self) -> None:
        self._configuring.fail(self.failure or Dropped(NAME, "the stream was closed"))
        await super().close()
