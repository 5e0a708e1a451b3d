"""Provider `speechmatics-agent`: Speechmatics' Agent STT over a WebSocket."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic_settings import BaseSettings

from natterjack.plugin.provider import Capabilities, StreamRequest

from ..speechmatics.provider import RealtimeProvider
from . import options
from .settings import SpeechmaticsAgentSettings
from .state import AgentState


def _capabilities(settings: SpeechmaticsAgentSettings) -> Capabilities:
    return Capabilities(
        # Specification, AudioFormatRaw: mono; there are no companded encodings.
        encodings=("linear16",),
        sample_rates=(8000, 16000),
        interims=settings.agent_enable_partials,
        words="estimated",
        confidences=False,
        turns=True,
        # Specification, ForceEndOfUtterance: the server ignores it if it ends turns itself.
        finalize=settings.agent_turn_detection_mode == "external",
        configurable=options.CONFIGURABLE,
        # Each frame is acknowledged, including silence.
        answers_silence=True,
        catch_up_rate=settings.agent_catch_up_rate,
        price_per_hour=settings.agent_price_per_hour,
        currency="USD",
        billing="audio",
    )


class SpeechmaticsAgentProvider(RealtimeProvider):
    """Speechmatics' Agent STT."""

    name: ClassVar[str] = options.NAME
    Settings: ClassVar[type[BaseSettings]] = SpeechmaticsAgentSettings
    capabilities = _capabilities(SpeechmaticsAgentSettings.model_construct())

    def __init__(self, settings: Any) -> None:
        assert isinstance(settings, SpeechmaticsAgentSettings)
        super().__init__(
            settings,
            settings.agent_url,
            final_timeout_seconds=settings.agent_final_timeout_seconds,
            silence_margin_seconds=settings.agent_silence_margin_seconds,
        )
        self._settings = settings
        self.capabilities = _capabilities(settings)

    def exchange(self, request: StreamRequest) -> AgentState:
        made = options.recognition(self._settings, request)
        return AgentState(made, self.limits, self._settings.agent_noise_margin_seconds)
