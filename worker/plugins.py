"""Provider plugins: found by entry point, loaded by name, one at a time."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType

from natterjack.errors import NatterjackError
from natterjack.plugin_list import GROUP
from natterjack.settings import load

from .breaker import Breaker
from .errors import PluginError, ProviderError, RequestRefused, Unavailable
from .provider import Provider
from .settings import WorkerSettings

log = logging.getLogger(__name__)

_CLOSE_S = 5.0


@cache
def available() -> dict[str, EntryPoint]:
    """Entry points of all installed providers by name; none is imported. Looked up
    once a process: it reads the metadata of every installed package."""
    return {point.name: point for point in sorted(entry_points(group=GROUP), key=lambda p: p.name)}


def load_class(name: str) -> type[Provider]:
    """The class of provider `name`. Raises PluginError with package, version and cause."""
    points = available()
    if name not in points:
        raise PluginError(
            f"unknown provider {name!r}: installed are {', '.join(points) or 'none'} "
            "(WORKER_PROVIDER, or `provider` in the session's request)"
        )
    point = points[name]
    try:
        found = point.load()
    except Exception as error:  # a stranger's package may fail in any way
        package = f"{point.dist.name} {point.dist.version}" if point.dist else point.value
        raise PluginError(f"provider {name!r} of {package} cannot be loaded: {error!r}") from error
    if not (isinstance(found, type) and issubclass(found, Provider)):
        raise PluginError(f"provider {name!r}: {point.value} is not a worker.provider.Provider")
    return found


class Providers:
    """The providers in use by this process, each made once, at its first session; and the breaker
    of each, which all sessions share."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._made: dict[str, Provider] = {}
        self.breakers: dict[str, Breaker] = {}

    @property
    def made(self) -> Mapping[str, Provider]:
        """Those in use so far, by name; it grows as sessions ask for others."""
        return MappingProxyType(self._made)

    def breaker(self, name: str) -> Breaker:
        """The breaker of provider `name`."""
        breaker = self.breakers.get(name)
        if breaker is None:
            settings = self._settings
            breaker = Breaker(
                settings.breaker_failures,
                settings.breaker_seconds,
                settings.breaker_max_seconds,
            )
            if name in available():  # requests may name anything
                self.breakers[name] = breaker
        return breaker

    def told(self, name: str, cause: str, seconds: float) -> None:
        """Another worker says that the account of provider `name` refuses everybody."""
        message = "another worker was refused"
        fault: ProviderError
        if cause == "credit":
            fault = RequestRefused(name, "credit", message)
        else:
            fault = Unavailable(name, "rate_limit", message)
        self.breaker(name).hear(fault, time.monotonic(), seconds)

    def get(self, name: str) -> Provider:
        """Provider `name`, made now if need be. Raises PluginError (unknown, key missing, ...)."""
        provider = self._made.get(name)
        if provider is None:
            found = load_class(name)
            try:
                provider = found(load(found.Settings))
            except PluginError:
                raise
            except NatterjackError as error:
                raise PluginError(f"provider {name!r}: {error}") from error
            self._made[name] = provider
        return provider

    async def close(self) -> None:
        """Close every provider made; one that takes long is left as it is. Idempotent."""
        while self._made:
            name, provider = self._made.popitem()
            try:
                async with asyncio.timeout(_CLOSE_S):
                    await provider.close()
            except TimeoutError:
                log.warning("provider %s does not close", name)
