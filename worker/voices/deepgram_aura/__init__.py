"""Voice `deepgram-aura`: Deepgram's streaming text-to-speech, speak v1 (Aura voices)."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic_settings import BaseSettings

from natterjack.audio import BYTES_PER_SAMPLE
from natterjack.plugin.voice import Voice, VoiceCapabilities, VoiceStream, VoiceStreamRequest
from natterjack.plugin.websocket import Connector

from . import options, protocol
from .connection import DeepgramAuraStream
from .pace import Window
from .phrases import Phrases
from .settings import DeepgramSpeakSettings


def _capabilities(settings: DeepgramSpeakSettings) -> VoiceCapabilities:
    return VoiceCapabilities(
        encodings=("linear16",),
        sample_rates=options.SAMPLE_RATES,
        max_phrase_characters=protocol.MAX_TEXT_CHARACTERS,
        characters_per_minute=settings.speak_characters_per_minute,
        flushes_per_minute=settings.speak_flushes_per_minute,
        max_seconds=settings.speak_max_seconds,
        price_per_1000_characters=settings.speak_price_per_1000_characters,
        currency="USD",
    )


class DeepgramAura(Voice):
    """Streams over one shared aiohttp session."""

    name: ClassVar[str] = options.NAME
    Settings: ClassVar[type[BaseSettings]] = DeepgramSpeakSettings
    capabilities = _capabilities(DeepgramSpeakSettings.model_construct())

    def __init__(self, settings: Any) -> None:
        assert isinstance(settings, DeepgramSpeakSettings)
        self._settings = settings
        self._api_key = settings.checked_key()
        self.capabilities = _capabilities(settings)
        self._connector = Connector(
            self.name,
            connect_timeout_seconds=settings.speak_connect_timeout_seconds,
            ping_seconds=settings.speak_ping_seconds,
            reads_always=False,
        )

    async def open(self, request: VoiceStreamRequest) -> VoiceStream:
        settings = self._settings
        query = options.query(settings, request)
        connect = protocol.connect_request(settings.url, self._api_key, query)
        socket = await self._connector.connect(connect, protocol.handshake_error)
        # Metadata is not awaited: the documentation does not agree on when it comes.
        return DeepgramAuraStream(
            socket,
            Phrases(BYTES_PER_SAMPLE[request.encoding]),
            Window(settings.speak_characters_per_minute),
            Window(settings.speak_flushes_per_minute),
            clear_seconds=settings.speak_clear_timeout_seconds,
            close_seconds=settings.speak_close_timeout_seconds,
        )

    async def close(self) -> None:
        await self._connector.close()
