"""Provider `speechmatics`: Speechmatics' realtime speech-to-text over a WebSocket."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic_settings import BaseSettings

from natterjack.plugin.provider import Capabilities, StreamRequest

from . import options
from .provider import RealtimeProvider
from .settings import SpeechmaticsSettings
from .state import StreamState


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


class SpeechmaticsProvider(RealtimeProvider):
    """Speechmatics' realtime API."""

    name: ClassVar[str] = options.NAME
    Settings: ClassVar[type[BaseSettings]] = SpeechmaticsSettings
    capabilities = _capabilities(SpeechmaticsSettings.model_construct())

    def __init__(self, settings: Any) -> None:
        assert isinstance(settings, SpeechmaticsSettings)
        super().__init__(
            settings,
            settings.url,
            final_timeout_seconds=settings.final_timeout_seconds,
            silence_margin_seconds=settings.silence_margin_seconds,
        )
        self._settings = settings
        self.capabilities = _capabilities(settings)

    def exchange(self, request: StreamRequest) -> StreamState:
        return StreamState(options.recognition(self._settings, request), self.limits)
