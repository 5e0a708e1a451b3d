"""Provider `deepgram-rest`: Deepgram's speech-to-text for recordings, as a fallback for streaming.

It has no interims, and a text arrives about a second after each pause.
"""

from __future__ import annotations

import logging
from typing import Any, ClassVar

from pydantic_settings import BaseSettings

from natterjack.audio import AudioFormat
from natterjack.plugin.errors import PluginError, RequestRefused
from natterjack.plugin.provider import (
    CHECK_RATE,
    Capabilities,
    Provider,
    ProviderStream,
    StreamRequest,
)

from . import options, protocol
from .client import Client
from .segmenter import Segmenter
from .settings import DeepgramRestSettings
from .stream import DeepgramRestStream

log = logging.getLogger(__name__)


def _capabilities(settings: DeepgramRestSettings) -> Capabilities:
    return Capabilities(
        encodings=("linear16",),  # the format in which pauses are detected
        max_channels=options.MAX_CHANNELS if settings.multichannel else 1,
        interims=False,
        words="timed",
        confidences=True,
        turns=True,
        # No message arrives during speech or silence; the timeout of a request reveals a mute
        # provider.
        answers_silence=False,
        catch_up_rate=settings.catch_up_rate,
        price_per_hour=settings.price_per_hour,
        currency="USD",
        billing="audio",
    )


class DeepgramRestProvider(Provider):
    """Streams over one shared aiohttp session.

    `open` sends nothing, so a refusal is only known with the first segment of speech.
    """

    name: ClassVar[str] = options.NAME
    Settings: ClassVar[type[BaseSettings]] = DeepgramRestSettings
    capabilities = _capabilities(DeepgramRestSettings.model_construct())

    def __init__(self, settings: Any) -> None:
        assert isinstance(settings, DeepgramRestSettings)
        if settings.api_key is None or not settings.api_key.get_secret_value().strip():
            raise PluginError(
                "DEEPGRAM_API_KEY (or DEEPGRAM_REST_API_KEY) is not set; set it to a Deepgram API "
                "key"
            )
        if settings.url.startswith("http://"):
            log.warning("connecting to Deepgram without encryption, at %s", settings.url)
        self._settings = settings
        self._api_key = settings.api_key
        self.capabilities = _capabilities(settings)
        self._client = Client(
            connect_timeout_seconds=settings.connect_timeout_seconds,
            answer_timeout_seconds=settings.answer_timeout_seconds,
        )

    async def open(self, request: StreamRequest) -> ProviderStream:
        settings = self._settings
        plan = options.plan(settings, request)
        return DeepgramRestStream(
            self._client,
            protocol.post(settings.url, self._api_key, plan),
            request.format,
            Segmenter(
                pause_seconds=settings.pause_seconds,
                max_segment_seconds=settings.max_segment_seconds,
            ),
            billed_channels=plan.channels,
            max_requests=settings.max_requests,
        )

    async def check(self) -> str:
        """Post an empty recording: the key is judged first, and an empty recording is refused."""
        plan = options.plan(
            self._settings, StreamRequest("check", AudioFormat("linear16", CHECK_RATE, 1))
        )
        try:
            await self._client.post(protocol.post(self._settings.url, self._api_key, plan), b"")
        except RequestRefused as error:
            if error.cause != "request":
                raise
        return "the key was accepted"

    async def close(self) -> None:
        await self._client.close()
