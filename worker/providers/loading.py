"""Provider plugins: found by entry point, loaded by name, one at a time."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from pydantic_settings import BaseSettings

from natterjack.errors import NatterjackError
from natterjack.plugin.entry_points import available
from natterjack.plugin.errors import PluginError, ProviderError, RequestRefused, Unavailable
from natterjack.plugin.provider import Provider
from natterjack.settings import load
from natterjack.telemetry.log import fields
from worker.settings import WorkerSettings

from .breaker import Breaker

log = logging.getLogger(__name__)

_CLOSE_S = 5.0
_LOOK_S: Final = 1.0
"""How often it is looked whether a file of WORKER_SECRETS_DIR has changed."""

Stamps = frozenset[tuple[str, int, int, int]]
"""Of files: name, inode, time of change, size. Kubernetes exchanges the directory behind them."""


def _stamps(directory: Path) -> Stamps:
    """Raises OSError."""
    found = set()
    for path in directory.iterdir():
        if not path.name.startswith("."):
            status = path.stat()
            found.add((path.name, status.st_ino, status.st_mtime_ns, status.st_size))
    return frozenset(found)


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
        raise PluginError(f"provider {name!r}: {point.value} is not a natterjack.plugin.Provider")
    return found


class Providers:
    """The providers in use by this process, each made once, at its first session; and the breaker
    of each, which all sessions share.

    One whose files in WORKER_SECRETS_DIR change is made anew. Streams of the former one go on;
    it is closed at the end, with all others: it holds nothing but them.
    """

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._made: dict[str, Provider] = {}
        self._made_from: dict[str, BaseSettings] = {}
        self._former: list[Provider] = []
        self._stamps: Stamps | None = None
        """Of the files that the providers were made from; None: not all could be."""
        self._complaint = ""
        self.breakers: dict[str, Breaker] = {}
        if settings.secrets_dir is not None:
            self._stamps = _stamps(settings.secrets_dir)
            for name in sorted({stamp[0].upper() for stamp in self._stamps} & set(os.environ)):
                log.warning(
                    "%s is in the environment, which wins over its file in %s: changes of the file "
                    "will not be seen", name, settings.secrets_dir,
                )  # fmt: skip

    @property
    def made(self) -> Mapping[str, Provider]:
        """Those in use so far, by name; it grows as sessions ask for others."""
        return MappingProxyType(self._made)

    def breaker(self, name: str) -> Breaker:
        """The breaker of provider `name`."""
        breaker = self.breakers.get(name)
        if breaker is None:
            breaker = self._new_breaker()
            if name in available():  # requests may name anything
                self.breakers[name] = breaker
        return breaker

    def _new_breaker(self) -> Breaker:
        settings = self._settings
        return Breaker(
            settings.breaker_failures, settings.breaker_seconds, settings.breaker_max_seconds
        )

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
            provider = self._make(name)
            assert provider is not None
        return provider

    def _make(self, name: str) -> Provider | None:
        """Make the provider; None if it would be what it is. Raises PluginError."""
        found = load_class(name)
        try:
            settings = load(found.Settings, secrets_dir=self._settings.secrets_dir)
            if settings == self._made_from.get(name):
                return None
            provider = found(settings)
        except PluginError:
            raise
        except NatterjackError as error:
            raise PluginError(f"provider {name!r}: {error}") from error
        self._made[name], self._made_from[name] = provider, settings
        return provider

    async def watch(self) -> None:
        """Until cancelled: `look`, each second. Returns at once without WORKER_SECRETS_DIR."""
        while self._settings.secrets_dir is not None:
            await asyncio.sleep(_LOOK_S)
            self.look(self._settings.secrets_dir)

    def look(self, directory: Path) -> None:
        """Make anew the providers whose files have changed. What cannot be used is said once, and
        the former provider serves on until it can."""
        problems = []
        try:
            stamps = _stamps(directory)
        except OSError as error:  # it may be amid being exchanged
            stamps = None
            problems.append(str(error))
        if stamps is not None and stamps == self._stamps:
            return
        self._stamps = None
        for name in list(self._made):
            try:
                self._renew(name)
            except Exception as error:  # noqa: BLE001 - a stranger's plugin may fail in any way
                problems.append(str(error) or repr(error))
        if not problems:
            self._stamps = stamps
        complaint = "; ".join(problems)
        if complaint and complaint != self._complaint:
            log.error("a change in WORKER_SECRETS_DIR cannot be used: %s", complaint)
        self._complaint = complaint

    def _renew(self, name: str) -> None:
        """Raises what making it does; all is then as it was."""
        former = self._made[name]
        if self._make(name) is not None:
            self._former.append(former)
            if name in self.breakers:
                self.breakers[name] = self._new_breaker()  # whatever was refused had other keys
            log.info("provider made anew from changed files", extra=fields(provider=name))

    async def close(self) -> None:
        """Close every provider made; one that takes long is left as it is. Idempotent."""
        providers = [*self._made.values(), *self._former]
        self._made.clear()
        self._made_from.clear()
        self._former.clear()
        for provider in providers:
            try:
                async with asyncio.timeout(_CLOSE_S):
                    await provider.close()
            except TimeoutError:
                log.warning("provider %s does not close", provider.name)
