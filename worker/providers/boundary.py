"""The boundary between the worker and a plugin, which may fail in any way.

Whatever a plugin raises leaves this module as a ProviderError, so that a fault of a plugin ends a
stream and not a session or the worker. What a plugin returns is checked here once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Generic, NoReturn, TypeVar, get_args

from natterjack.plugin.base import Balance, Plugin
from natterjack.plugin.errors import (
    PluginError,
    PluginFault,
    ProviderError,
    RefusedCause,
    RequestRefused,
    StalledCause,
    UnavailableCause,
)
from natterjack.plugin.provider import (
    Capabilities,
    Provider,
    ProviderEvent,
    ProviderStream,
    StreamRequest,
)
from natterjack.plugin.voice import (
    Voice,
    VoiceCapabilities,
    VoiceStream,
    VoiceStreamEvent,
    VoiceStreamRequest,
)
from natterjack.process.waiting import timeout_of_others
from natterjack.telemetry.log import fields

from .cleaning import text_of as clean

log = logging.getLogger(__name__)

_CAUSES = frozenset(
    cause
    for kind in (RefusedCause, UnavailableCause, StalledCause)
    for cause in get_args(kind)
) | {"dropped", "protocol", "plugin"}  # fmt: skip
_MAX_TEXT = 500
"""The longest text of an error, in characters. A session that is held publishes it every second."""
_CLOSE_SECONDS = 5.0
"""After this long, a session no longer waits for the close of a stream."""


class GuardedPlugin(Plugin):
    """A plugin of either kind. `close` raises nothing."""

    plugin: Plugin

    def _guard(self, name: str, plugin: Plugin) -> None:
        self.name = name  # type: ignore[misc]  # the plugin's own may differ from the entry point's
        self.plugin = plugin
        self._faults = Faults(name)
        self._warned = False

    @property
    def balance_seconds(self) -> float:  # type: ignore[override]  # it may change with settings
        try:
            return float(self.plugin.balance_seconds)
        except Exception as error:  # noqa: BLE001 - a plugin may fail in any way
            if not self._warned:  # it is read every second
                self._warned = True
                self._faults.fault("balance_seconds", error)
            return 0.0

    async def balance(self) -> list[Balance]:
        return await self.plugin.balance()  # its only caller expects any error

    async def close(self) -> None:
        with self._faults.logged("close"):
            await self.plugin.close()


class GuardedProvider(GuardedPlugin, Provider):
    """A plugin's provider. `open` raises nothing but ProviderError."""

    plugin: Provider

    def __init__(self, name: str, plugin: Provider) -> None:
        """`name` is the name of the entry point. Raises PluginError if the plugin has no
        capabilities."""
        capabilities = getattr(plugin, "capabilities", None)
        if not isinstance(capabilities, Capabilities):
            raise PluginError(f"provider {name!r} has no capabilities but {capabilities!r}")
        self._guard(name, plugin)
        self.capabilities = capabilities

    async def open(self, request: StreamRequest) -> ProviderStream:
        with self._faults.mapped("open"):
            stream = await self.plugin.open(request)
        if not isinstance(stream, ProviderStream):
            raise PluginFault(self.name, f"open returned {_kind(stream)}, not a ProviderStream")
        return GuardedStream(self._faults, stream)


