"""Loading of plugins, of providers and of voices: found by entry point and loaded by name, one at a
time."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Final, Generic, TypeVar

from pydantic_settings import BaseSettings

from natterjack.errors import NatterjackError
from natterjack.plugin.entry_points import GROUP, VOICES_GROUP, available
from natterjack.plugin.errors import PluginError, ProviderError, RequestRefused, Unavailable
from natterjack.plugin.provider import Provider
from natterjack.plugin.voice import Voice
from natterjack.process.variables import Unknown, unknown_variables
from natterjack.process.waiting import timeout_of_others
from natterjack.settings import load, variables
from natterjack.telemetry.log import fields
from worker.settings import WorkerSettings

from .boundary import GuardedPlugin, GuardedProvider, GuardedVoice
from .breaker import Breaker

G = TypeVar("G", bound=GuardedPlugin)

log = logging.getLogger(__name__)

_CLOSE_SECONDS: Final = 5.0
_POLL_SECONDS: Final = 1.0
"""Interval between checks of the files of WORKER_SECRETS_DIR."""

FileStamps = frozenset[tuple[str, int, int, int]]
"""Name, inode, time of change and size of each file. Kubernetes replaces the files of a mounted
secret by replacing the directory that they link to, so the inode changes."""


def _stamp(directory: Path) -> FileStamps:
    """Return the stamps of the visible files. Raises OSError."""
    found = set()
    for path in directory.iterdir():
        if not path.name.startswith("."):
            status = path.stat()
            found.add((path.name, status.st_ino, status.st_mtime_ns, status.st_size))
    return frozenset(found)


def load_class(name: str) -> type[Provider]:
    """Load the class of provider `name`.

    Raises PluginError if there is no such provider, or if it cannot be loaded; the message then
    names the package, its version and the cause.
    """
    where = "(WORKER_PROVIDER, or `provider` in the session's request)"
    found: type[Provider] = _load(name, GROUP, Provider, "provider", where)
    return found


def load_voice_class(name: str) -> type[Voice]:
    """As `load_class`, for a voice."""
    where = "(WORKER_VOICE, or `voice` in the session's request)"
    found: type[Voice] = _load(name, VOICES_GROUP, Voice, "voice", where)
    return found


def _load(name: str, group: str, base: type[Any], kind: str, where: str) -> Any:
    points = available(group)
    if name not in points:
        raise PluginError(
            f"unknown {kind} {name!r}: installed are {', '.join(points) or 'none'} {where}"
        )
    point = points[name]
    package = f"{point.dist.name} {point.dist.version}" if point.dist else point.value
    try:
        loaded = point.load()
    except Exception as error:  # importing a plugin may fail in any way
        raise PluginError(f"{kind} {name!r} of {package} cannot be loaded: {error!r}") from error
    if not (isinstance(loaded, type) and issubclass(loaded, base)):
        raise PluginError(
            f"{kind} {name!r} of {package}: {point.value} is not a natterjack.plugin."
            f"{base.__name__}"
        )
    return loaded


def _settings_models(wanted: Callable[[str], bool]) -> list[type[BaseSettings]]:
    """The settings of the providers and voices whose name is wanted, as far as they can be loaded:
    `Plugins.get` raises the error if one is used."""
    models: list[type[BaseSettings]] = []
    for group, load_one in ((GROUP, load_class), (VOICES_GROUP, load_voice_class)):
        for name in filter(wanted, available(group)):
            with contextlib.suppress(PluginError):
                models.append(load_one(name).Settings)
    return models


class Plugins(ABC, Generic[G]):
    """The providers of one kind that this process uses, and the breaker of each; all sessions share
    them.

    A provider is made at its first session. It is made again when its files in WORKER_SECRETS_DIR
    change; open streams continue on the provider that it replaces, which is closed at the end.
    """

    kind: ClassVar[str]
    """The kind's name in errors and logs, e.g. "provider"."""
    group: ClassVar[str]
    """The entry-point group in which they are registered."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._made: dict[str, G] = {}
        self._made_from: dict[str, BaseSettings] = {}
        self._replaced: list[G] = []
        self._stamps: FileStamps | None = None
        """Stamps of the files that the providers were made from; None if some could not be."""
        self._problem = ""
        """The last problem with the files that was logged."""
        self._logged: dict[str, str] = {}
        """The last error of each provider's constructor that was logged."""
        self.breakers: dict[str, Breaker] = {}
        if settings.secrets_dir is not None:
            self._stamps = _stamp(settings.secrets_dir)

    @abstractmethod
    def load_class(self, name: str) -> Any:
        """The class of a plugin. Raises PluginError."""

    @abstractmethod
    def guarded(self, name: str, plugin: Any) -> G:
        """The plugin behind the worker's guard. Raises PluginError."""

    def known(self, name: str) -> bool:
        """Whether a plugin of this name is installed."""
        return name in available(self.group)

    @property
    def made(self) -> Mapping[str, G]:
        """The providers made so far, by name; it grows as sessions ask for others."""
        return MappingProxyType(self._made)

    def breaker(self, name: str) -> Breaker:
        """Return the breaker of provider `name`."""
        breaker = self.breakers.get(name)
        if breaker is None:
            breaker = self._new_breaker()
            if self.known(name):  # a request may contain any name
                self.breakers[name] = breaker
        return breaker

    def _new_breaker(self) -> Breaker:
        settings = self._settings
        return Breaker(
            settings.breaker_failures, settings.breaker_seconds, settings.breaker_max_seconds
        )

    def refused_elsewhere(self, name: str, cause: str, seconds: float) -> None:
        """Open the breaker of provider `name`: another worker reports that the provider refuses
        the account with `cause`, `credit` or `rate_limit`."""
        message = "another worker was refused"
        fault: ProviderError
        if cause == "credit":
            fault = RequestRefused(name, "credit", message)
        else:
            fault = Unavailable(name, "rate_limit", message)
        self.breaker(name).refused_elsewhere(fault, time.monotonic(), seconds)

    def get(self, name: str) -> G:
        """Return provider `name`, and make it first if necessary.

        Raises PluginError if it is unknown or cannot be made.
        """
        provider = self._made.get(name)
        if provider is None:
            provider = self._make(name)
            assert provider is not None
        return provider

    def _make(self, name: str) -> G | None:
        """Make provider `name`; None if its settings have not changed. Raises PluginError."""
        plugin = self.load_class(name)
        try:
            settings = load(plugin.Settings, secrets_dir=self._settings.secrets_dir)
            if settings == self._made_from.get(name):
                return None
            provider = self.guarded(name, plugin(settings))
        except PluginError:
            raise
        except NatterjackError as error:
            raise PluginError(f"{self.kind} {name!r}: {error}") from error
        except Exception as error:  # a plugin may fail in any way
            # The PluginError is published to subscribers; the text of
            # an unknown error goes to the log only, once, since files are tried every second.
            if str(error) != self._logged.get(name):
                self._logged[name] = str(error)
                log.exception("a %s cannot be made", self.kind, extra=fields(provider=name))
            what = f"{type(error).__name__}; the worker's log has the traceback"
            raise PluginError(f"{self.kind} {name!r} cannot be made: {what}") from error
        self._logged.pop(name, None)
        self._made[name], self._made_from[name] = provider, settings
        return provider

    def unknown_variables(self, names: Iterable[str]) -> list[Unknown]:
        """Return variables and files that resemble settings of these providers but are not.

        Providers of one vendor, for example `deepgram` and `deepgram-flux`, share a prefix. Those
        that are not named are loaded, which takes a while, only if one of them may have a variable
        that is there.
        """
        used = set(names)
        vendors = {name.partition("-")[0] for name in used}
        models = _settings_models(lambda name: name in used)
        known = {variable for model in models for variable in variables(model)}
        prefixes = (
            *(f"{vendor.upper()}_" for vendor in vendors),
            *(str(model.model_config.get("env_prefix", "")) for model in models),
        )
        files = dict.fromkeys((stamp[0] for stamp in self._stamps or ()), "")
        environment = {**files, **os.environ}
        given = {name.upper() for name in environment}
        if not any(name.startswith(prefixes) for name in given - known):
            return []
        models = _settings_models(lambda name: name.partition("-")[0] in vendors)
        return unknown_variables(environment, models)

    async def watch(self) -> None:
        """Call `look` each second, until cancelled. Returns at once without WORKER_SECRETS_DIR."""
        while self._settings.secrets_dir is not None:
            await asyncio.sleep(_POLL_SECONDS)
            self.look(self._settings.secrets_dir)

    def look(self, directory: Path) -> None:
        """Make the providers whose files have changed again.

        If the files cannot be used, that is logged once, and the current provider serves on.
        """
        problems = []
        try:
            stamps = _stamp(directory)
        except OSError as error:  # the directory may be replaced at this moment
            stamps = None
            problems.append(str(error))
        if stamps is not None and stamps == self._stamps:
            return
        self._stamps = None
        for name in list(self._made):
            try:
                self._make_again(name)
            except PluginError as error:
                problems.append(str(error))
        if not problems:
            self._stamps = stamps
        problem = "; ".join(problems)
        if problem and problem != self._problem:
            log.error("a change in WORKER_SECRETS_DIR cannot be used: %s", problem)
        self._problem = problem

    def _make_again(self, name: str) -> None:
        """Replace a provider if its settings have changed. Raises PluginError, and then nothing
        has changed."""
        replaced = self._made[name]
        if self._make(name) is not None:
            self._replaced.append(replaced)
            if name in self.breakers:
                self.breakers[name] = self._new_breaker()  # refusals were of the former key
            log.info("%s reloaded from changed files", self.kind, extra=fields(provider=name))

    async def close(self) -> None:
        """Close every provider, each within five seconds. Idempotent."""
        providers = [*self._made.values(), *self._replaced]
        self._made.clear()
        self._made_from.clear()
        self._replaced.clear()
        for provider in providers:
            try:
                async with timeout_of_others(_CLOSE_SECONDS):
                    await provider.close()
            except TimeoutError:
                log.warning("%s %s does not close", self.kind, provider.name)


class Providers(Plugins[GuardedProvider]):
    """The transcription providers that this process uses."""

    kind = "provider"
    group = GROUP

    def __init__(self, settings: WorkerSettings) -> None:
        super().__init__(settings)
        for name in sorted({stamp[0].upper() for stamp in self._stamps or ()} & set(os.environ)):
            log.warning(
                "%s is in the environment, which wins over its file in %s: changes of the file "
                "will not be seen", name, settings.secrets_dir,
            )  # fmt: skip

    def load_class(self, name: str) -> type[Provider]:
        return load_class(name)

    def guarded(self, name: str, plugin: Provider) -> GuardedProvider:
        return GuardedProvider(name, plugin)


class Voices(Plugins[GuardedVoice]):
    """The voices that this process uses."""

    kind = "voice"
    group = VOICES_GROUP

    def load_class(self, name: str) -> type[Voice]:
        return load_voice_class(name)

    def guarded(self, name: str, plugin: Voice) -> GuardedVoice:
        return GuardedVoice(name, plugin)
