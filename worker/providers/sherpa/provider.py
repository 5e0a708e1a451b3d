"""The embedded provider: its capabilities, its checks of requests, and the shared engine."""

from __future__ import annotations

import asyncio
import dataclasses
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import ValidationError

from natterjack.errors import problem_text
from natterjack.plugin.errors import PluginError, RequestRefused, Unavailable
from natterjack.plugin.provider import (
    Capabilities,
    Notice,
    Provider,
    ProviderStream,
    StreamRequest,
)

from . import models
from .settings import PER_STREAM, SherpaSettings

if TYPE_CHECKING:  # the engine and numpy are loaded with the first stream
    from .engine import Engine
    from .transcriber import Transcriber


class SherpaProvider(Provider):
    """sherpa-onnx in this process: offline, without a key, free of charge."""

    name = "sherpa"
    Settings = SherpaSettings
    capabilities: Capabilities = Capabilities(
        encodings=("linear16",),
        sample_rates=(16_000,),
        max_channels=1,
        words="estimated",
        confidences=False,
        turns=True,
        finalize=True,
        answers_silence=True,
        catch_up_rate=4,
        price_per_hour=0.0,
        billing="none",
    )
    _LANGUAGE_HINT: ClassVar[str] = (
        "the bundled model supports English only; set SHERPA_MODEL_DIR to use another model"
    )

    def __init__(self, settings: SherpaSettings) -> None:
        """Raises: PluginError if a file of the model is missing, or its type cannot be
        determined."""
        self.settings = settings
        if settings.model_dir is None:
            if settings.language is not None and _primary(settings.language) != "en":
                raise PluginError(f"SHERPA_LANGUAGE={settings.language}: {self._LANGUAGE_HINT}")
            self.files = models.bundled()
        else:
            self.files = models.in_directory(
                settings.model_dir, settings.model_type, settings.language
            )
        models.silero()
        self.capabilities = dataclasses.replace(
            type(self).capabilities,
            interims=settings.interim_seconds > 0,
            words="timed" if self.files.timed else "estimated",
            # Without interims, no message is sent during a long stretch of speech.
            answers_silence=settings.interim_seconds > 0,
            catch_up_rate=settings.catch_up_rate,
        )
        self._executor = ThreadPoolExecutor(settings.threads, thread_name_prefix="sherpa")
        self._engine: Future[Engine] | None = None
        self._closed = False

    async def open(self, request: StreamRequest) -> ProviderStream:
        settings = self._validated(request)
        if self._closed:
            raise Unavailable(self.name, "connect", "the provider is closed")
        if self._engine is None or _failed(self._engine):
            self._engine = self._executor.submit(_load, self.files)
        loading = asyncio.wrap_future(self._engine)
        await asyncio.wait(
            {loading}
        )  # not awaited directly: other streams may wait for the same engine
        try:
            engine = loading.result()
            loop = asyncio.get_running_loop()
            transcriber = await loop.run_in_executor(self._executor, _transcriber, engine, settings)
        except PluginError as error:
            raise RequestRefused(self.name, "request", str(error)) from error
        except RuntimeError as error:  # out of memory, or the provider was closed meanwhile
            raise Unavailable(
                self.name, "server_error", f"cannot open a stream: {error}"
            ) from error
        from .stream import SherpaStream

        return SherpaStream(self.name, transcriber, self._executor, _notices(request))

    async def close(self) -> None:
        """Start no more work. Decoding that is under way finishes in its threads."""
        self._closed = True
        self._executor.shutdown(wait=False, cancel_futures=True)
        if self._engine is not None and self._engine.done() and not _failed(self._engine):
            self._engine.result().close()

    def _validated(self, request: StreamRequest) -> SherpaSettings:
        """Check the request; return the settings of its stream. Raises: RequestRefused."""
        if tuple(request.format) != ("linear16", 16_000, 1):
            raise self._refusal(f"audio must be 16 kHz mono linear16, not {request.format}")
        spoken = self.files.language
        if request.language and spoken and _primary(request.language) != _primary(spoken):
            bundled = self.settings.model_dir is None
            hint = self._LANGUAGE_HINT if bundled else f"SHERPA_LANGUAGE is {spoken}"
            raise self._refusal(f"language {request.language!r}: {hint}")
        if request.model not in (None, self.files.name):
            raise self._refusal(f"model {request.model!r}: only {self.files.name!r} is loaded")
        unknown = sorted(set(request.options) - PER_STREAM)
        if unknown:
            raise self._refusal(
                f"unknown option {', '.join(map(repr, unknown))}; options are "
                f"{', '.join(sorted(PER_STREAM))}"
            )
        try:
            # All fields are given, so the environment is not read again.
            return SherpaSettings(**{**self.settings.model_dump(), **request.options})
        except ValidationError as error:
            problem = error.errors(include_url=False, include_input=False)[0]
            raise self._refusal(f"option {problem['loc'][0]}: {problem_text(problem)}") from None

    def _refusal(self, message: str) -> RequestRefused:
        return RequestRefused(self.name, "request", message)


def _failed(engine: Future[Engine]) -> bool:
    return engine.done() and (engine.cancelled() or engine.exception() is not None)


def _load(files: models.ModelFiles) -> Engine:
    """Load the engine; runs in a thread. Raises: PluginError."""
    try:
        from .engine import Engine
    except ImportError as error:
        raise PluginError(f"sherpa: cannot import the engine: {error}; {models.INSTALL}") from (
            error
        )
    return Engine(files)


def _transcriber(engine: Engine, settings: SherpaSettings) -> Transcriber:
    """Create a transcriber; runs in a thread, since loading voice activity detection takes 50
    ms."""
    from .transcriber import Transcriber

    return Transcriber(engine, settings)


def _primary(language: str) -> str:
    """The primary subtag of a language tag (BCP 47): `en` for `en-US`."""
    return language.replace("_", "-").partition("-")[0].lower()


def _notices(request: StreamRequest) -> list[Any]:
    if not request.keyterms:
        return []
    return [Notice("ignored", "keyterms: not supported by this engine")]
