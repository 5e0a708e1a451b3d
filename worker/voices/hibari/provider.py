"""The embedded voice: its capabilities, its checks of requests, and the shared engine."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from natterjack.plugin.errors import PluginError, RequestRefused, Unavailable
from natterjack.plugin.options import parse_options
from natterjack.plugin.voice import Voice, VoiceCapabilities, VoiceStream, VoiceStreamRequest

from . import model
from .settings import HibariOptions, HibariSettings

if TYPE_CHECKING:  # the engine and numpy are loaded with the first stream
    from .engine import Engine


class HibariVoice(Voice):
    """Hibari in this process: offline, without a key, free of charge."""

    name = "hibari"
    Settings = HibariSettings
    capabilities: VoiceCapabilities = VoiceCapabilities(
        sample_rates=(24_000,), marks=True, configurable=frozenset({"speed"})
    )

    def __init__(self, settings: HibariSettings) -> None:
        """Raises PluginError if the voice is not installed."""
        self.settings = settings
        self._folder = model.find()
        self._executor = ThreadPoolExecutor(settings.threads, thread_name_prefix="hibari")
        self._engine: Future[Engine] | None = None
        self._closed = False

    async def open(self, request: VoiceStreamRequest) -> VoiceStream:
        speed = self._speed(request)
        if self._closed:
            raise Unavailable(self.name, "connect", "the voice is closed")
        if self._engine is None or _failed(self._engine):
            self._engine = self._executor.submit(_load, self._folder)
        loading = asyncio.wrap_future(self._engine)
        # Not awaited directly: other streams may wait for the same engine.
        await asyncio.wait({loading})
        try:
            engine = loading.result()
        except PluginError as error:
            raise RequestRefused(self.name, "request", str(error)) from error
        except (RuntimeError, asyncio.CancelledError) as error:  # the voice was closed meanwhile
            raise Unavailable(self.name, "connect", "the voice is closed") from error
        from .stream import HibariStream

        return HibariStream(self.name, engine, self._executor, speed)

    async def close(self) -> None:
        """Start no more work. A piece that is being synthesized is finished in its thread."""
        self._closed = True
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _speed(self, request: VoiceStreamRequest) -> float:
        """Check the request; return the speed of its stream. Raises RequestRefused."""
        if (request.encoding, request.sample_rate) != ("linear16", 24_000):
            raise self._refusal(
                f"audio is linear16 at 24000 Hz, not {request.encoding} at {request.sample_rate} Hz"
            )
        if request.language and _primary(request.language) != "en":
            raise self._refusal(f"language {request.language!r}: this voice speaks English only")
        if request.model not in (None, model.NAME):
            raise self._refusal(f"model {request.model!r}: the only voice is {model.NAME!r}")
        options = parse_options(self.name, HibariOptions, request.options)
        return self.settings.speed if options.speed is None else options.speed

    def _refusal(self, message: str) -> RequestRefused:
        return RequestRefused(self.name, "request", message)


def _failed(engine: Future[Engine]) -> bool:
    return engine.done() and (engine.cancelled() or engine.exception() is not None)


def _load(folder: Path) -> Engine:
    """Load the engine; runs in a thread. Raises PluginError."""
    try:
        from .engine import Engine
    except ImportError as error:
        raise PluginError(f"hibari: cannot import the engine: {error}; {model.INSTALL}") from error
    return Engine(folder)


def _primary(language: str) -> str:
    """The primary subtag of a language tag (BCP 47): `en` for `en-US`."""
    return language.replace("_", "-").partition("-")[0].lower()
