"""Provider `deepgram-flux`: Deepgram's turn-based streaming speech-to-text, listen v2 (Flux)."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Any, ClassVar

from pydantic_settings import BaseSettings

from natterjack.plugin.errors import ProviderError, RemoteProtocolError, Unavailable
from natterjack.plugin.provider import Capabilities, Provider, ProviderStream, StreamRequest
from natterjack.plugin.websocket import Closed, Connector, Socket

from . import options, protocol
from .clock import Clock
from .configure import Configuring
from .connection import DeepgramFluxStream
from .open_turn import CommitRules
from .settings import DeepgramFluxSettings
from .transcript import Transcript
from .upkeep import FRAME_SECONDS, Upkeep, Waits

_REMEMBERED_SESSIONS = 1000


def _capabilities(settings: DeepgramFluxSettings) -> Capabilities:
    return Capabilities(
        # Deepgram docs, "Flux configuration": raw audio of one channel is accepted as it is.
        encodings=("linear16", "mulaw", "alaw"),
        sample_rates=options.SAMPLE_RATES,
        max_channels=1,
        frame_ms=round(1000 * FRAME_SECONDS),
        interims=True,
        words="timed",
        confidences=True,
        turns=True,
        finalize=True,
        configurable=options.CONFIGURABLE,
        # Deepgram docs, "Flux state machine": an Update for every 0.25 s of audio, including
        # silence.
        answers_silence=True,
        catch_up_rate=settings.flux_catch_up_rate,
        price_per_hour=settings.flux_price_per_hour,
        currency="USD",
        billing="audio",
    )


class DeepgramFluxProvider(Provider):
    """Streams over one shared aiohttp session."""

    name: ClassVar[str] = options.NAME
    Settings: ClassVar[type[BaseSettings]] = DeepgramFluxSettings
    capabilities = _capabilities(DeepgramFluxSettings.model_construct())

    def __init__(self, settings: Any) -> None:
        assert isinstance(settings, DeepgramFluxSettings)
        self._settings = settings
        self._api_key = settings.checked_key()
        self._commit = CommitRules(
            settings.flux_commit_updates,
            settings.flux_commit_seconds,
            settings.flux_commit_length_seconds,
        )
        self._waits = Waits(
            settings.flux_silence_seconds,
            settings.flux_keepalive_seconds,
            settings.flux_finish_silence_seconds,
        )
        self.capabilities = _capabilities(settings)
        self._connector = Connector(
            self.name,
            connect_timeout_seconds=settings.flux_connect_timeout_seconds,
            ping_seconds=settings.flux_ping_seconds,
        )
        self._failed: OrderedDict[str, None] = OrderedDict()
        """Sessions whose last stream ended with an error code that is not in KNOWN_ERRORS."""

    async def open(self, request: StreamRequest) -> ProviderStream:
        listen = options.listen(self._settings, request)
        connect = protocol.connect_request(self._settings.url, self._api_key, listen)
        async with self._connector.opening(connect, protocol.handshake_error) as socket:
            greeting = await self._greeting(socket, request.session_id)
        clock = Clock(request.format)
        now = asyncio.get_running_loop().time()
        stream = DeepgramFluxStream(
            socket,
            listen.model,
            request.format,
            clock,
            Transcript(clock, self._commit, rewrites_numbers=listen.rewrites_numbers),
            Upkeep(self._waits, clock, request.format.encoding, now),
            Configuring(self._settings.flux_configure_timeout_seconds),
            lambda error, productive: self._fatal(request.session_id, error, productive=productive),
        )
        assert isinstance(greeting.message, protocol.Connected)
        stream.reference = greeting.message.request_id or stream.reference
        stream.sequence.check(greeting.sequence)
        return stream

    async def close(self) -> None:
        await self._connector.close()

    async def _greeting(self, socket: Socket, session_id: str) -> protocol.Decoded:
        """Wait for Connected: audio sent before it may be lost (Deepgram docs, "Flux
        quickstart")."""
        bound = self._settings.flux_connected_timeout_seconds
        try:
            async with asyncio.timeout(bound):
                while not isinstance(message := await socket.receive(), Closed):
                    try:
                        decoded = protocol.decode(message)
                    except RemoteProtocolError:
                        continue  # only Connected matters here
                    if isinstance(decoded.message, protocol.Connected):
                        return decoded
                    if isinstance(decoded.message, protocol.FatalError):
                        raise self._fatal(session_id, decoded.message, productive=False)
        except TimeoutError:
            raise Unavailable(
                self.name, "connect", f"no Connected message within {bound:g} s"
            ) from None
        error = protocol.close_error(message, finishing=False)
        assert error is not None
        raise error

    def _fatal(
        self, session_id: str, error: protocol.FatalError, *, productive: bool
    ) -> ProviderError:
        """The error for an Error message; an undocumented code is retried once."""
        if error.code in protocol.KNOWN_ERRORS:
            return protocol.fatal_error(error, again=False)
        again = session_id in self._failed and not productive
        self._failed[session_id] = None
        while len(self._failed) > _REMEMBERED_SESSIONS:
            self._failed.popitem(last=False)
        return protocol.fatal_error(error, again=again)
