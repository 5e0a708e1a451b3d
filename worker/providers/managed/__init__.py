"""Provider `managed`: a proxy that holds the provider's key and counts credit."""

from __future__ import annotations

import logging
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict
from pydantic_settings import BaseSettings

from natterjack.plugin.errors import PluginError, RequestRefused
from natterjack.plugin.options import parse_options
from natterjack.plugin.provider import Capabilities, Provider, ProviderStream, StreamRequest
from natterjack.plugin.websocket import Connector, ConnectRequest

from . import protocol
from .connection import Ending, ManagedStream, Muteness, wait_ready
from .memory import MuteMemory
from .settings import ManagedSettings
from .transcript import Texts

log = logging.getLogger(__name__)


class Options(BaseModel):
    """Schema of `StreamRequest.options`: the parameters of the first frame."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    model: str | None = None
    language: str | None = None
    interim_results: bool | None = None


def config(settings: ManagedSettings, request: StreamRequest) -> protocol.Config:
    """Build the parameters of the first frame. Raises: RequestRefused."""
    options = parse_options(protocol.NAME, Options, request.options)
    encoding, sample_rate, channels = request.format
    if (encoding, sample_rate, channels) != ("linear16", protocol.SAMPLE_RATE, 1):
        raise RequestRefused(
            protocol.NAME, "request", f"audio format {request.format} is not supported"
        )
    interims = settings.interim_results
    if options.interim_results is not None:
        interims = options.interim_results
    return protocol.Config(
        model=options.model or request.model or settings.model,
        language=options.language or request.language or settings.language,
        interim_results=interims,
    )


def _capabilities(settings: ManagedSettings) -> Capabilities:
    return Capabilities(
        encodings=("linear16",),
        sample_rates=(protocol.SAMPLE_RATE,),
        frame_ms=protocol.FRAME_MS,
        # A text whose position is not known yet is an interim, regardless of the request.
        interims=True,
        words="estimated",
        confidences=False,
        turns=False,
        finalize=settings.extensions == "on",
        answers_silence=False,
        catch_up_rate=settings.catch_up_rate,
        price_per_hour=settings.price_per_hour,
        currency=settings.currency,
        billing="audio",
    )


class ManagedProvider(Provider):
    """Streams over one shared aiohttp session. `open` returns once the proxy is ready."""

    name: ClassVar[str] = protocol.NAME
    Settings: ClassVar[type[BaseSettings]] = ManagedSettings
    capabilities = _capabilities(ManagedSettings.model_construct())

    def __init__(self, settings: Any) -> None:
        assert isinstance(settings, ManagedSettings)
        if not settings.url:
            raise PluginError("MANAGED_URL is not set; set it to the address of the proxy")
        if settings.token is None or not settings.token.get_secret_value().strip():
            raise PluginError(
                "MANAGED_TOKEN is not set; set it to a token of an account of the proxy"
            )
        if settings.url.startswith("ws://"):
            log.warning("connecting to the proxy without encryption, at %s", settings.url)
        self._settings = settings
        self._token = settings.token
        self.capabilities = _capabilities(settings)
        self._memory = MuteMemory()
        self._connector = Connector(
            self.name,
            connect_timeout_seconds=settings.connect_timeout_seconds,
            ping_seconds=settings.ping_seconds,
        )

    async def open(self, request: StreamRequest) -> ProviderStream:
        settings = self._settings
        auth = protocol.Auth(self._token, config(settings, request))
        address = ConnectRequest(settings.url + protocol.PATH)
        async with self._connector.opening(address) as socket:
            ready = await wait_ready(socket, auth, settings.ready_timeout_seconds)
        known = settings.extensions == "on"
        extended = known or (settings.extensions == "auto" and ready.session_id is not None)
        ending = Ending(
            extended=extended,
            finalize=known,
            silence=settings.end_silence_seconds,
            settle=settings.end_settle_seconds,
            wait=settings.end_wait_seconds,
        )
        texts = Texts(hold_seconds=settings.hold_seconds, quiet_seconds=settings.quiet_seconds)
        muteness = Muteness(request.session_id, self._memory, settings.quiet_seconds)
        return ManagedStream(socket, texts, ending, muteness, ready.session_id)

    async def close(self) -> None:
        await self._connector.close()
