"""Provider `deepgram`: Deepgram's streaming speech-to-text, listen v1 (Nova models)."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic_settings import BaseSettings

from natterjack.plugin.base import Balance
from natterjack.plugin.provider import (
    Capabilities,
    Provider,
    ProviderStream,
    StreamRequest,
)
from natterjack.plugin.websocket import Connector

from . import options, protocol
from .account import Account
from .connection import DeepgramStream
from .settings import DeepgramSettings
from .silences import Silences
from .transcript import Transcript

_SESSIONS = 1000
"""How many sessions have their silences remembered."""


def _capabilities(settings: DeepgramSettings) -> Capabilities:
    return Capabilities(
        # Deepgram docs, "Encoding", "Sample Rate": raw audio is accepted at any rate.
        encodings=("linear16", "mulaw", "alaw"),
        max_channels=options.MAX_CHANNELS if settings.multichannel else 1,
        interims=settings.interim_results,
        words="timed",
        confidences=True,
        turns=True,
        finalize=True,
        configurable=protocol.CONFIGURABLE,
        # Deepgram docs, "Interim Results": silence yields results with an empty transcript.
        answers_silence=True,
        catch_up_rate=settings.catch_up_rate,
        price_per_hour=settings.price_per_hour,
        currency="USD",
        billing="audio",
    )


class DeepgramProvider(Provider):
    """Streams over one shared aiohttp session.

    `open` completes the handshake, so that a refusal is known before any audio is sent. Deepgram
    closes a connection that receives no audio within ten seconds of opening, even if keepalives
    are sent (Deepgram docs, troubleshooting page), and sending silence instead would shift all
    times. Open a stream when its first audio is available.
    """

    name: ClassVar[str] = options.NAME
    Settings: ClassVar[type[BaseSettings]] = DeepgramSettings
    capabilities = _capabilities(DeepgramSettings.model_construct())

    def __init__(self, settings: Any) -> None:
        assert isinstance(settings, DeepgramSettings)
        self._settings = settings
        self._api_key = settings.checked_key()
        self.capabilities = _capabilities(settings)
        self._connector = Connector(
            self.name,
            connect_timeout_seconds=settings.connect_timeout_seconds,
            ping_seconds=settings.ping_seconds,
        )
        self._silences: dict[str, Silences] = {}
        self._account: Account | None = None
        admin_key = settings.checked_admin_key()
        if admin_key is not None:
            self.balance_seconds = settings.balance_seconds
            self._account = Account(
                settings.api_url,
                admin_key,
                settings.project_id,
                timeout_seconds=settings.connect_timeout_seconds,
            )

    async def open(self, request: StreamRequest) -> ProviderStream:
        listen = options.listen(self._settings, request)
        connect = protocol.connect_request(self._settings.url, self._api_key, listen)
        socket = await self._connector.connect(connect, protocol.handshake_error)
        transcript = Transcript(
            interims=listen.interim_results,
            channels=listen.channels,
            channel_wait_seconds=self._settings.channel_wait_seconds,
            silences=self._silences_of(request.session_id),
        )
        return DeepgramStream(socket, transcript, request.format, self._settings.keepalive_seconds)

    def _silences_of(self, session_id: str) -> Silences:
        silences = self._silences.pop(session_id, None) or Silences()
        self._silences[session_id] = silences  # now the newest
        if len(self._silences) > _SESSIONS:
            del self._silences[next(iter(self._silences))]
        return silences

    async def balance(self) -> list[Balance]:
        return [] if self._account is None else await self._account.balance()

    async def close(self) -> None:
        await self._connector.close()
