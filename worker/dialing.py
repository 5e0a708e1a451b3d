"""Opening the provider streams of sessions."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, NamedTuple, Protocol, TypeVar

from natterjack.audio import AudioFormat
from natterjack.plugin.entry_points import VOICES_GROUP, available
from natterjack.plugin.errors import PluginError, RequestRefused
from natterjack.plugin.provider import Provider, ProviderStream, StreamRequest
from natterjack.plugin.voice import Voice, VoiceStream, VoiceStreamRequest
from natterjack.spec import SessionSpec
from natterjack.voice.spec import VoiceSpec
from worker.audio import convert
from worker.metering.prices import Price, price_of
from worker.providers.breaker import Breaker
from worker.providers.chain import Chain
from worker.providers.loading import Providers, Voices
from worker.settings import WorkerSettings


class Stream(Protocol):
    """An open stream of any kind of provider."""

    async def close(self) -> None: ...


class OpenedStream(Protocol):
    """A stream that a dialer has opened."""

    @property
    def stream(self) -> Stream: ...


O = TypeVar("O", bound=OpenedStream)  # noqa: E741 - what is opened
O_co = TypeVar("O_co", bound=OpenedStream, covariant=True)


class Registry(Protocol):
    """The providers of one kind; `worker.providers.loading.Plugins` implements it."""

    def breaker(self, name: str) -> Breaker: ...
    def known(self, name: str) -> bool: ...


class Dialer(Protocol[O_co]):
    """Opens the streams of one kind of session."""

    @property
    def names(self) -> list[str]:
        """The session's providers, in the order of preference."""

    @property
    def plugins(self) -> Registry: ...

    def dial(
        self, name: str, chain: Chain, configured: dict[str, Any]
    ) -> Coroutine[Any, Any, O_co]:
        """Open a stream to provider `name` of the chain with the settings that were changed during
        the session. Raises at once: RequestRefused, PluginError. When awaited: ProviderError."""


class DialingServices(Protocol):
    """The services that dialing needs; `worker.services.Services` has them."""

    @property
    def providers(self) -> Providers: ...
    @property
    def settings(self) -> WorkerSettings: ...
    @property
    def prices(self) -> dict[str, float]: ...


class Opened(NamedTuple):
    """An open stream of transcripts with its provider, its converter and its price."""

    provider: Provider
    stream: ProviderStream
    converter: convert.Converter
    price: Price


class TranscriptDialer:
    """Opens the streams of a session that transcribes."""

    __slots__ = ("_prices", "_spec", "names", "plugins")

    def __init__(self, services: DialingServices, spec: SessionSpec) -> None:
        self.plugins = services.providers
        self.names = spec.providers or services.settings.providers
        self._spec = spec
        self._prices = services.prices

    def price(self, name: str, model: str | None, language: str | None, channels: int) -> Price:
        """Raises PluginError."""
        return price_of(
            name, self.plugins.get(name).plugin, model, language, channels, self._prices
        )

    def dial(
        self, name: str, chain: Chain, configured: dict[str, Any]
    ) -> Coroutine[Any, Any, Opened]:
        """See Dialer."""
        provider = self.plugins.get(name)
        capabilities = provider.capabilities
        source = self._spec.audio_format
        target = convert.wire_format(source, capabilities)
        try:
            converter = convert.Converter(source, target, capabilities.frame_ms)
        except ValueError as error:
            raise RequestRefused(name, "request", str(error)) from None
        changed = {key: v for key, v in configured.items() if key in capabilities.configurable}
        request = chain.request(self._spec, target, changed)
        price = self.price(name, request.model, request.language, target.channels)
        return _opened(provider, request, converter, price)


async def _opened(
    provider: Provider, request: StreamRequest, converter: convert.Converter, price: Price
) -> Opened:
    return Opened(provider, await provider.open(request), converter, price)


_UNSET = "unset"
"""The name of the voice if neither the request nor the worker names one."""


class VoiceServices(Protocol):
    """The services that dialing a voice needs; `worker.services.Services` has them."""

    @property
    def voices(self) -> Voices: ...
    @property
    def settings(self) -> WorkerSettings: ...


class OpenedVoice(NamedTuple):
    """An open stream of speech with its voice and the format of its audio."""

    provider: Voice
    stream: VoiceStream
    audio_format: AudioFormat


class VoiceDialer:
    """Opens the streams of a voice session."""

    __slots__ = ("_spec", "names", "plugins")

    def __init__(self, services: VoiceServices, spec: VoiceSpec) -> None:
        self.plugins = services.voices
        self.names = spec.providers or services.settings.voices or [_UNSET]
        self._spec = spec

    def dial(
        self, name: str, chain: Chain, configured: dict[str, Any]
    ) -> Coroutine[Any, Any, OpenedVoice]:
        """See Dialer. PluginError too if neither the request nor the worker names a voice."""
        if name == _UNSET:
            installed = ", ".join(available(VOICES_GROUP)) or "none"
            raise PluginError(
                "no voice is named: set WORKER_VOICE for the workers, or `voice` in the session's "
                f"request (installed are {installed})"
            )
        voice, spec = self.plugins.get(name), self._spec
        capabilities = voice.capabilities
        rates, rate = capabilities.sample_rates, spec.sample_rate
        if rates and rate not in rates:
            above = [one for one in rates if one > rate]
            rate = min(above) if above else max(rates)
        encodings = capabilities.encodings
        encoding = "linear16" if "linear16" in encodings else encodings[0]
        model, options = chain.own_options(spec.options, spec.model)
        options |= {key: v for key, v in configured.items() if key in capabilities.configurable}
        request = VoiceStreamRequest(
            session_id=spec.session_id,
            encoding=encoding,
            sample_rate=rate,
            model=model,
            language=spec.language,
            options=options,
        )
        return _opened_voice(voice, request, AudioFormat(encoding, rate, 1))


async def _opened_voice(
    voice: Voice, request: VoiceStreamRequest, audio_format: AudioFormat
) -> OpenedVoice:
    return OpenedVoice(voice, await voice.open(request), audio_format)
