"""Provider `speechmatics`: Speechmatics' realtime speech-to-text over a WebSocket."""

from __future__ import annotations

import asyncio
import functools
import logging
import uuid
from typing import Any, ClassVar

from pydantic import SecretStr
from pydantic_settings import BaseSettings

from natterjack.plugin.errors import PluginError, ProviderError
from natterjack.plugin.provider import Capabilities, Provider, ProviderStream, StreamRequest
from natterjack.plugin.websocket import Connector

from . import connection, options, protocol
from .keys import Keys
from .settings import SpeechmaticsSettings
from .state import Limits
from .window import Patience

log = logging.getLogger(__name__)


def _capabilities(settings: SpeechmaticsSettings) -> Capabilities:
    return Capabilities(
        # Specification, AudioFormatRaw: mono, at any rate; there is no A-law.
        encodings=("linear16", "mulaw"),
        interims=settings.enable_partials,
        words="timed",
        confidences=True,
        turns=True,
        finalize=True,
        configurable=options.CONFIGURABLE,
        # Each frame is acknowledged, including silence.
        answers_silence=True,
        catch_up_rate=settings.catch_up_rate,
        price_per_hour=settings.price_per_hour,
        currency="USD",
        billing="audio",
    )


class SpeechmaticsProvider(Provider):
    """Streams over one shared aiohttp session.

    `open` returns once recognition has started. A successful handshake is not enough, since quota
    and key are checked after it (Speechmatics docs, "Error handling").
    """

    name: ClassVar[str] = options.NAME
    Settings: ClassVar[type[BaseSettings]] = SpeechmaticsSettings
    capabilities = _capabilities(SpeechmaticsSettings.model_construct())

    def __init__(self, settings: Any) -> None:
        assert isinstance(settings, SpeechmaticsSettings)
        self._settings = settings
        self._keys = Keys(_api_key(settings), settings)
        self.capabilities = _capabilities(settings)
        for url in (settings.url, settings.management_url):
            if url.startswith(("ws://", "http://")):
                log.warning("connecting to Speechmatics without encryption, at %s", url)
        self._limits = Limits(
            max_unacknowledged_seconds=settings.max_unacknowledged_seconds,
            max_unacknowledged_frames=settings.max_unacknowledged_frames,
            final_timeout_seconds=settings.final_timeout_seconds,
            silence_margin_seconds=settings.silence_margin_seconds,
        )
        self._patience = Patience(settings.retry_seconds)
        self._connector = Connector(
            self.name,
            connect_timeout_seconds=settings.connect_timeout_seconds,
            ping_seconds=settings.ping_seconds,
        )

    async def open(self, request: StreamRequest) -> ProviderStream:
        recognition = options.recognition(self._settings, request)
        failed = functools.partial(self._failed, request.session_id)
        now = asyncio.get_running_loop().time()
        await asyncio.sleep(self._patience.wait(request.session_id, now))
        try:
            stream = await self._open(recognition)
        except ProviderError as error:
            failed(error)
            raise
        stream.on_failure = failed
        return stream

    async def _open(self, recognition: options.Recognition) -> connection.SpeechmaticsStream:
        settings = self._settings
        key = await self._keys.get()
        connect = protocol.connect_request(settings.url, key, settings.app, str(uuid.uuid4()))
        async with self._connector.opening(connect) as socket:
            return await connection.start(
                socket, recognition, self._limits, settings.start_timeout_seconds
            )

    def _failed(self, session_id: str, error: ProviderError) -> None:
        if error.cause == "auth":
            self._keys.forget()
        self._patience.failed(session_id, error, asyncio.get_running_loop().time())

    async def close(self) -> None:
        await self._connector.close()
        await self._keys.close()


def _api_key(settings: SpeechmaticsSettings) -> SecretStr:
    """Return the API key, or the temporary key from the settings instead. Raises: PluginError."""
    key = settings.api_key or settings.temporary_key
    if key is None or not key.get_secret_value().strip():
        raise PluginError("SPEECHMATICS_API_KEY is not set; set it to a Speechmatics API key")
    if settings.temporary_keys and settings.api_key is None:
        raise PluginError("SPEECHMATICS_API_KEY is not set; it is needed to obtain temporary keys")
    return key