class GuardedStream(ProviderStream):
    """A plugin's stream."""

    def __init__(self, faults: Faults, stream: ProviderStream) -> None:
        self.name = faults.provider
        self.plugin = stream
        self._faults = faults
        self._warned = False

    @property
    def reference(self) -> str | None:  # type: ignore[override]
        with self._faults.logged("reference"):
            return self.plugin.reference
        return None

    @property
    def used_seconds(self) -> float | None:  # type: ignore[override]
        try:
            used = self.plugin.used_seconds
            return None if used is None else float(used)
        except Exception as error:  # noqa: BLE001 - a plugin may fail in any way
            if not self._warned:  # it is read every second
                self._warned = True
                self._faults.fault("used_seconds", error)
            return None

    async def send(self, audio: bytes) -> None:
        with self._faults.mapped("send"):
            await self.plugin.send(audio)

    def send_nowait(self, audio: bytes) -> bool:
        # Called for each chunk: no context manager.
        try:
            sent = self.plugin.send_nowait(audio)
        except BaseException as error:  # noqa: BLE001 - a plugin may fail in any way
            self._faults.reraise("send_nowait", error)
        if sent is True or sent is False:
            return sent
        # Anything else cannot be trusted: sending the audio again might double it.
        raise PluginFault(self.name, f"send_nowait returned {_kind(sent)}, not a bool")

    async def finish(self) -> None:
        with self._faults.mapped("finish"):
            await self.plugin.finish()

    async def finalize(self) -> None:
        with self._faults.mapped("finalize"):
            await self.plugin.finalize()

    async def configure(self, changes: Mapping[str, Any]) -> None:
        with self._faults.mapped("configure"):
            await self.plugin.configure(changes)

    def __aiter__(self) -> AsyncIterator[ProviderEvent]:
        with self._faults.mapped("__aiter__"):
            return _Events(self._faults, self.plugin.__aiter__(), ProviderEvent)

    async def close(self) -> None:
        with self._faults.logged("close of a stream"):
            async with timeout_of_others(_CLOSE_SECONDS):
                await self.plugin.close()


E = TypeVar("E")


class _Events(AsyncIterator[E], Generic[E]):
    """The events of a plugin's stream."""

    def __init__(self, faults: Faults, events: AsyncIterator[E], kinds: Any) -> None:
        """`kinds` are the classes of events, as a class or a union."""
        self._faults = faults
        self._next = events.__anext__
        self._kinds = kinds

    async def __anext__(self) -> E:
        try:
            event = await self._next()
        except StopAsyncIteration:
            raise
        except BaseException as error:  # noqa: BLE001 - as above
            self._faults.reraise("iteration", error)
        if isinstance(event, self._kinds):
            return event
        raise PluginFault(self._faults.provider, f"iteration returned {_kind(event)}, not an event")


class GuardedVoice(GuardedPlugin, Voice):
    """A plugin's voice. `open` raises nothing but ProviderError."""

    plugin: Voice

    def __init__(self, name: str, plugin: Voice) -> None:
        """`name` is the name of the entry point. Raises PluginError if the plugin has no
        capabilities."""
        capabilities = getattr(plugin, "capabilities", None)
        if not isinstance(capabilities, VoiceCapabilities):
            raise PluginError(f"voice {name!r} has no capabilities but {capabilities!r}")
        self._guard(name, plugin)
        self.capabilities = capabilities

    async def open(self, request: VoiceStreamRequest) -> VoiceStream:
        with self._faults.mapped("open"):
            stream = await self.plugin.open(request)
        if not isinstance(stream, VoiceStream):
            raise PluginFault(self.name, f"open returned {_kind(stream)}, not a VoiceStream")
        return GuardedVoiceStream(self._faults, stream)


class GuardedVoiceStream(VoiceStream):
    """A stream of a plugin's voice."""

    def __init__(self, faults: Faults, stream: VoiceStream) -> None:
        self.plugin = stream
        self._faults = faults

    @property
    def reference(self) -> str | None:  # type: ignore[override]
        with self._faults.logged("reference"):
            return self.plugin.reference
        return None

    async def speak(self, text: str) -> None:
        with self._faults.mapped("speak"):
            await self.plugin.speak(text)

    async def flush(self) -> None:
        with self._faults.mapped("flush"):
            await self.plugin.flush()

    async def interrupt(self, played_seconds: float | None = None) -> None:
        with self._faults.mapped("interrupt"):
            await self.plugin.interrupt(played_seconds)

    async def finish(self) -> None:
        with self._faults.mapped("finish"):
            await self.plugin.finish()

    async def configure(self, changes: Mapping[str, Any]) -> None:
        with self._faults.mapped("configure"):
            await self.plugin.configure(changes)

    def __aiter__(self) -> AsyncIterator[VoiceStreamEvent]:
        with self._faults.mapped("__aiter__"):
            return _Events(self._faults, self.plugin.__aiter__(), VoiceStreamEvent)

    async def close(self) -> None:
        with self._faults.logged("close of a stream"):
            async with timeout_of_others(_CLOSE_SECONDS):
                await self.plugin.close()


