"""The boundary between the worker and a plugin, which may fail in any way.

Whatever a plugin raises leaves this module as a ProviderError, so that a fault of a plugin ends a
stream and not a session or the worker. What a plugin returns is checked here once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from natterjack.plugin.errors import PluginError, PluginFault, ProviderError, RequestRefused
from natterjack.plugin.provider import (
    Balance,
    Capabilities,
    Provider,
    ProviderEvent,
    ProviderStream,
    StreamRequest,
)
from natterjack.telemetry.log import fields

log = logging.getLogger(__name__)

_CLOSE_SECONDS = 5.0
"""After this long, a session no longer waits for the close of a stream."""


class GuardedProvider(Provider):
    """A plugin's provider. `open` raises nothing but ProviderError, and `close` nothing."""

    def __init__(self, name: str, plugin: Provider) -> None:
        """`name` is the name of the entry point. Raises PluginError if the plugin has no
        capabilities."""
        capabilities = getattr(plugin, "capabilities", None)
        if not isinstance(capabilities, Capabilities):
            raise PluginError(f"provider {name!r} has no capabilities but {capabilities!r}")
        self.name = name  # type: ignore[misc]  # the plugin's own may differ from the entry point's
        self.plugin = plugin
        self.capabilities = capabilities
        self._warned = False

    @property
    def balance_seconds(self) -> float:  # type: ignore[override]  # it may change with settings
        try:
            return float(self.plugin.balance_seconds)
        except Exception as error:  # noqa: BLE001 - a plugin may fail in any way
            if not self._warned:  # it is read every second
                self._warned = True
                _fault(self.name, "balance_seconds", error)
            return 0.0

    async def open(self, request: StreamRequest) -> ProviderStream:
        with mapped(self.name, "open"):
            stream = await self.plugin.open(request)
        if not isinstance(stream, ProviderStream):
            raise PluginFault(self.name, f"open returned {_kind(stream)}, not a ProviderStream")
        return GuardedStream(self.name, stream)

    async def balance(self) -> list[Balance]:
        return await self.plugin.balance()  # its only caller expects any error

    async def close(self) -> None:
        with logged(self.name, "close"):
            await self.plugin.close()


class GuardedStream(ProviderStream):
    """A plugin's stream."""

    def __init__(self, name: str, stream: ProviderStream) -> None:
        self.name = name
        self.plugin = stream
        self._warned = False

    @property
    def reference(self) -> str | None:  # type: ignore[override]
        with logged(self.name, "reference"):
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
                _fault(self.name, "used_seconds", error)
            return None

    async def send(self, audio: bytes) -> None:
        with mapped(self.name, "send"):
            await self.plugin.send(audio)

    def send_nowait(self, audio: bytes) -> bool:
        # Called for each chunk: no context manager.
        try:
            sent = self.plugin.send_nowait(audio)
        except ProviderError:
            raise
        except Exception as error:  # a plugin may fail in any way
            raise _translated(self.name, "send_nowait", error) from error
        if sent is True or sent is False:
            return sent
        # Anything else cannot be trusted: sending the audio again might double it.
        raise PluginFault(self.name, f"send_nowait returned {_kind(sent)}, not a bool")

    async def finish(self) -> None:
        with mapped(self.name, "finish"):
            await self.plugin.finish()

    async def finalize(self) -> None:
        with mapped(self.name, "finalize"):
            await self.plugin.finalize()

    async def configure(self, changes: Mapping[str, Any]) -> None:
        with mapped(self.name, "configure"):
            await self.plugin.configure(changes)

    def __aiter__(self) -> AsyncIterator[ProviderEvent]:
        with mapped(self.name, "__aiter__"):
            return _Events(self.name, self.plugin.__aiter__())

    async def close(self) -> None:
        with logged(self.name, "close of a stream"):
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self.plugin.close()


class _Events(AsyncIterator[ProviderEvent]):
    """The events of a plugin's stream."""

    def __init__(self, name: str, events: AsyncIterator[ProviderEvent]) -> None:
        self._name = name
        self._next = events.__anext__

    async def __anext__(self) -> ProviderEvent:
        try:
            event = await self._next()
        except (ProviderError, StopAsyncIteration):
            raise
        except (Exception, asyncio.CancelledError) as error:
            if _is_cancelled(error):
                raise
            raise _translated(self._name, "iteration", error) from error
        if isinstance(event, ProviderEvent):
            return event
        raise PluginFault(self._name, f"iteration returned {_kind(event)}, not an event")


@contextmanager
def mapped(name: str, what: str) -> Iterator[None]:
    """Raise a PluginError as RequestRefused, and other errors that are not ProviderError as
    PluginFault, with a traceback in the log."""
    try:
        yield
    except ProviderError:
        raise
    except (Exception, asyncio.CancelledError) as error:
        if _is_cancelled(error):
            raise
        raise _translated(name, what, error) from error


@contextmanager
def logged(name: str, what: str) -> Iterator[None]:
    """Log errors instead of raising them: nothing can be done about them."""
    try:
        yield
    except (Exception, asyncio.CancelledError) as error:
        if _is_cancelled(error):
            raise
        _fault(name, what, error)


def _is_cancelled(error: BaseException) -> bool:
    """Whether the current task is being cancelled. If it is not, a CancelledError comes from a task
    or a future of the plugin; it would end the session's task without a trace."""
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0


def _translated(name: str, what: str, error: BaseException) -> ProviderError:
    if isinstance(error, PluginError):  # its text is for people, and a retry would not help
        return RequestRefused(name, "request", str(error))
    return _fault(name, what, error)


def _fault(name: str, what: str, error: BaseException) -> PluginFault:
    # The fault is published to subscribers, and the text of an unknown error may show a key or an
    # address: it goes to the log only. Not its representation: those of HTTP clients' errors show
    # headers with keys.
    message = f"the plugin raised {type(error).__name__} in {what}"
    log.error("%s: %s", message, error, exc_info=error, extra=fields(provider=name))
    return PluginFault(name, message)


def _kind(value: object) -> str:
    return "None" if value is None else f"a {type(value).__name__}"
