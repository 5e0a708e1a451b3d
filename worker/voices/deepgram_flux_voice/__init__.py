"""Voice `deepgram-flux-voice`: Deepgram's turn-based streaming text-to-speech, speak v2 (Flux)."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

from pydantic_settings import BaseSettings

from natterjack.audio import BYTES_PER_SAMPLE
from natterjack.plugin.errors import RemoteProtocolError, Unavailable
from natterjack.plugin.voice import Voice, VoiceCapabilities, VoiceStream, VoiceStreamRequest
from natterjack.plugin.websocket import Closed, Connector, Socket

from . import options, protocol
from .clock import SessionClock
from .connection import DeepgramFluxVoiceStream
from .settings import DeepgramFluxVoiceSettings
from .turns import Turns


def _capabilities(settings: DeepgramFluxVoiceSettings) -> VoiceCapabilities:
    return VoiceCapabilities(
        encodings=("linear16",),
        sample_rates=options.SAMPLE_RATES,
        max_phrase_characters=settings.flux_voice_phrase_characters,
        reports_spoken=True,
        configurable=options.CONFIGURABLE,
        max_seconds=settings.flux_voice_max_seconds,
        price_per_1000_characters=settings.flux_voice_price_per_1000_characters,
        currency="USD",
    )


class DeepgramFluxVoice(Voice):
    """Streams over one shared aiohttp session."""

    name: ClassVar[str] = options.NAME
    Settings: ClassVar[type[BaseSettings]] = DeepgramFluxVoiceSettings
    capabilities = _capabilities(DeepgramFluxVoiceSettings.model_construct())

    def __init__(self, settings: Any) -> None:
        assert isinstance(settings, DeepgramFluxVoiceSettings)
        self._settings = settings
        self._api_key = settings.checked_key()
        self.capabilities = _capabilities(settings)
        self._connector = Connector(
            self.name,
            connect_timeout_seconds=settings.flux_voice_connect_timeout_seconds,
            ping_seconds=settings.flux_voice_ping_seconds,
            reads_always=False,
        )

    async def open(self, request: VoiceStreamRequest) -> VoiceStream:
        settings = self._settings
        query = options.query(settings, request)
        connect = protocol.connect_request(settings.url, self._api_key, query)
        async with self._connector.opening(connect, protocol.handshake_error) as socket:
            connected = await self._greeting(socket)
        frame_bytes = BYTES_PER_SAMPLE[request.encoding]
        clock = SessionClock(
            request.sample_rate, frame_bytes, rebases=settings.flux_voice_rebased_clock
        )
        stream = DeepgramFluxVoiceStream(
            socket,
            Turns(clock, frame_bytes, settings.flux_voice_message_characters),
            interrupt_seconds=settings.flux_voice_interrupt_timeout_seconds,
            configure_seconds=settings.flux_voice_configure_timeout_seconds,
            close_seconds=settings.flux_voice_close_timeout_seconds,
        )
        stream.reference = connected.request_id or stream.reference
        return stream

    async def close(self) -> None:
        await self._connector.close()

    async def _greeting(self, socket: Socket) -> protocol.Connected:
        """Wait for Connected, the first message."""
        bound = self._settings.flux_voice_connected_timeout_seconds
        try:
            async with asyncio.timeout(bound):
                while not isinstance(received := await socket.receive(), Closed):
                    if isinstance(received, bytes):
                        continue
                    try:
                        message = protocol.decode(received)
                    except RemoteProtocolError:
                        continue  # only Connected matters here
                    if isinstance(message, protocol.Connected):
                        return message
                    if isinstance(message, protocol.FatalError):
                        raise protocol.fatal_error(message)
        except TimeoutError:
            raise Unavailable(
                self.name, "connect", f"no Connected message within {bound:g} s"
            ) from None
        raise protocol.close_error(received)