class Faults:
    """Turns what one plugin raises into errors of its provider, and logs it."""

    def __init__(self, provider: str) -> None:
        self.provider = provider
        self._traced: set[tuple[str, type[BaseException]]] = set()
        """The errors whose traceback was logged."""

    @contextmanager
    def mapped(self, what: str) -> Iterator[None]:
        """Raise whatever the plugin raises in `what` as a ProviderError."""
        try:
            yield
        except BaseException as error:  # noqa: BLE001 - as above
            self.reraise(what, error)

    @contextmanager
    def logged(self, what: str) -> Iterator[None]:
        """Log errors instead of raising them: nothing can be done about them."""
        try:
            yield
        except BaseException as error:  # a plugin may raise anything
            if _is_ours(error):
                raise
            self.fault(what, error)

    def reraise(self, what: str, error: BaseException) -> NoReturn:
        """Raise a PluginError as RequestRefused, and any other error that is not a ProviderError as
        PluginFault."""
        if _is_ours(error):
            raise error
        if isinstance(error, ProviderError):
            self._make_publishable(error)
            raise error
        if isinstance(error, PluginError):  # its text is for people, and a retry would not help
            raise RequestRefused(self.provider, "request", _publishable(error)) from error
        raise self.fault(what, error) from error

    def fault(self, what: str, error: BaseException) -> PluginFault:
        """Log an error, with its traceback if it is a new one."""
        # The fault is published to subscribers, and the text of an unknown error may show a key or
        # an address: it goes to the log only. Not its representation: those of HTTP clients' errors
        # show headers with keys.
        message = f"the plugin raised {type(error).__name__} in {what}"
        key = (what, type(error))
        trace = None if key in self._traced else error
        self._traced.add(key)
        log.error(
            "%s: %s",
            message,
            clean(_text(error)),
            exc_info=trace,
            extra=fields(provider=self.provider),
        )
        return PluginFault(self.provider, message)

    def _make_publishable(self, error: ProviderError) -> None:
        """Give an error a cause that is one of those documented, and a text that can be published:
        it may quote a message that is long, or not valid Unicode."""
        if not isinstance(getattr(error, "provider", None), str):
            error.provider = self.provider
        cause = getattr(error, "cause", None)
        if not (isinstance(cause, str) and cause in _CAUSES):
            error.cause = "plugin"
        text = _publishable(error)
        if text != _text(error):
            error.args = (text,)


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as failure:  # noqa: BLE001 - a plugin's error may fail in any way
        return f"its text cannot be read: {type(failure).__name__}"


def _publishable(error: BaseException) -> str:
    text = clean(_text(error))
    return text if len(text) <= _MAX_TEXT else f"{text[:_MAX_TEXT]}…"


def _is_ours(error: BaseException) -> bool:
    """Whether an error is not the plugin's: the end of the process, or of the current task. A
    CancelledError in a task that is not being cancelled comes from a task or a future of the
    plugin; it would end the session's task without a trace. SystemExit would end the worker."""
    if isinstance(error, asyncio.CancelledError):
        task = asyncio.current_task()
        return task is not None and task.cancelling() > 0
    return isinstance(error, KeyboardInterrupt | GeneratorExit)


def _kind(value: object) -> str:
    return "None" if value is None else f"a {type(value).__name__}"
